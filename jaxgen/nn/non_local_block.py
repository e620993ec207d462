"""The self-attention of SAGAN (Zhang et al. 2019) and BigGAN, spectrally normalized."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.spectral_norm import PowerIteration, SpectralDense


class NonLocalBlock(nn.Module):
    """Self-attention whose keys and values are maxima of 2x2 pixels, added with a gain that is zero at the start.

    As in the official code: queries and keys have an eighth of the channels, values half of them, and no layer has a
    bias.

    Attributes:
      power_iteration: the convention of spectral normalization.
      kernel_init: initializer of all layers.
      dtype: type of the computation; the softmax is in float32.
    """

    power_iteration: PowerIteration
    kernel_init: nn.initializers.Initializer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Returns the features plus `gamma` times what attention gathers for each pixel.

        Raises:
          ValueError: if there are less than eight channels, or less than 2x2 pixels.
        """
        b, h, w, c = x.shape
        if c < 8 or min(h, w) < 2:
            raise ValueError(
                f"Attention needs feature maps of at least 2x2 pixels and 8 channels, not {h}x{w} with {c}: move or "
                "leave out the attention, or have more channels there."
            )
        queries = self._layer(c // 8, "theta")(x, train=train).reshape(b, h * w, -1)
        keys = _max_pool(self._layer(c // 8, "phi")(x, train=train)).reshape(b, -1, c // 8)
        values = _max_pool(self._layer(c // 2, "g")(x, train=train)).reshape(b, -1, c // 2)
        scores = jnp.einsum("bqc,bkc->bqk", queries, keys).astype(jnp.float32)
        mixed = jax.nn.softmax(scores, axis=-1).astype(self.dtype) @ values
        gathered = self._layer(c, "o")(mixed.reshape(b, h, w, -1), train=train)
        return x + self.param("gamma", nn.initializers.zeros_init(), ()).astype(self.dtype) * gathered

    def _layer(self, features: int, name: str) -> SpectralDense:
        options = {"use_bias": False, "dtype": self.dtype, "name": name}
        return SpectralDense(features, self.power_iteration, self.kernel_init, **options)


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    b, h, w, c = x.shape
    blocks = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return jnp.max(blocks, axis=(2, 4))
