"""DRAGAN: the gradient penalty around real images."""

import jax.numpy as jnp

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core.schedules import Curve
from jaxgen.losses import gradient_penalties as penalties


def dragan(*, weight: float | str = 10.0, scale: float = 0.5, every_steps: int = 1) -> Term:
    """Returns the squared deviation of the gradient's norm from 1, near real images (Kodali et al. 2017, eq. 2).

    Args:
      weight: lambda of the paper; may be scheduled.
      scale: of the noise around images, in standard deviations of their pixels.
      every_steps: distance between updates on it.

    Raises:
      ValueError: if the scale is not positive.
    """
    if not scale > 0.0:
        raise ValueError(f"dragan has scale={scale}, but it must be positive.")
    factor = Curve.of(weight, where="dragan's weight", low=0.0)

    def cost(turn: Turn) -> Cost:
        squares = jnp.mean(turn.real**2, axis=(1, 2, 3))
        variance = turn.mean(squares) - turn.mean(jnp.mean(turn.real, axis=(1, 2, 3))) ** 2
        points = penalties.perturbed(turn.keys, turn.real, jnp.sqrt(variance), scale=scale)
        penalty = jnp.mean(penalties.gradient_penalty(lambda images: turn.discriminate_real(images).logits, points))
        return Cost(factor(turn.context.step) * penalty, metrics={"dragan": penalty})

    return Term(discriminator=cost, every_steps=every_steps)
