"""Evaluation of samples: distances of distributions, coverage, class agreement, memorization; in NumPy on the host."""
