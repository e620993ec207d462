"""The residual convolutional network of couplings in RealNVP and in spline flows, with weight normalization."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.flow_layers import FlowContext
from jaxgen.nn.layers import Dropout

_ZEROS = nn.initializers.zeros_init()


class WeightNormConv(nn.Module):
    """A convolution whose kernels are learned as directions and lengths (Salimans and Kingma 2016, eq. 2).

    Attributes:
      features: channels of the output.
      kernel_size: height and width of the kernel.
      dtype: type of the computation.
    """

    features: int
    kernel_size: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        """Applies the convolution, padded with zeros."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        direction = self.param("kernel", nn.initializers.normal(0.05), shape)
        length = self.param("length", nn.initializers.ones_init(), (self.features,))
        bias = self.param("bias", _ZEROS, (self.features,))
        norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(0, 1, 2)) + 1e-12)
        kernel = direction * (length / norm)[None, None, None]
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return out + bias[None, None, None]


class CouplingNet(nn.Module):
    """A residual network at one resolution (Dinh et al. 2017), whose output is zero at first.

    A residual block is two activations, each followed by a convolution; class and features are added to the first
    layer.

    Attributes:
      outputs: channels of the output.
      width: channels within.
      blocks: number of residual blocks.
      dropout: rate within each block.
      dtype: type of the computation.
    """

    outputs: int
    width: int
    blocks: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], context: FlowContext) -> Float[Array, "b h w {self.outputs}"]:
        """Applies the network."""
        if context.features is not None:
            x = jnp.concatenate([x, context.features], axis=-1)
        h = WeightNormConv(self.width, dtype=self.dtype, name="in")(x.astype(self.dtype))
        if context.classes is not None:
            of_class = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="class")(context.classes)
            h += of_class[:, None, None, :]
        for i in range(self.blocks):
            inner = WeightNormConv(self.width, dtype=self.dtype, name=f"block_{i}_conv_0")(nn.relu(h))
            inner = Dropout(self.dropout, name=f"block_{i}_dropout")(nn.relu(inner), context.dropout_keys)
            h += WeightNormConv(self.width, dtype=self.dtype, name=f"block_{i}_conv_1")(inner)
        out = nn.Conv(self.outputs, (1, 1), kernel_init=_ZEROS, dtype=self.dtype, name="out")
        return out(nn.relu(h)).astype(jnp.float32)
