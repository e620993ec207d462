"""Adversarial losses of a generator and a discriminator, as functions of the discriminator's outputs.

The discriminator's output is a logit: D(x) = sigmoid(logit) is the probability that x is real. Losses of probabilities
are computed from logits by `log_sigmoid`, whose values and gradients stay finite however large a logit is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Logits = Float[Array, "*batch"]


class AdversarialLoss(NamedTuple):
    """The losses of the two players, one value per example; each player minimizes its own.

    Attributes:
      generator: maps the logits of generated images to losses.
      discriminator: maps the logits of real images and of as many generated ones to losses.
    """

    generator: Callable[[Logits], Logits]
    discriminator: Callable[[Logits, Logits], Logits]


def _binary_cross_entropy(real: Logits, fake: Logits) -> Logits:
    """-log D(x) - log(1 - D(G(z))), where 1 - sigmoid(a) = sigmoid(-a)."""
    return -jax.nn.log_sigmoid(real) - jax.nn.log_sigmoid(-fake)


def _negated(fake: Logits) -> Logits:
    return -fake


minimax = AdversarialLoss(
    generator=lambda fake: jax.nn.log_sigmoid(-fake),
    discriminator=_binary_cross_entropy,
)
"""The zero-sum game of Goodfellow et al. 2014, eq. 1, whose generator saturates while the discriminator wins."""

non_saturating = AdversarialLoss(
    generator=lambda fake: -jax.nn.log_sigmoid(fake),
    discriminator=_binary_cross_entropy,
)
"""Goodfellow et al. 2014, section 3: the generator maximizes log D(G(z)) instead."""

least_squares = AdversarialLoss(
    generator=lambda fake: 0.5 * jnp.square(fake - 1.0),
    discriminator=lambda real, fake: 0.5 * jnp.square(real - 1.0) + 0.5 * jnp.square(fake),
)
"""Mao et al. 2017 (LSGAN), eq. 9: targets 1 for real and 0 for generated, on the raw output."""

hinge = AdversarialLoss(
    generator=_negated,
    discriminator=lambda real, fake: jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake),
)
"""Lim & Ye 2017; Miyato et al. 2018, eqs. 16 and 17."""

wasserstein = AdversarialLoss(
    generator=_negated,
    discriminator=lambda real, fake: fake - real,
)
"""Arjovsky et al. 2017, eqs. 2 and 3: the discriminator is a critic, to be kept Lipschitz by other means."""

LOSSES = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
}
"""Every loss by the name that configs give it; look one up with `core.config.choose`."""
