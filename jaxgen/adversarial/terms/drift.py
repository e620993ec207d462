"""Drift: keeps the logits of real images from wandering away from zero."""

import jax.numpy as jnp

from jaxgen.adversarial.turn import Cost, Term, Turn


def drift(*, weight: float = 0.001) -> Term:
    """Returns the weighted mean square of the logits of real images (Karras et al. 2018, appendix A.1).

    Args:
      weight: epsilon of the paper.
    """

    def cost(turn: Turn) -> Cost:
        return Cost(weight * jnp.mean(turn.real_critique.logits**2))

    return Term(discriminator=cost)
