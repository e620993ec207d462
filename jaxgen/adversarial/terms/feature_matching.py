"""Feature matching: generated images are to have the mean features of real ones."""

import jax
import jax.numpy as jnp

from jaxgen.adversarial.turn import Cost, Term, Turn


def feature_matching(*, weight: float = 1.0) -> Term:
    """Returns the squared distance between the mean features of real and generated images (Salimans et al. 2016, 3.1).

    Features are those before the discriminator's last layer. In that paper they take the place of the adversarial loss.

    Args:
      weight: of the distance in the generator's loss.
    """

    def cost(turn: Turn) -> Cost:
        gap = turn.mean(turn.fake_critique.features) - jax.lax.stop_gradient(turn.mean(turn.real_critique.features))
        distance = jnp.sum(gap**2)
        return Cost(weight * distance, metrics={"feature_matching": distance})

    return Term(generator=cost)
