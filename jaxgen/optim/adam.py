"""Adam with a decay of the second moment that changes in the course of training."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jaxgen.core.schedules import Curve


def scale_by_adam_of_step(b1: float, b2: Curve, eps: float = 1e-8) -> optax.GradientTransformationExtraArgs:
    """Returns Adam's rule (Kingma and Ba 2015, algorithm 1) with beta2 a function of the run's step.

    As in the official code of R3GAN, which sets beta2 of PyTorch's optimizer before each of its updates, update t has
    the bias correction 1 - beta2^t with the beta2 of that moment. The state is that of `optax.scale_by_adam`.

    Args:
      b1: decay of the first moment.
      b2: decay of the second moment by the step, in [0, 1).
      eps: added to the root of the second moment.

    Returns:
      A transformation: `update(updates, state, params, step=step)`.
    """

    def init(params: PyTree) -> optax.ScaleByAdamState:
        return optax.scale_by_adam(b1).init(params)

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, *, step: Int[Array, ""], **others: Any
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        del params, others
        count = optax.safe_increment(state.count)
        decay, rest = b2.value(step), b2.rest(step)
        mu = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: decay * v + rest * g**2, state.nu, updates)
        first, second = 1.0 - b1**count, -jnp.expm1(count * jnp.log1p(-rest))
        scaled = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)
