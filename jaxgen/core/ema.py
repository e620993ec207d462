"""Exponential moving averages of parameters: profiles, tracking them, and reconstructing others after training.

A profile says how much each update counts in the average. Equations are those of Karras et al. 2024, "Analyzing and
improving the training dynamics of diffusion models", where beta is the decay and t counts updates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxgen.core.schedules import Curve

Profile = Callable[[Int[Array, ""]], Float[Array, ""]]
"""Maps the number of updates before to the weight, 1 - beta, of the new parameters in the average."""

UNIFORM_STD = 12.0**-0.5
"""The relative standard deviation of the uniform profile, the widest."""


def constant(*, decay: float, warmup: bool) -> Profile:
    """Returns a profile of one decay for all updates; with `warmup` it is at most (1 + n) / (10 + n) after n updates.

    Raises:
      ValueError: if the decay is not in [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"ema.decay is {decay}, but must be at least 0 and below 1.")
    return lambda step: jnp.float32(jnp.maximum(1.0 - decay, 9.0 / (10.0 + step)) if warmup else 1.0 - decay)


def scheduled(*, decay: str, warmup: bool) -> Profile:
    """Returns a profile whose decay is a schedule, such as `half_life(steps=1_000)`; `warmup` is that of `constant`.

    Raises:
      ValueError: if there is no such schedule, or the decay is not in [0, 1) at every step.
    """
    curve = Curve.of(decay, where="ema.decay", low=0.0, high=1.0, below_high=True)
    return lambda step: jnp.maximum(curve.rest(step), 9.0 / (10.0 + step)) if warmup else curve.rest(step)


def power(*, sigma_rel: float) -> Profile:
    """Returns the profile in which update i has weight i^gamma: beta(t) = (1 - 1/t)^(gamma + 1) (eq. 127).

    The profile grows with training: its standard deviation is `sigma_rel` times the number of updates. The first update
    takes the parameters themselves.

    Raises:
      ValueError: if there is no such profile.
    """
    exponent = gamma(sigma_rel) + 1.0
    # 1 - beta is about 1e-5 late in training, which beta itself could not tell from 0 in float32.
    return lambda step: -jnp.expm1(exponent * jnp.log1p(-1.0 / (1.0 + jnp.float32(step))))


def gamma(sigma_rel: float) -> float:
    """Returns the exponent of the power profile of a relative standard deviation, a root of a cubic (eq. 126).

    Raises:
      ValueError: if the deviation is not that of a profile that grows with time.
    """
    if not 0.0 < sigma_rel <= UNIFORM_STD:
        raise ValueError(f"ema.sigma_rel is {sigma_rel}, but must be above 0 and at most {UNIFORM_STD:.4f}.")
    precision = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max())


def relative_std(gamma: float) -> float:
    """Returns the standard deviation of a power profile relative to the length of training (eq. 123)."""
    return ((gamma + 1.0) / ((gamma + 2.0) ** 2 * (gamma + 3.0))) ** 0.5


class Average(NamedTuple):
    """One or several averages of a tree, as pure functions.

    Attributes:
      init: `tree -> averages`, copies.
      update: `(averages, tree, number of updates before) -> averages`.
      value: `averages -> tree`; the first, where there are several.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[[PyTree, PyTree, Int[Array, ""]], PyTree]
    value: Callable[[PyTree], PyTree]


def single(profile: Profile) -> Average:
    """Returns an average by one profile."""

    def update(average: PyTree, tree: PyTree, step: Int[Array, ""]) -> PyTree:
        weight = profile(step)
        return jax.tree.map(lambda old, new: _blend(old, new, weight), average, tree)

    # A copy: the average and the parameters are donated to the first update as two buffers.
    return Average(lambda tree: jax.tree.map(jnp.copy, tree), update, lambda average: average)


def several(profiles: Sequence[Profile]) -> Average:
    """Returns an average for each profile of the same tree, named 0, 1, ..."""
    averages = {str(i): single(profile) for i, profile in enumerate(profiles)}

    def init(tree: PyTree) -> PyTree:
        return {name: average.init(tree) for name, average in averages.items()}

    def update(values: PyTree, tree: PyTree, step: Int[Array, ""]) -> PyTree:
        return {name: average.update(values[name], tree, step) for name, average in averages.items()}

    return Average(init, update, lambda values: values["0"])


def _blend(old: Array, new: Array, weight: Float[Array, ""]) -> Array:
    """Returns the moving average of floats, exact at weights of 0 and 1; integers and booleans are not averaged."""
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new
    return jnp.where(weight < 0.5, old + weight * (new - old), new - (1.0 - weight) * (new - old))


class Snapshot(NamedTuple):
    """A power average: its relative standard deviation, and the number of updates that it averages over."""

    step: int
    sigma_rel: float


def reconstruction_weights(snapshots: Sequence[Snapshot], target: Snapshot) -> Float[np.ndarray, " n"]:
    """Returns the weights of the sum of stored averages that approximates another one (section 3.2, algorithm 3).

    Averages are compared as profiles, weights over time, in the least squares sense; in float64, since profiles of
    adjacent snapshots are much alike.

    Args:
      snapshots: the stored averages, no two alike.
      target: the average to approximate, which needs snapshots up to its step.

    Returns:
      One weight for each snapshot, summing to 1.

    Raises:
      ValueError: if there are no snapshots, or a standard deviation is that of no profile.
    """
    if not snapshots:
        raise ValueError("There are no snapshots to reconstruct an average from.")
    weights = np.linalg.solve(_overlaps(snapshots, snapshots), _overlaps(snapshots, [target])[:, 0])
    return weights / weights.sum()


def profile_distance(snapshots: Sequence[Snapshot], weights: Float[np.ndarray, " n"], target: Snapshot) -> float:
    """Returns the distance between the profiles of a sum of averages and a target, relative to the target's norm."""
    profiles, signed = [*snapshots, target], np.append(weights, -1.0)
    squared = signed @ _overlaps(profiles, profiles) @ signed / _overlap(target, target)
    return float(max(squared, 0.0) ** 0.5)


def _overlaps(rows: Sequence[Snapshot], columns: Sequence[Snapshot]) -> Float[np.ndarray, "rows columns"]:
    return np.array([[_overlap(a, b) for b in columns] for a in rows])


def _overlap(a: Snapshot, b: Snapshot) -> float:
    """Returns the integral of the product of two profiles (eq. 151)."""
    early, late = sorted((a, b))
    first, second = gamma(early.sigma_rel), gamma(late.sigma_rel)
    decayed = (early.step / late.step) ** second
    return (first + 1.0) * (second + 1.0) * decayed / ((first + second + 1.0) * late.step)
