"""The gradient penalty of WGAN-GP, between real and generated images."""

import jax.numpy as jnp

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core.schedules import Curve
from jaxgen.losses import gradient_penalties as penalties


def gradient_penalty(
    *, weight: float | str = 10.0, target: float = 1.0, one_sided: bool = False, every_steps: int = 1
) -> Term:
    """Returns the squared deviation of the gradient's norm from a target, at points between real and generated images.

    Gulrajani et al. 2017, eq. 3; progressive growing has the same with a target of 1 or 750.

    Args:
      weight: lambda of the paper; may be scheduled.
      target: the norm, relative to which deviations are.
      one_sided: whether norms below the target are free.
      every_steps: distance between updates on it.

    Raises:
      ValueError: if the target is not positive.
    """
    if not target > 0.0:
        raise ValueError(f"gradient_penalty has target={target}, but it must be positive.")
    scale = Curve.of(weight, where="gradient_penalty's weight", low=0.0)

    def cost(turn: Turn) -> Cost:
        points = penalties.interpolated(turn.keys, turn.real, turn.fake)
        critic = lambda images: turn.discriminate_real(images).logits  # noqa: E731
        penalty = jnp.mean(penalties.gradient_penalty(critic, points, target=target, one_sided=one_sided))
        return Cost(scale(turn.context.step) * penalty, metrics={"gradient_penalty": penalty})

    return Term(discriminator=cost, every_steps=every_steps)
