"""The 4x4 convolutions of stride 2 that halve and double images, as one matrix product of 2x2 windows each.

Two neighboring pixels along each axis become channels of one (space-to-depth), or the reverse (Shi et al. 2016, section
3.2). Results and parameters are those of `nn.Conv` and `nn.ConvTranspose`, but gradients are matrix products as well.
On a CPU, XLA takes ten to a hundred times longer for the gradients of strided or dilated convolutions, and for those of
any convolution in a loop.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_DEFAULT_INIT = nn.initializers.lecun_normal()


class DownConv(nn.Module):
    """A 4x4 convolution of stride 2 with "SAME" padding: halves even heights and widths.

    Attributes:
      features: channels of the output.
      use_bias: whether to add a bias.
      kernel_init: initializer of the kernel, [4, 4, in, out].
      dtype: type of the computation.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = _DEFAULT_INIT
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 {self.features}"]:
        """Applies the convolution."""
        kernel = self.param("kernel", self.kernel_init, (4, 4, x.shape[-1], self.features)).astype(self.dtype)
        y = down_conv(_pad(x.astype(self.dtype)), kernel)
        return _add_bias(self, y) if self.use_bias else y


class UpConv(nn.Module):
    """A transposed 4x4 convolution of stride 2 with "SAME" padding: doubles height and width.

    Attributes:
      features, use_bias, kernel_init, dtype: as in `DownConv`.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = _DEFAULT_INIT
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w {self.features}"]:
        """Applies the convolution."""
        kernel = self.param("kernel", self.kernel_init, (4, 4, x.shape[-1], self.features)).astype(self.dtype)
        y = up_conv(x.astype(self.dtype), kernel[::-1, ::-1])[:, 1:-1, 1:-1]  # nn.ConvTranspose flips the kernel
        return _add_bias(self, y) if self.use_bias else y


def down_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "4 4 c d"]) -> Float[Array, "b h//2-1 w//2-1 d"]:
    """The 4x4 convolution of stride 2 wherever it fits, without padding; height and width are even."""
    # Tap 2 * block + offset along each axis reads the pixel `offset` of a 2x2 block.
    blocks = kernel.reshape(2, 2, 2, 2, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    return _conv2x2(_space_to_depth(x), blocks.reshape(2, 2, -1, kernel.shape[-1]))


def up_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "4 4 c d"]) -> Float[Array, "b 2*h+2 2*w+2 d"]:
    """The transposed 4x4 convolution of stride 2, uncut: each pixel adds the kernel, times itself, to the output."""
    # Along each axis, output 2 * i + offset joins tap `offset` of pixel i and tap 2 + offset of pixel i - 1.
    pairs = kernel.reshape(2, 2, 2, 2, *kernel.shape[2:])[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    return _depth_to_space(_conv2x2(_pad(x), pairs.reshape(2, 2, kernel.shape[2], -1)))


def _add_bias(module: nn.Module, y: Array) -> Array:
    bias = module.param("bias", nn.initializers.zeros_init(), (y.shape[-1],))
    return y + bias.astype(y.dtype).reshape(1, 1, 1, -1)


def _conv2x2(x: Float[Array, "b h w c"], kernel: Float[Array, "2 2 c d"]) -> Float[Array, "b h-1 w-1 d"]:
    _, h, w, c = x.shape
    windows = [x[:, i : h - 1 + i, j : w - 1 + j] for i in range(2) for j in range(2)]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(4 * c, -1)


def _pad(x: Float[Array, "b h w c"]) -> Float[Array, "b h+2 w+2 c"]:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _space_to_depth(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 4*c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def _depth_to_space(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c//4"]:
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
