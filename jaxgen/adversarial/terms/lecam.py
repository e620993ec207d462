"""LeCam: keeps logits near moving averages of those of the other kind, for small data sets."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxgen.adversarial.turn import Cost, Term, Turn


def lecam(*, weight: float = 0.3, decay: float = 0.99, from_step: int = 0) -> Term:
    """Returns the squared distances of real logits to the average generated one, and vice versa (Tseng et al. 2021).

    Eq. 8 of the paper: weight * (E[(D(x) - a_F)^2] + E[(D(G(z)) - a_R)^2]), with a_R and a_F moving averages of the
    logits of real and generated images.

    Args:
      weight: lambda of the paper.
      decay: weight of the old averages.
      from_step: the first step with the penalty; averages are taken from the start.

    Raises:
      ValueError: if the decay does not lie in [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"lecam has decay={decay}, but it must lie in [0, 1).")

    def init(params: PyTree) -> PyTree:
        del params
        return {"real": jnp.zeros(()), "fake": jnp.zeros(())}

    def cost(turn: Turn) -> Cost:
        logits = {"real": turn.real_critique.logits, "fake": turn.fake_critique.logits}
        new = {name: jax.lax.stop_gradient(turn.mean(value)) for name, value in logits.items()}
        state = {name: decay * turn.state[name] + (1.0 - decay) * new[name] for name in logits}
        penalty = jnp.mean((logits["real"] - state["fake"]) ** 2) + jnp.mean((logits["fake"] - state["real"]) ** 2)
        begun = turn.context.step >= from_step
        return Cost(jnp.where(begun, weight * penalty, 0.0), state, {"lecam": penalty})

    return Term(discriminator=cost, init=init)
