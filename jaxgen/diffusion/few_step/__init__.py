"""Sampling in one step or a few: consistency, mean flows, distillation."""
