"""The conditional flow of variational dequantization, which learns the noise that images are dequantized with."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.core.gaussians import sum_per_example
from jaxgen.nn.coupling_net import CouplingNet
from jaxgen.nn.flow_layers import FlowContext, MaskedCoupling, through


class Dequantizer(nn.Module):
    """Noise in (0, 1) given an image, q(u | x), by a flow from standard normal noise (Flow++, Ho et al. 2019).

    Checkerboard couplings, which see the image, are followed by the normal distribution function in the place of the
    paper's logistic one: it makes the noise uniform at first.

    Attributes:
      width: channels within the couplings' networks.
      couplings: number of couplings.
      dtype: type of the couplings' networks.
    """

    width: int = 32
    couplings: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, eps: Float[Array, "b h w c"], images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
        """Returns the noise, and log q of it, from standard normal `eps` and images in [-1, 1]."""
        layers = [
            MaskedCoupling(
                CouplingNet(2 * eps.shape[-1], self.width, 1, dtype=self.dtype, parent=None),
                "checkerboard",
                i % 2,
                name=f"coupling_{i}",
            )
            for i in range(self.couplings)
        ]
        v, log_det = through(layers, eps, FlowContext(features=images))
        log_ratio = sum_per_example(0.5 * jnp.square(v) - 0.5 * jnp.square(eps))  # N(eps) over the density N(v)
        return jax.scipy.special.ndtr(v), log_ratio - log_det
