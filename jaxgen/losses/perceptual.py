"""Perceptual distances between images: distances between the features that some network computes from them.

With the features of a network trained to recognize objects this is LPIPS without its learned weights (Zhang et al.
2018); with those of the discriminator that an autoencoder plays against, the similarity of Larsen et al. 2016, which
needs no pretrained network.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def feature_distance(
    features: Sequence[Float[Array, "b _ _ _"]], others: Sequence[Float[Array, "b _ _ _"]], *, eps: float = 1e-5
) -> Float[Array, " b"]:
    """Returns the squared distance of unit-length feature vectors, averaged over positions, summed over layers.

    Zhang et al. 2018, eq. 1, with all channels weighted alike. A layer contributes between 0 and 4.

    Args:
      features: feature maps of each layer, [b, h, w, c] with shapes that may differ from layer to layer.
      others: likewise, of the images to compare with.
      eps: floor on the length of a vector, as a vector of zeros has no direction.

    Raises:
      ValueError: if the numbers of layers differ, or there is none.
    """
    if len(features) != len(others) or not features:
        raise ValueError(f"There are features of {len(features)} and {len(others)} layers: give as many, at least one.")
    layers = zip(features, others, strict=True)
    return sum((_layer_distance(a, b, eps) for a, b in layers), start=jnp.zeros(features[0].shape[0]))


def _layer_distance(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], eps: float) -> Float[Array, " b"]:
    difference = _unit(a, eps) - _unit(b, eps)
    return jnp.mean(jnp.sum(jnp.square(difference), axis=-1), axis=(1, 2))


def _unit(x: Float[Array, "b h w c"], eps: float) -> Float[Array, "b h w c"]:
    # The square root of a sum that cannot vanish: that of 0 would have no gradient.
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps**2)
