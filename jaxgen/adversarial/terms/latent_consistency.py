"""Latent consistency regularization, zCR: small changes of latents are to show in images, but not in logits."""

import jax.numpy as jnp

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core import keys


def latent_consistency(
    *, generator_weight: float = 0.5, discriminator_weight: float = 5.0, deviation: float = 0.03
) -> Term:
    """Returns the squared changes of images and of logits with latents (Zhao et al. 2021, section 3.2).

    The generator is paid for the change of its images, the discriminator pays for that of its logits.

    Args:
      generator_weight: lambda_gen of the paper.
      discriminator_weight: lambda_dis of the paper.
      deviation: standard deviation of the change of a latent.

    Raises:
      ValueError: if the deviation is not positive.
    """
    if not deviation > 0.0:
        raise ValueError(f"latent_consistency has deviation={deviation}, but it must be positive.")

    def other(turn: Turn) -> jnp.ndarray:
        return turn.generate(turn.latents + deviation * keys.normal(turn.keys, turn.latents.shape[1:]))

    def of_discriminator(turn: Turn) -> Cost:
        change = jnp.mean((turn.discriminate(turn.fake).logits - turn.discriminate(other(turn)).logits) ** 2)
        return Cost(discriminator_weight * change, metrics={"latent_consistency/logits": change})

    def of_generator(turn: Turn) -> Cost:
        change = jnp.mean((turn.fake - other(turn)) ** 2)
        return Cost(-generator_weight * change, metrics={"latent_consistency/images": change})

    return Term(of_discriminator, of_generator)
