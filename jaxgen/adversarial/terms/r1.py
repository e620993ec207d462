"""R1: the squared gradient of the discriminator at real images."""

import jax.numpy as jnp

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core.schedules import Curve
from jaxgen.losses.gradient_penalties import squared_gradients


def r1(*, gamma: float | str = 10.0, every_steps: int = 1) -> Term:
    """Returns gamma / 2 of the squared norm of the gradient at real images (Mescheder et al. 2018, eq. 9).

    Args:
      gamma: twice the weight; may be scheduled.
      every_steps: distance between updates on it.
    """
    weight = Curve.of(gamma, where="r1's gamma", low=0.0)

    def cost(turn: Turn) -> Cost:
        penalty = jnp.mean(squared_gradients(lambda images: turn.discriminate_real(images).logits, turn.real))
        return Cost(0.5 * weight(turn.context.step) * penalty, metrics={"r1": penalty})

    return Term(discriminator=cost, every_steps=every_steps)
