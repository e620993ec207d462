"""A discriminator of latents, which estimates their total correlation (Kim and Mnih 2018)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.schedules import Curve
from jaxgen.variational.inference import AddedLoss, Inference, Term

Discriminate = Callable[[PyTree, Float[Array, "b d"]], Float[Array, " b"]]
"""`(params, latents) -> logits`, large for latents of q(z)."""


def permuted(key: Key[Array, ""], latents: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Permutes each dimension over the batch on its own: draws of prod_j q(z_j) (Kim and Mnih 2018, algorithm 1)."""
    dimension_keys = jax.random.split(key, latents.shape[1])
    return jax.vmap(jax.random.permutation, in_axes=(0, 1), out_axes=1)(dimension_keys, latents)


def density_ratio(discriminate: Discriminate, params: PyTree, weight: Curve) -> Term:
    """Returns the weighted total correlation as the mean of log D(z) - log(1 - D(z)), the logit (eq. 3)."""

    def term(inference: Inference) -> AddedLoss:
        value = jnp.mean(discriminate(params, inference.latents))
        return AddedLoss(weight(inference.context.step) * value, {"loss/total_correlation": value})

    return term


def discriminator_loss(
    discriminate: Discriminate, params: PyTree, key: Key[Array, ""], latents: Float[Array, "b d"]
) -> AddedLoss:
    """Returns the cross-entropy of telling latents from permuted ones, both equally likely.

    Args:
      discriminate: the discriminator.
      params: of the discriminator.
      key: of the permutations, the same on all devices.
      latents: of the whole batch.
    """
    real = discriminate(params, latents)
    fake = discriminate(params, permuted(keys.stream(key, "permutation"), latents))
    loss = -0.5 * jnp.mean(jax.nn.log_sigmoid(real) + jax.nn.log_sigmoid(-fake))
    return AddedLoss(loss, {"logits/joint": jnp.mean(real), "logits/permuted": jnp.mean(fake)})
