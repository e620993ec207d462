"""Adaptation of a probability to the overfitting of the discriminator (Karras et al. 2020, section 3).

A discriminator that overfits is right about ever more of the real images: r_t, the mean sign of its outputs on them,
goes from 0 to 1 (eq. 1). The probability rises while r_t is above a target, and falls while it is below.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.core.config import check_bounds

Scalar = Float[Array, ""]
Step = Int[Array, ""]
State = dict[str, Array]


class Controller(NamedTuple):
    """The law by which the probability p adapts.

    Attributes:
      target: of r_t.
      every_steps: p changes before steps that are multiples of this, by what the discriminator said since the last.
      ramp_examples: the number of real images in which p goes from 0 to 1 if it always rises.
      initial: the first p.
    """

    target: float = 0.6
    every_steps: int = 4
    ramp_examples: int = 500_000
    initial: float = 0.0

    def checked(self, where: str) -> "Controller":
        """Returns itself.

        Raises:
          ValueError: if a number is out of range.
        """
        bounds = {"target": (0, 1), "every_steps": (1, math.inf), "ramp_examples": (1, math.inf), "initial": (0, 1)}
        check_bounds(self, bounds, where=where)
        return self

    def init(self) -> State:
        """Returns the first state: p, r_t of the last interval, and the sums of the present one."""
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        return {"p": jnp.float32(self.initial), "sign": zero, "signs": zero, "images": none, "interval": none}

    def probability(self, state: State, step: Step) -> Scalar:
        """Returns p at a step, at least 0. It may exceed 1, as in the official code."""
        return self._settled(state, step)["p"]

    def update(
        self, state: State, real_logits: Float[Array, " b"], *, step: Step, axis_name: str | None, batch_size: int
    ) -> State:
        """Returns the state after one more minibatch; see `piece.AdaptState`.

        How a step's images are spread over minibatches and devices makes no difference.
        """
        state = self._settled(state, step)
        sign = jnp.mean(jnp.sign(real_logits.astype(jnp.float32)))
        if axis_name is not None:
            sign = jax.lax.pmean(sign, axis_name)
        return state | {"signs": state["signs"] + batch_size * sign, "images": state["images"] + batch_size}

    def metrics(self, state: State, step: Step) -> dict[str, Scalar]:
        """Returns `p`, and `sign`, the r_t of the last whole interval."""
        state = self._settled(state, step)
        return {"p": state["p"], "sign": state["sign"]}

    def _settled(self, state: State, step: Step) -> State:
        """Returns the state with p changed by the last interval, if that is over."""
        interval = (step // self.every_steps).astype(jnp.int32)
        over = (interval > state["interval"]) & (state["images"] > 0)
        sign = state["signs"] / jnp.maximum(state["images"], 1)
        change = jnp.sign(sign - self.target) * state["images"] / self.ramp_examples
        settled = {
            "p": jnp.maximum(state["p"] + change, 0.0),
            "sign": sign,
            "signs": jnp.zeros(()),
            "images": jnp.zeros((), jnp.int32),
        }
        chosen = {name: jnp.where(over, value, state[name]) for name, value in settled.items()}
        return chosen | {"interval": interval}
