"""Layers that compare the images of a batch with each other, so that a discriminator notices when they are alike."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class MinibatchDiscrimination(nn.Module):
    """Appends, for each of some kernels, how close the other images of the batch are (Salimans et al. 2016, eq. 3.2).

    Kernel k maps features to a vector M_ik, and o(x_i)_k is the sum over the other images j of exp(-|M_ik - M_jk|_1).

    Attributes:
      kernels: B of the paper.
      dim: length of a vector, C of the paper.
      axis_name: mapped axis that the batch is spread over.
      dtype: type of the computation.
    """

    kernels: int
    dim: int = 16
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b d"]) -> Float[Array, "b d+{self.kernels}"]:
        """Returns the features with the closeness of others behind them."""
        init = nn.initializers.normal(0.05)
        layer = nn.Dense(self.kernels * self.dim, use_bias=False, kernel_init=init, dtype=self.dtype, name="vectors")
        vectors = layer(features).astype(jnp.float32).reshape(-1, self.kernels, self.dim)
        mapped = self.axis_name is not None and not self.is_initializing()
        others = jax.lax.all_gather(vectors, self.axis_name, tiled=True) if mapped else vectors
        distances = jnp.sum(jnp.abs(vectors[:, None] - others[None]), axis=-1)
        closeness = jnp.sum(jnp.exp(-distances), axis=1) - 1.0  # without the image itself
        return jnp.concatenate([features, closeness.astype(features.dtype)], axis=1)


def minibatch_std(x: Float[Array, "b h w c"], group_size: int, *, axis_name: str | None = None) -> Float[Array, " b"]:
    """Returns the standard deviation of each feature over a group of images, averaged over all features and pixels.

    Karras et al. 2018, section 3. As in the official code, a batch of m groups has images i, i + m, i + 2m, ... in a
    group.

    Args:
      x: feature maps of the batch, or, with an axis, of this device's share of it.
      group_size: images in a group; the whole batch, if it is smaller.
      axis_name: the mapped axis that the batch is spread over.

    Raises:
      ValueError: if the batch is no multiple of the group.
    """
    whole = x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)
    size = min(group_size, len(whole))
    if size < 1 or len(whole) % size:
        raise ValueError(
            f"discriminator.group_size is {group_size}, but must be positive and divide a batch of {len(whole)} images "
            "(data.batch_size over train.microbatches)."
        )
    groups = whole.reshape(size, -1, *x.shape[1:])
    deviation = jnp.sqrt(jnp.var(groups, axis=0) + 1e-8)
    each = jnp.tile(jnp.mean(deviation, axis=(1, 2, 3)), size)
    if axis_name is None:
        return each
    return jax.lax.dynamic_slice_in_dim(each, jax.lax.axis_index(axis_name) * len(x), len(x))
