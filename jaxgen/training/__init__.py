"""The training loop and what surrounds it: work directory, checkpoints, logs, interruptions. Knows no method."""
