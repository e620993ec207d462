"""Quantizers of feature maps by name: each maps vectors to codes, integers, and codes back to vectors."""
