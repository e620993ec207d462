"""Pieces of energy-based models: Langevin dynamics and persistent Markov chains."""
