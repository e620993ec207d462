"""Path length regularization of generators of styles."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from jaxgen.adversarial.players import Styled
from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core import keys
from jaxgen.losses.gradient_penalties import path_lengths


def path_length(*, weight: float = 2.0, decay: float = 0.01, shrink: int = 2, every_steps: int = 4) -> Term:
    """Returns the squared deviation of path lengths from their moving average (Karras et al. 2020, eq. 4).

    Args:
      weight: gamma_pl of the official code.
      decay: weight of a batch in the average.
      shrink: one image in so many is used, the same ones however the batch is laid out over devices.
      every_steps: distance between updates on it.

    Raises:
      ValueError: if the decay does not lie in [0, 1], or `shrink` is below 1.
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"path_length has decay={decay}, but it must lie in [0, 1].")
    if shrink < 1:
        raise ValueError(f"path_length has shrink={shrink}, but it must be at least 1.")

    def init(params: PyTree) -> PyTree:
        del params
        return jnp.zeros(())

    def cost(turn: Turn) -> Cost:
        styled = _needed(turn.styled)
        if len(turn.fake) % shrink:
            raise ValueError(
                f"path_length has shrink={shrink}, but it must divide the batch of each device, which is "
                f"{len(turn.fake)} (data.batch_size over train.microbatches and, where parallel.mode is pmap, over "
                "the devices)."
            )
        some: Key[Array, " n"] = turn.keys[::shrink]
        label = None if turn.label is None else turn.label[::shrink]
        params, state = turn.params["generator"], turn.generator_state
        ws, _ = styled.styles(turn.context, params, state, turn.latents[::shrink], label, some)
        noise = keys.normal(keys.fold_each(some, "path"), turn.fake.shape[1:])
        lengths = path_lengths(lambda ws: styled.synthesize(params, state, ws, some), ws, noise)
        average = turn.state + decay * (turn.mean(lengths) - turn.state)
        penalty = jnp.mean((lengths - average) ** 2)
        return Cost(weight * penalty, jax.lax.stop_gradient(average), {"path_length": jnp.mean(lengths)})

    check = lambda critique, label, styled: _needed(styled)  # noqa: E731
    return Term(generator=cost, init=init, check=check, every_steps=every_steps)


def _needed(styled: Styled | None) -> Styled:
    if styled is None:
        raise ValueError("gan.terms has path_length, which needs a generator of styles, such as StyleGAN2's.")
    return styled
