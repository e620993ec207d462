"""ReACGAN's data-to-data cross-entropy."""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxgen.adversarial.terms.auxiliary_classifier import needed
from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.losses.classes import data_to_data_cross_entropy
from jaxgen.nn.adversarial import Critique


def data_to_data(
    *,
    generator_weight: float = 1.0,
    discriminator_weight: float = 1.0,
    temperature: float = 0.5,
    positive_margin: float = 0.98,
    negative_margin: float = -0.05,
) -> Term:
    """Returns D2D-CE, of real images for the discriminator and generated ones for the generator (Kang et al. 2021).

    Needs discriminator.conditioning='cosine'. Images are compared with those of the same device.

    Args:
      generator_weight: in the generator's loss.
      discriminator_weight: in the discriminator's.
      temperature: tau of the paper.
      positive_margin: m_p of the paper.
      negative_margin: m_n of the paper.

    Raises:
      ValueError: if the temperature is not positive.
    """
    if not temperature > 0.0:
        raise ValueError(f"data_to_data has temperature={temperature}, but it must be positive.")
    distance = partial(
        data_to_data_cross_entropy,
        temperature=temperature,
        positive_margin=positive_margin,
        negative_margin=negative_margin,
    )

    def loss(critique: Critique, turn: Turn) -> jnp.ndarray:
        embedding, cosines, label = _compared(critique, turn.label)
        return jnp.mean(distance(embedding, cosines, label))

    def of_discriminator(turn: Turn) -> Cost:
        of_real = loss(turn.real_critique, turn)
        return Cost(discriminator_weight * of_real, metrics={"data_to_data/real": of_real})

    def of_generator(turn: Turn) -> Cost:
        of_fake = loss(turn.fake_critique, turn)
        return Cost(generator_weight * of_fake, metrics={"data_to_data/fake": of_fake})

    return Term(of_discriminator, of_generator, check=lambda critique, label, styled: _compared(critique, label))


def _compared(critique: Critique, label: Int[Array, " b"] | None) -> tuple[Array, Array, Array]:
    cosines, classes = needed(critique, label, "data_to_data")
    if critique.embedding is None:
        raise ValueError("gan.terms has data_to_data, which needs discriminator.conditioning='cosine'.")
    return critique.embedding, cosines, classes
