"""Total correlation of latents: KL(q(z) || prod_j q(z_j)), from the posteriors of a batch (Chen et al. 2018)."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Estimate = Literal["weighted", "stratified"]


def total_correlation(
    latents: Float[Array, "b d"],
    mean: Float[Array, "b d"],
    logvar: Float[Array, "b d"],
    *,
    dataset_size: int,
    estimate: Estimate = "weighted",
) -> Float[Array, ""]:
    """Returns the estimate by a minibatch, in nats.

    Args:
      latents: a draw of q(z | x) of each image.
      mean: of q(z | x).
      logvar: of q(z | x).
      dataset_size: number of images that q(z) is the mean over, at least the batch's.
      estimate: `weighted` (eq. 5) or `stratified` (appendix C.2), which is unbiased within the logarithm.
    """
    by_dimension = -0.5 * (
        math.log(2.0 * math.pi) + logvar[None] + jnp.square(latents[:, None] - mean[None]) * jnp.exp(-logvar)[None]
    )  # log q(z_i | x_j) of each dimension
    weights = log_weights(len(latents), dataset_size, estimate)
    joint = jax.nn.logsumexp(weights + jnp.sum(by_dimension, axis=-1), axis=1)
    product = jnp.sum(jax.nn.logsumexp(weights[..., None] + by_dimension, axis=1), axis=-1)
    return jnp.mean(joint - product)


def log_weights(batch: int, dataset_size: int, estimate: Estimate) -> Float[Array, "b b"]:
    """Returns log w_ij, such that q(z_i) is estimated by the sum over j of w_ij q(z_i | x_j).

    All are 1 / (N B) of the weighted estimate. Of the stratified one, w_ii is 1 / N, the others of a row are 1 / M with
    M = B - 1, but for one, (N - M) / (N M).
    """
    if estimate == "weighted":
        return jnp.full((batch, batch), -math.log(dataset_size * batch))
    others = batch - 1
    own, after = jnp.eye(batch), jnp.roll(jnp.eye(batch), 1, axis=1)
    rest = 1.0 - own - after
    first = (dataset_size - others) / (dataset_size * others)
    return jnp.log(own / dataset_size + after * first + rest / others)
