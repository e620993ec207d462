"""Historical averaging: parameters are to stay near the mean of their past."""

import jax
import jax.numpy as jnp
import optax

from jaxgen.adversarial.turn import Cost, Term, Turn


def historical_averaging(*, weight: float = 1e-4) -> Term:
    """Returns the squared distance of a player's parameters to their mean over all steps (Salimans et al. 2016, 3.3).

    Each step of the run counts as one, however many updates of the discriminator it has.

    Args:
      weight: of the distance in the losses of both players.
    """

    def cost(turn: Turn) -> Cost:
        own, past = turn.params[turn.player], turn.state[turn.player]
        count = jnp.float32(turn.context.step)
        mean = jax.tree.map(lambda old, new: old + (jax.lax.stop_gradient(new) - old) / (count + 1.0), past, own)
        gap = jax.tree.map(jnp.subtract, own, mean)
        return Cost(weight * optax.tree.norm(gap, squared=True), {**turn.state, turn.player: mean})

    return Term(cost, cost, init=lambda params: jax.tree.map(jnp.copy, params))
