"""The check of a range of noise levels, for schedules and for the levels that samplers step through."""


def check_range(sigma_min: float, sigma_max: float) -> None:
    """Refuses an empty range.

    Raises:
      ValueError: if not 0 < sigma_min < sigma_max.
    """
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(f"Noise levels must have 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}.")
