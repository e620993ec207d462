"""How good samples are: distances between distributions, coverage, class agreement, memorization; NumPy on the host."""
