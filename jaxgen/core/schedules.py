"""Schedules: numbers of a config that are functions of the run's step, such as a learning rate or a penalty's weight.

A setting that may be scheduled holds a number or a text that names one of the functions here, with its values:
`cosine(start=0.9, end=0.99, steps=40_000)`. A setting in quotes within a text is read in the same way:
`half_life(steps="linear(start=0.0, end=500.0, steps=1_000)")`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.config import bind_text, fits
from jaxgen.core.numbers import check_number

Schedule: TypeAlias = Callable[[Int[Array, ""]], Float[Array, ""]]
"""Maps the number of steps before, `TrainState.step` of an update, to the value of a setting in it."""


@dataclass(frozen=True)
class Curve:
    """A schedule whose range is known, so that it can be checked before any step.

    Attributes:
      value: the schedule.
      rest: the schedule of 1 - value, which has the digits that the difference loses where the value is close to 1.
      low: the least value at any step.
      high: the greatest.
    """

    value: Schedule
    rest: Schedule
    low: float
    high: float

    def __call__(self, step: int | np.integer | Int[Array, ""]) -> Float[Array, ""]:
        """Returns the value at a step, float32."""
        return self.value(jnp.asarray(step))

    @classmethod
    def of(
        cls,
        setting: object,
        *,
        where: str,
        low: float = -math.inf,
        high: float = math.inf,
        below_high: bool = False,
    ) -> "Curve":
        """Reads a setting that may be a number or a text.

        Args:
          setting: a number, which is constant, a text that names a function of this module, or a curve.
          where: the setting's path in the config, for the error message.
          low: the least value that it may have at any step.
          high: the greatest one.
          below_high: whether values must be below `high`.

        Raises:
          ValueError: if the text names no schedule, its values are wrong, or values at some step are out of range.
        """
        curve = setting if isinstance(setting, Curve) else _read(setting, where)
        if not (low <= curve.low and (curve.high < high if below_high else curve.high <= high)):
            least = "" if low == -math.inf else f"at least {low:g}"
            most = "" if high == math.inf else f"{'below' if below_high else 'at most'} {high:g}"
            shown = f"from {curve.low:g} to {curve.high:g}" if isinstance(setting, Curve) else repr(setting)
            raise ValueError(
                f"{where} is {shown}, but must be {' and '.join(filter(None, (least, most)))} at every step."
            )
        return curve

    def scaled(self, factor: float) -> "Curve":
        """Returns the curve of `factor` * value, for a factor of at least 0."""
        value = self.value
        return _curve(lambda step: factor * value(step), factor * self.low, factor * self.high)

    def power(self, exponent: float) -> "Curve":
        """Returns the curve of value^exponent, for values of at least 0 and a positive exponent."""
        value = self.value
        return _curve(lambda step: value(step) ** exponent, self.low**exponent, self.high**exponent)


def constant(*, value: int | float) -> Curve:
    """Returns the schedule of one value."""
    return Curve(lambda step: jnp.float32(value), lambda step: jnp.float32(1.0 - value), float(value), float(value))


def linear(*, start: int | float, end: int | float, steps: int | float) -> Curve:
    """Returns the schedule that goes from `start` to `end` at a constant rate, over the first `steps` steps.

    Args:
      start: the value at step 0.
      end: the value from step `steps` on.
      steps: the duration, which need not be whole.

    Raises:
      ValueError: if the duration is not positive.
    """
    return _between(start, end, _progress(steps, "linear"))


def cosine(*, start: int | float, end: int | float, steps: int | float) -> Curve:
    """Returns the schedule that goes from `start` to `end` by half a cosine (Loshchilov and Hutter 2017, eq. 5).

    The value is end + (start - end) (1 + cos(pi t / steps)) / 2, and `end` from step `steps` on: that of all schedules
    of R3GAN (Huang et al. 2024). Arguments and errors are those of `linear`.
    """
    progress = _progress(steps, "cosine")
    return _between(start, end, lambda step: 0.5 - 0.5 * jnp.cos(jnp.pi * progress(step)))


def exponential(*, start: int | float, end: int | float, steps: int | float) -> Curve:
    """Returns the schedule that goes from `start` to `end` by the same factor at each step, over the first `steps`.

    The value is start (end / start)^(t / steps), and `end` from step `steps` on. Errors are those of `linear`, and:

    Raises:
      ValueError: if `start` or `end` is not positive.
    """
    if not (start > 0.0 and end > 0.0):
        raise ValueError(f"A schedule exponential has start={start} and end={end}, but both must be positive.")
    progress, ratio = _progress(steps, "exponential"), math.log(end / start)
    return _curve(lambda step: jnp.float32(start * jnp.exp(ratio * progress(step))), min(start, end), max(start, end))


def piecewise(*, boundaries: tuple[int, ...], values: tuple[int | float, ...]) -> Curve:
    """Returns the schedule of values[i] from step boundaries[i - 1] on, up to the step before boundaries[i].

    Raises:
      ValueError: if the boundaries do not grow from at least 1 on, or there is not one value more than boundaries.
    """
    if len(values) != len(boundaries) + 1 or any(a >= b for a, b in zip((0, *boundaries), boundaries, strict=False)):
        raise ValueError(
            f"A schedule piecewise has boundaries={boundaries} and values={values}, but must have growing boundaries "
            "of at least 1, and one value more than boundaries."
        )

    def value(step: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.array(values, jnp.float32)[jnp.sum(step >= jnp.array(boundaries, jnp.int32), dtype=jnp.int32)]

    return _curve(value, float(min(values)), float(max(values)))


def half_life(*, steps: int | float | str, ramp: int | float | None = None) -> Curve:
    """Returns the decay, in [0, 1), of a moving average in which what is `steps` steps old has half its weight.

    The decay is 2^(-1 / steps). With a ramp, the half-life is at most `ramp` times the steps before, as in StyleGAN2
    with adaptive augmentation (Karras et al. 2020, "Training GANs with limited data"); a half-life of 0 is a decay of
    0. A half-life in images is divided by the batch size.

    Args:
      steps: the half-life, at least 0 and finite; may be scheduled.
      ramp: the largest half-life relative to the steps before; None for no such limit.

    Raises:
      ValueError: if the half-life is negative, or the ramp is not positive.
    """
    length = Curve.of(steps, where="The half-life's steps", low=0.0)
    if ramp is not None and not ramp > 0.0:
        raise ValueError(f"The half-life's ramp is {ramp}, but must be positive, or None for no limit.")

    def exponent(step: Int[Array, ""]) -> Float[Array, ""]:
        limit = length(step) if ramp is None else jnp.minimum(length(step), ramp * jnp.float32(step))
        return -math.log(2.0) / jnp.maximum(limit, 1e-8)

    # The weight of the new, 1 - decay, is about 1e-4 late in training: expm1 has its digits.
    low, high = (0.5 ** (1.0 / max(x, 1e-8)) for x in (0.0 if ramp else length.low, length.high))
    return Curve(lambda step: jnp.exp(exponent(step)), lambda step: -jnp.expm1(exponent(step)), low, high)


def _read(setting: object, where: str) -> Curve:
    if isinstance(setting, str):
        return bind_text(__name__, setting, where=where, later=())()
    if not (isinstance(setting, int | float) and fits(setting, float)):
        raise ValueError(
            f"{where} is {setting!r}, but must be a number or a schedule such as 'cosine(start=1.0, ...)'."
        )
    check_number(setting, where=where)
    return constant(value=float(setting))


def _progress(steps: int | float, name: str) -> Schedule:
    """Returns the part of a duration that is over, in [0, 1]."""
    if not steps > 0.0:
        raise ValueError(f"A schedule {name} has steps={steps}, but must have a positive number.")
    return lambda step: jnp.minimum(jnp.float32(step) / steps, 1.0)


def _between(start: int | float, end: int | float, progress: Schedule) -> Curve:
    """Returns the curve from one value to another, which is exact at both ends."""

    def mix(first: int | float, last: int | float) -> Schedule:
        return lambda step: jnp.float32((1.0 - progress(step)) * first + progress(step) * last)

    return Curve(mix(start, end), mix(1.0 - start, 1.0 - end), float(min(start, end)), float(max(start, end)))


def _curve(value: Schedule, low: float, high: float) -> Curve:
    return Curve(value, lambda step: 1.0 - value(step), low, high)
