"""Training, sampling, evaluating and the rest, as functions of Python that neither print nor end the process."""
