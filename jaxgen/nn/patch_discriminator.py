"""The PatchGAN discriminator (Isola et al. 2017, appendix 6.1.2): a logit for each of many overlapping patches."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.layers import DownConv

_weights = nn.initializers.normal(0.02)
_MAX_DOUBLINGS = 3


class PatchDiscriminator(nn.Module):
    """4x4 convolutions with leaky ReLU, `num_halvings` of stride 2 and two of stride 1; 3 halvings see 70x70 pixels.

    Group normalization stands where the paper has that of the batch, so that no logit depends on the other images and
    nothing has to be kept between updates. Parameters are float32, computation runs in `dtype`, outputs are float32.

    Attributes:
      width: channels after the first convolution; they double with each further one, up to eight times as many.
      num_halvings: convolutions of stride 2.
      num_groups: groups of each normalization; `width` must be a multiple of it.
      dtype: type of the computation.
    """

    width: int = 64
    num_halvings: int = 3
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h_out w_out"], tuple[Float[Array, "b _ _ _"], ...]]:
        """Maps images in [-1, 1] to logits of being real, and to the features after each activation.

        Raises:
          ValueError: if the images cannot be halved so often, or `width` is no multiple of `num_groups`.
        """
        self._validate(x)
        norm = partial(nn.GroupNorm, self.num_groups, dtype=self.dtype)
        half = partial(DownConv, kernel_init=_weights, dtype=self.dtype)
        same = partial(nn.Conv, kernel_size=(4, 4), padding=((1, 1), (1, 1)), kernel_init=_weights, dtype=self.dtype)
        features = []
        h = x.astype(self.dtype)
        for i in range(self.num_halvings + 1):
            conv = half if i < self.num_halvings else same
            h = conv(self.width * 2 ** min(i, _MAX_DOUBLINGS), use_bias=i == 0, name=f"conv_{i}")(h)
            h = nn.leaky_relu(h if i == 0 else norm(name=f"norm_{i}")(h), 0.2)
            features.append(h.astype(jnp.float32))
        logits = same(1, name="out")(h)[..., 0]
        return logits.astype(jnp.float32), tuple(features)

    def _validate(self, x: Array) -> None:
        stride = 2**self.num_halvings
        height, width = x.shape[1:3]
        if height % stride or width % stride or min(height, width) < 3 * stride:
            raise ValueError(
                f"A discriminator with {self.num_halvings} halvings takes images whose sides are multiples of {stride} "
                f"and at least {3 * stride}, but these are {height}x{width}: set discriminator.num_halvings lower."
            )
        if self.width % self.num_groups:
            raise ValueError(
                f"discriminator.width is {self.width}, but must be a multiple of discriminator.num_groups, "
                f"{self.num_groups}."
            )
