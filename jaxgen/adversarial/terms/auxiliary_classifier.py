"""An auxiliary classifier: AC-GAN's cross-entropy of classes."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.losses.classes import cross_entropy
from jaxgen.nn.adversarial import Critique


def auxiliary_classifier(
    *, generator_weight: float = 1.0, discriminator_weight: float = 1.0, fakes: bool = True
) -> Term:
    """Returns the cross-entropy of the discriminator's classes (Odena et al. 2017, eq. 3).

    Args:
      generator_weight: of that of generated images, in the generator's loss.
      discriminator_weight: of that of the images that the discriminator learns classes from.
      fakes: whether these include generated ones, as in the paper; most later code has real ones alone.
    """

    def of_discriminator(turn: Turn) -> Cost:
        critiques = [turn.real_critique, *([turn.fake_critique] if fakes else [])]
        losses = [
            jnp.mean(cross_entropy(*needed(critique, turn.label, "auxiliary_classifier"))) for critique in critiques
        ]
        return Cost(discriminator_weight * jnp.sum(jnp.stack(losses)), metrics={"classifier/real": losses[0]})

    def of_generator(turn: Turn) -> Cost:
        loss = jnp.mean(cross_entropy(*needed(turn.fake_critique, turn.label, "auxiliary_classifier")))
        return Cost(generator_weight * loss, metrics={"classifier/fake": loss})

    check = lambda critique, label, styled: needed(critique, label, "auxiliary_classifier")  # noqa: E731
    return Term(of_discriminator, of_generator, check=check)


def needed(critique: Critique, label: Int[Array, " b"] | None, term: str) -> tuple[Array, Array]:
    """Returns the scores of classes and the classes.

    Raises:
      ValueError: if there are none.
    """
    if label is None or critique.classes is None:
        raise ValueError(
            f"gan.terms has {term}, which needs gan.class_conditional=True and a discriminator with scores of classes "
            "(discriminator.conditioning='classifier' or 'cosine')."
        )
    return critique.classes, label
