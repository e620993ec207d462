"""The network's input of the noise level: one number an image, in the scale that its lineage was trained with."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.process.schedules import Schedule

Scalars = Float[Array, " n"]
NoiseLabel = Callable[[Schedule, Scalars], Scalars]
"""(schedule, sigma) -> the network's `noise_label`."""


def timestep() -> NoiseLabel:
    """The (fractional) timestep, rescaled to [0, 1000) where there are not 1,000 of them (DDPM, iDDPM, ADM, DiT)."""

    def label(schedule: Schedule, sigma: Scalars) -> Scalars:
        steps = len(schedule.timesteps(by="The noise label timestep"))
        return schedule.time(sigma) * (steps - 1) * (1000.0 / steps)

    return label


def vp_time(*, beta_d: float = 19.9, beta_min: float = 0.1, scale: float = 999.0) -> NoiseLabel:
    """The variance-preserving SDE's time in [0, 1], scaled, whatever the schedule (Karras et al. 2022, table 1).

    Fourier features of it feel its last bit: the order of the operations is the official one.
    """
    return lambda schedule, sigma: (
        scale * ((jnp.sqrt(beta_min**2 + 2 * beta_d * jnp.log(1.0 + sigma**2)) - beta_min) / beta_d)
    )


def time(*, scale: float = 1000.0) -> NoiseLabel:
    """The schedule's time in [0, 1], scaled."""
    return lambda schedule, sigma: scale * schedule.time(sigma)


def flow_time(*, scale: float = 1000.0) -> NoiseLabel:
    """The linear path's t = sigma / (1 + sigma), scaled, whatever the schedule."""
    return lambda schedule, sigma: scale * sigma / (1.0 + sigma)


def log_sigma(*, scale: float = 0.25, divisor: float = 1.0) -> NoiseLabel:
    """A multiple of ln(sigma): ln(sigma) / 4 for EDM, ln(sigma / 2) for VE (Karras et al. 2022, table 1)."""
    return lambda schedule, sigma: scale * jnp.log(sigma / divisor)
