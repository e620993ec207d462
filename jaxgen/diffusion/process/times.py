"""Distributions of the noise levels in training, as functions of one uniform number an example.

Because each is an inverse cumulative distribution, independent uniforms and evenly spread ones do for all of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from jaxgen.diffusion.process.schedules import Schedule

Scalars = Float[Array, " n"]
Times = Callable[[Schedule, Scalars], Scalars]
"""(schedule, uniforms in (0, 1)) -> noise levels."""


def uniform() -> Times:
    """Uniform time: each timestep of a discrete schedule with the same probability."""
    return _at_time


def log_normal(*, mean: float = -1.2, std: float = 1.2) -> Times:
    """Normal log sigma, whatever the schedule (Karras et al. 2022, table 1)."""
    return lambda schedule, u: jnp.exp(mean + std * ndtri(u))


def logit_normal(*, mean: float = 0.0, std: float = 1.0) -> Times:
    """Normal logit of time (Esser et al. 2024, section 3.1)."""
    return lambda schedule, u: _at_time(schedule, jax.nn.sigmoid(mean + std * ndtri(u)))


def _at_time(schedule: Schedule, time: Scalars) -> Scalars:
    """The noise level of times in [0, 1), at a discrete schedule's own levels."""
    if schedule.table is None:
        return schedule.sigma(time)
    table = jnp.asarray(schedule.table, jnp.float32)
    return table[jnp.clip((time * len(table)).astype(jnp.int32), 0, len(table) - 1)]
