"""Training, sampling, evaluation and the other commands, as Python functions that neither print nor end the process."""
