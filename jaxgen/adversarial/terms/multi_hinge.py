"""The multi-class hinge loss: one more class stands for generated images."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.adversarial.terms.auxiliary_classifier import needed
from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.losses.classes import crammer_singer
from jaxgen.nn.adversarial import Critique


def multi_hinge(*, generator_weight: float = 0.05, discriminator_weight: float = 1.0) -> Term:
    """Returns the multi-class hinge loss of the data's classes and that of generated images (Kavalerov et al. 2021).

    The score of the last class is minus the logit, which is large for images that look real.

    Args:
      generator_weight: of generated images as their class, in the generator's loss.
      discriminator_weight: of real images as their class, and of generated ones as the last.
    """

    def scores(critique: Critique, turn: Turn) -> tuple[Float[Array, "b k"], Array]:
        classes, label = needed(critique, turn.label, "multi_hinge")
        return jnp.concatenate([classes, -critique.logits[:, None]], axis=1), label

    def of_discriminator(turn: Turn) -> Cost:
        real, label = scores(turn.real_critique, turn)
        fake, _ = scores(turn.fake_critique, turn)
        generated = jnp.full_like(label, fake.shape[1] - 1)
        loss = jnp.mean(crammer_singer(real, label)) + jnp.mean(crammer_singer(fake, generated))
        return Cost(discriminator_weight * loss, metrics={"multi_hinge/discriminator": loss})

    def of_generator(turn: Turn) -> Cost:
        loss = jnp.mean(crammer_singer(*scores(turn.fake_critique, turn)))
        return Cost(generator_weight * loss, metrics={"multi_hinge/generator": loss})

    check = lambda critique, label, styled: needed(critique, label, "multi_hinge")  # noqa: E731
    return Term(of_discriminator, of_generator, check=check)
