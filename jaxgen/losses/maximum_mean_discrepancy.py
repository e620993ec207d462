"""The squared maximum mean discrepancy between two sets of vectors (Gretton et al. 2012)."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Kernel = Literal["gaussian", "inverse_multiquadric"]


def mmd(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, kernel: Kernel = "inverse_multiquadric", scale: float = 1.0
) -> Float[Array, ""]:
    """Returns the unbiased estimate (Gretton et al. 2012, eq. 3), which may be negative.

    With C = 2 d scale, the kernels of a squared distance r are exp(-r / C) and C / (C + r), the inverse multiquadratic
    one of Wasserstein autoencoders (Tolstikhin et al. 2018, section 4).

    Args:
      x: n samples, at least 2.
      y: m samples of the other distribution, at least 2.
      kernel: `gaussian` or `inverse_multiquadric`.
      scale: of the squared distances, in d, the number of dimensions.
    """
    width = 2.0 * x.shape[-1] * scale

    def gram(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        distance = jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)
        return jnp.exp(-distance / width) if kernel == "gaussian" else width / (width + distance)

    def within(a: Float[Array, "n d"]) -> Float[Array, ""]:
        count = len(a)  # a sample's kernel with itself is 1
        return (jnp.sum(gram(a, a)) - count) / (count * (count - 1))

    return within(x) + within(y) - 2.0 * jnp.mean(gram(x, y))
