"""Pieces of autoregressive models: distributions of an element of an image, and the loops that draw images."""
