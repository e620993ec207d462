"""Noise schedules: noise level sigma, the ratio of noise to signal, as an increasing function of time in [0, 1].

Discrete schedules (DDPM, improved DDPM) are tables over T timesteps, kept in float64: x_t = sqrt(alpha_bar_t) x_0 +
sqrt(1 - alpha_bar_t) eps has sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t). The others are formulas.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from jaxgen.core.concrete import at_once
from jaxgen.diffusion.process.noise_range import check_range

Curve = Callable[[Float[Array, "*n"]], Float[Array, "*n"]]


class Schedule(NamedTuple):
    """A noise schedule.

    Attributes:
      sigma: noise level at times in [0, 1].
      time: the inverse of `sigma`; noise levels beyond the schedule's ends are taken for the ends.
      table: noise level of each timestep, of a discrete schedule: timestep t is time t / (T - 1).
    """

    sigma: Curve
    time: Curve
    table: Float64[np.ndarray, " t"] | None = None

    def timesteps(self, by: str) -> Float64[np.ndarray, " t"]:
        """The table, for what needs one.

        Raises:
          ValueError: if the schedule is not discrete; `by` says in the message what needed it.
        """
        if self.table is None:
            raise ValueError(f"{by} needs timesteps: use a discrete schedule, such as linear or cosine.")
        return self.table

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest noise level."""
        low, high = at_once(lambda: self.sigma(jnp.array([0.0, 1.0])))
        return float(low), float(high)


def linear(*, num_timesteps: int = 1000) -> Schedule:
    """Betas from 1e-4 to 0.02 over 1,000 steps (DDPM, section 4), scaled by 1,000 / T for other numbers of steps.

    Raises:
      ValueError: if there are so few steps (20 or less) that a beta would reach 1.
    """
    if num_timesteps <= 20:
        raise ValueError(f"The linear schedule needs more than 20 timesteps, not {num_timesteps}.")
    scale = 1000.0 / num_timesteps
    return _from_betas(np.linspace(scale * 1e-4, scale * 0.02, num_timesteps))


def cosine(*, num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Betas whose alpha_bar follows a squared cosine (Nichol and Dhariwal 2021, eq. 17)."""
    time = np.linspace(0.0, 1.0, num_timesteps + 1)
    alpha_bar = np.cos((time + offset) / (1.0 + offset) * np.pi / 2) ** 2
    return _from_betas(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def sigmoid(*, start: float = -3.0, end: float = 3.0, tau: float = 1.0, clip_min: float = 1e-9) -> Schedule:
    """An alpha_bar that falls from 1 to 0 along a sigmoid (Jabri et al. 2023, algorithm 4; Chen 2023)."""
    low, high = (1.0 / (1.0 + np.exp(-x / tau)) for x in (start, end))

    def sigma(time: Array) -> Array:
        alpha_bar = (high - jax.nn.sigmoid((time * (end - start) + start) / tau)) / (high - low)
        alpha_bar = jnp.clip(alpha_bar, clip_min, 1.0 - 1e-6)
        return jnp.sqrt((1.0 - alpha_bar) / alpha_bar)

    def time(sigma: Array) -> Array:
        level = high - (high - low) / (1.0 + sigma**2)
        return jnp.clip((tau * jax.scipy.special.logit(level) - start) / (end - start), 0.0, 1.0)

    return Schedule(sigma, time)


def vp(*, beta_d: float = 19.9, beta_min: float = 0.1, time_min: float = 1e-5) -> Schedule:
    """The variance-preserving SDE's (Song et al. 2021), in the notation of Karras et al. 2022, table 1."""

    def sigma(time: Array) -> Array:
        time = time_min + (1.0 - time_min) * time
        return jnp.sqrt(jnp.expm1(0.5 * beta_d * time**2 + beta_min * time))

    def time(sigma: Array) -> Array:
        root = jnp.sqrt(beta_min**2 + 2.0 * beta_d * jnp.log1p(sigma**2))
        return jnp.clip(((root - beta_min) / beta_d - time_min) / (1.0 - time_min), 0.0, 1.0)

    return Schedule(sigma, time)


def log_linear(*, sigma_min: float = 0.02, sigma_max: float = 100.0) -> Schedule:
    """A log-SNR linear in time: the variance-exploding SDE's (Song et al. 2021), and VDM's before it is learned.

    VDM (Kingma et al. 2021) runs from sigma_min = exp(-13.3 / 2) to sigma_max = exp(5 / 2).
    """
    check_range(sigma_min, sigma_max)
    low, width = np.log(sigma_min), np.log(sigma_max / sigma_min)
    return Schedule(
        lambda time: jnp.exp(low + width * time), lambda sigma: jnp.clip((jnp.log(sigma) - low) / width, 0.0, 1.0)
    )


def karras(*, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Powers of a line, sigma^(1/rho) linear in time (Karras et al. 2022, eq. 5)."""
    check_range(sigma_min, sigma_max)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return Schedule(
        lambda time: (low + (high - low) * time) ** rho,
        lambda sigma: jnp.clip((sigma ** (1.0 / rho) - low) / (high - low), 0.0, 1.0),
    )


def flow(*, shift: float = 1.0, time_min: float = 1e-5, time_max: float = 0.999) -> Schedule:
    """The linear path's sigma = t / (1 - t), shifted for the resolution.

    More pixels need more noise for the same loss of information: `shift` multiplies sigma, which is the shift of time
    of Esser et al. 2024 (eq. 23), and of log-SNR by -2 log(shift) of Hoogeboom et al. 2023.

    Args:
      shift: 1 for none; sqrt(m / n) takes a schedule made for n pixels to m.
      time_min: the least t, above 0 because weights that divide by sigma are infinite there; t is cut off at it.
      time_max: t at time 1, below 1 because sigma is infinite there.
    """
    if shift <= 0.0 or not 0.0 < time_min < time_max < 1.0:
        raise ValueError(
            f"flow takes shift > 0 and 0 < time_min < time_max < 1, not shift={shift}, time_min={time_min} and "
            f"time_max={time_max}."
        )

    def sigma(time: Array) -> Array:
        return jnp.maximum(shift * time_max * time / (1.0 - time_max * time), shift * time_min / (1.0 - time_min))

    def time(sigma: Array) -> Array:
        t = sigma / (shift + sigma)
        return jnp.where(t > time_min, jnp.minimum(t / time_max, 1.0), 0.0)

    return Schedule(sigma, time)


def _from_betas(betas: Float64[np.ndarray, " t"]) -> Schedule:
    if not np.all((betas > 0.0) & (betas < 1.0)):
        raise ValueError(f"Every beta must lie in (0, 1); these run from {betas.min():g} to {betas.max():g}.")
    alpha_bar = np.cumprod(1.0 - betas)
    return _from_table(np.sqrt((1.0 - alpha_bar) / alpha_bar))


def _from_table(table: Float64[np.ndarray, " t"]) -> Schedule:
    """Between timesteps, noise levels are log-linear."""
    times, logs = np.linspace(0.0, 1.0, len(table)), np.log(table)
    return Schedule(
        lambda time: jnp.exp(jnp.interp(time, times, logs)),
        lambda sigma: jnp.interp(jnp.log(sigma), logs, times),
        table,
    )
