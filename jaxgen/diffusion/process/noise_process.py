"""A diffusion process: the noise that is added to an image, and the network's inputs, target and weights."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.core.concrete import at_once
from jaxgen.core.config import bind_text
from jaxgen.diffusion.process import algebra, assumptions, uniforms
from jaxgen.diffusion.process.algebra import Mixture, Scalars
from jaxgen.diffusion.process.noise_labels import NoiseLabel
from jaxgen.diffusion.process.parameterizations import Parameterization
from jaxgen.diffusion.process.paths import Path
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.times import Times
from jaxgen.diffusion.process.weightings import Weighting


class NoiseProcess(NamedTuple):
    """One piece of each kind.

    `sigma_data` is the standard deviation of the data that the pieces assume, all of them the same, or None if none of
    them assumes any.
    """

    path: Path
    parameterization: Parameterization
    schedule: Schedule
    noise_label: NoiseLabel
    times: Times
    weighting: Weighting
    sigma_data: float | None = None

    def mixture(self, sigma: Scalars) -> Mixture:
        """Returns the coefficients of the network's input and target at some noise levels."""
        return algebra.mixture(self.path, self.parameterization, sigma)

    def label(self, sigma: Scalars) -> Scalars:
        """Returns the noise labels, the network's input, of some noise levels."""
        return self.noise_label(self.schedule, sigma)

    def weight(self, sigma: Scalars) -> Scalars:
        """Returns the weight of the prediction's squared error at some noise levels."""
        return self.weighting(self.mixture(sigma), sigma)

    def uses_schedule(self, levels: Callable[[Schedule], np.ndarray]) -> bool:
        """Returns True if times of training, noise labels, or the `levels` of a schedule depend on the schedule."""

        def seen(schedule: Schedule) -> list[Scalars]:
            quantiles = jnp.array([0.25, 0.5, 0.75])
            return [self.times(schedule, quantiles), self.noise_label(schedule, self.schedule.sigma(quantiles))]

        schedules = (self.schedule, _shifted(self.schedule, 2.0))
        ours, others = at_once(lambda: [seen(schedule) for schedule in schedules])
        pairs = [*zip(ours, others, strict=True), tuple(map(levels, schedules))]
        return not all(np.array_equal(a, b) for a, b in pairs)

    @property
    def variance_preserving(self) -> bool:
        """True if sampling begins with x_T ~ N(0, I), in the network's scale."""
        alpha = float(at_once(lambda: self.path(jnp.float32(1.0))))
        return abs(alpha - 0.5**0.5) < 1e-6


@functools.cache
def make_process(
    *,
    path: str,
    parameterization: str,
    schedule: str,
    noise_label: str,
    times: str,
    weighting: str,
    shift: float = 1.0,
    where: str = "diffusion",
) -> NoiseProcess:
    """Finds each piece by its name, or call, in the module of its kind in `diffusion.process`, such as `paths`.

    Args:
      path: the scale of the network's noisy images.
      parameterization: the network's target.
      schedule: noise level by time.
      noise_label: the network's input of the noise level.
      times: the distribution of noise levels in training.
      weighting: of the squared error.
      shift: factor on the schedule's noise levels, for the resolution.
      where: the section of the config, for error messages.

    Raises:
      ValueError: if a name is unknown, or its values are wrong; says which there are. If two pieces assume different
        standard deviations of the data, or a weight is infinite at an end of the noise levels.
    """
    assumed = {}

    def piece(module: str, name: str, text: str) -> Any:
        found = bind_text(f"jaxgen.diffusion.process.{module}", text, where=f"{where}.{name}", later=())
        assumed[f"{where}.{name}={text}"] = assumptions.assumed_by(found, "sigma_data")
        return found()

    process = NoiseProcess(
        piece("paths", "path", path),
        piece("parameterizations", "parameterization", parameterization),
        _shifted(piece("schedules", "schedule", schedule), shift),
        piece("noise_labels", "noise_label", noise_label),
        piece("times", "times", times),
        piece("weightings", "weighting", weighting),
    )
    process = process._replace(sigma_data=assumptions.agreed("sigma_data", assumed))
    sigmas, weights = _at_the_ends(process)
    if not np.isfinite(weights).all():
        raise ValueError(
            f"{where}.weighting is {weighting!r}, whose weights of {where}.parameterization {parameterization!r} are "
            f"{weights.tolist()} at the ends {sigmas.tolist()} of the noise levels, but must be finite."
        )
    return process


def _at_the_ends(process: NoiseProcess) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest noise levels, of the schedule and of training, and the weights there."""

    def ends() -> tuple[Scalars, Scalars]:
        drawn = process.times(process.schedule, jnp.array([uniforms.MARGIN, 1.0 - uniforms.MARGIN]))
        sigmas = jnp.concatenate([process.schedule.sigma(jnp.array([0.0, 1.0])), drawn])
        return sigmas, process.weight(sigmas)

    return at_once(ends)


def _shifted(schedule: Schedule, factor: float) -> Schedule:
    """Every noise level multiplied (Hoogeboom et al. 2023, eq. 4: log-SNR moves by -2 log factor)."""
    if factor <= 0.0:
        raise ValueError(f"diffusion.shift is {factor}, but must be positive.")
    table = None if schedule.table is None else factor * schedule.table
    return Schedule(lambda time: factor * schedule.sigma(time), lambda sigma: schedule.time(sigma / factor), table)
