"""Adversarial losses of a generator and a discriminator, as functions of the discriminator's outputs.

The discriminator's output is a logit: D(x) = sigmoid(logit) is the probability that x is real. Losses of probabilities
are computed from logits by `log_sigmoid`, whose values and gradients stay finite however large a logit is. Configs name
a loss with its arguments, such as `non_saturating(label_smoothing=0.1)`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Logits = Float[Array, "*batch"]
Mean = Callable[[Logits], Float[Array, ""]]
"""The mean of logits over the whole batch, of which a device may hold a part."""


@runtime_checkable
class LossOfLogits(Protocol):
    """The loss of one of the players."""

    def __call__(self, real: Logits, fake: Logits, *, mean: Mean = jnp.mean) -> Logits:
        """Returns one value per example, from the logits of real images and of as many generated ones."""
        ...


class AdversarialLoss(NamedTuple):
    """The losses of the two players; each minimizes its own.

    Attributes:
      generator: of the generator.
      discriminator: of the discriminator.
      relativistic: whether the generator's depends on the logits of real images.
    """

    generator: LossOfLogits
    discriminator: LossOfLogits
    relativistic: bool = False


def _binary_cross_entropy(real: Logits, fake: Logits, *, label_smoothing: float = 0.0) -> Logits:
    """-log D(x) - log(1 - D(G(z))), where 1 - sigmoid(a) = sigmoid(-a)."""
    of_real = -jax.nn.log_sigmoid(real)
    if label_smoothing:
        of_real = (1.0 - label_smoothing) * of_real - label_smoothing * jax.nn.log_sigmoid(-real)
    return of_real - jax.nn.log_sigmoid(-fake)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"gan.loss has label_smoothing={label_smoothing}, but it must lie in [0, 1).")


def minimax(*, label_smoothing: float = 0.0) -> AdversarialLoss:
    """Returns the losses of Goodfellow et al. 2014, eq. 1, where the generator saturates as the discriminator wins.

    Args:
      label_smoothing: what the target for real images falls short of 1; one-sided, the other target stays 0 (Salimans
        et al. 2016, section 3.4).
    """
    _check_smoothing(label_smoothing)
    return AdversarialLoss(
        generator=lambda real, fake, *, mean=jnp.mean: jax.nn.log_sigmoid(-fake),
        discriminator=lambda real, fake, *, mean=jnp.mean: _binary_cross_entropy(
            real, fake, label_smoothing=label_smoothing
        ),
    )


def non_saturating(*, label_smoothing: float = 0.0) -> AdversarialLoss:
    """Returns the losses with which the generator maximizes log D(G(z)) instead (Goodfellow et al. 2014, section 3)."""
    return minimax(label_smoothing=label_smoothing)._replace(
        generator=lambda real, fake, *, mean=jnp.mean: -jax.nn.log_sigmoid(fake)
    )


def least_squares(
    *, real_target: float = 1.0, fake_target: float = 0.0, generator_target: float = 1.0
) -> AdversarialLoss:
    """Returns the losses of squared distances to targets b, a and c, on the raw output (Mao et al. 2017, eq. 9)."""
    return AdversarialLoss(
        generator=lambda real, fake, *, mean=jnp.mean: 0.5 * jnp.square(fake - generator_target),
        discriminator=lambda real, fake, *, mean=jnp.mean: (
            0.5 * jnp.square(real - real_target) + 0.5 * jnp.square(fake - fake_target)
        ),
    )


def hinge() -> AdversarialLoss:
    """Returns the losses of Lim & Ye 2017 and Miyato et al. 2018, eqs. 16 and 17, of a discriminator with margins."""
    return AdversarialLoss(
        generator=lambda real, fake, *, mean=jnp.mean: -fake,
        discriminator=lambda real, fake, *, mean=jnp.mean: jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake),
    )


def wasserstein() -> AdversarialLoss:
    """Returns the losses of a critic, to be kept Lipschitz by other means (Arjovsky et al. 2017, eqs. 2 and 3)."""
    return AdversarialLoss(
        generator=lambda real, fake, *, mean=jnp.mean: -fake,
        discriminator=lambda real, fake, *, mean=jnp.mean: fake - real,
    )


def relativistic_pairing() -> AdversarialLoss:
    """Returns the losses with which each real image is to be more real than one generated image.

    Jolicoeur-Martineau 2019, eq. 6, with f(t) = -log(1 + exp(-t)), as R3GAN has it (Huang et al. 2024, eq. 2).
    """
    return AdversarialLoss(
        generator=lambda real, fake, *, mean=jnp.mean: jax.nn.softplus(real - fake),
        discriminator=lambda real, fake, *, mean=jnp.mean: jax.nn.softplus(fake - real),
        relativistic=True,
    )


def relativistic_average() -> AdversarialLoss:
    """Returns the losses with which real images are to be more real than generated ones are on average, and vice versa.

    Jolicoeur-Martineau 2019, eqs. 9 to 12 (RaSGAN).
    """
    return _relativistic_average(lambda real, fake: _binary_cross_entropy(real, fake))


def relativistic_average_least_squares() -> AdversarialLoss:
    """Returns the same with squared distances to 1 and -1 (Jolicoeur-Martineau 2019, appendix, RaLSGAN)."""
    return _relativistic_average(lambda real, fake: jnp.square(real - 1.0) + jnp.square(fake + 1.0))


def relativistic_average_hinge() -> AdversarialLoss:
    """Returns the same with margins of 1 (Jolicoeur-Martineau 2019, appendix, RaHingeGAN)."""
    return _relativistic_average(lambda real, fake: jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake))


def _relativistic_average(loss: Callable[[Logits, Logits], Logits]) -> AdversarialLoss:
    def discriminator(real: Logits, fake: Logits, *, mean: Mean = jnp.mean) -> Logits:
        return loss(real - mean(fake), fake - mean(real))

    def generator(real: Logits, fake: Logits, *, mean: Mean = jnp.mean) -> Logits:
        return discriminator(fake, real, mean=mean)

    return AdversarialLoss(generator, discriminator, relativistic=True)
