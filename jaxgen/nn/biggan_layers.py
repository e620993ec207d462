"""Layers that BigGAN and BigGAN-deep (Brock et al. 2019) share; all are spectrally normalized, but for embeddings."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.batch_norm import ConditionalBatchNorm, UnbiasedBatchNorm
from jaxgen.nn.checks import check_halvings, check_required_label
from jaxgen.nn.layers import GLOROT
from jaxgen.nn.non_local_block import NonLocalBlock
from jaxgen.nn.preactivation_blocks import check_channels
from jaxgen.nn.spectral_norm import PowerIteration, SpectralConv, SpectralDense

KernelInit: TypeAlias = Literal["orthogonal", "normal", "glorot"]
"""Initialization of kernels and embeddings: orthogonal (ImageNet), N(0, 0.02^2) (CIFAR-10) or Glorot's (SAGAN)."""

Condition: TypeAlias = Float[Array, "b condition"] | Int[Array, " b"] | None
"""A condition of batch normalization: a vector, a class, or nothing."""

INITIALIZERS: dict[str, nn.initializers.Initializer] = {
    "orthogonal": nn.initializers.orthogonal(),
    "normal": nn.initializers.normal(0.02),
    "glorot": GLOROT.kernel(),
}


class SpectralStyle(NamedTuple):
    """The settings that the layers of a network have in common.

    Attributes:
      kernel_init: initializer of kernels.
      power_iteration: the convention of spectral normalization.
      dtype: type of the computation.
    """

    kernel_init: nn.initializers.Initializer
    power_iteration: PowerIteration
    dtype: DTypeLike

    @classmethod
    def of(cls, kernel_init: KernelInit, power_iterations: int, dtype: DTypeLike) -> "SpectralStyle":
        """Returns the style of a network's fields."""
        power_iteration = PowerIteration(stores_v=False, iterations=power_iterations)
        return cls(INITIALIZERS[kernel_init], power_iteration, dtype)

    def dense(self, features: int, *, name: str) -> SpectralDense:
        """Returns a linear layer, or 1x1 convolution."""
        return SpectralDense(features, self.power_iteration, self.kernel_init, dtype=self.dtype, name=name)

    def conv(self, features: int, *, name: str) -> SpectralConv:
        """Returns a 3x3 convolution."""
        return SpectralConv(features, self.power_iteration, self.kernel_init, self.dtype, name=name)

    def attention(self, *, name: str) -> NonLocalBlock:
        """Returns a layer of self-attention."""
        return NonLocalBlock(self.power_iteration, self.kernel_init, self.dtype, name=name)


class GeneratorStyle(NamedTuple):
    """The settings that the layers of a generator have in common.

    Attributes:
      layers: of all layers.
      num_classes: number of classes, for tables of them in batch normalization.
      momentum: weight of the old batch statistics in the running ones.
      axis_name: mapped axis to take batch statistics over.
    """

    layers: SpectralStyle
    num_classes: int
    momentum: float
    axis_name: str | None

    def norm(self, *, name: str) -> UnbiasedBatchNorm:
        """Returns batch normalization with a scale and bias of its own."""
        return UnbiasedBatchNorm(self.momentum, axis_name=self.axis_name, dtype=self.layers.dtype, name=name)

    def norm_of(self, condition: Condition) -> Callable[..., nn.Module]:
        """Returns batch normalization under a condition, as a function of the layer's name."""
        if condition is None:
            return self.norm
        return partial(
            ConditionalBatchNorm,
            self.num_classes,
            self.layers.power_iteration,
            self.layers.kernel_init,
            self.momentum,
            self.axis_name,
            self.layers.dtype,
        )

    def first_map(
        self, x: Float[Array, "b d"], base: tuple[int, int], channels: int, *, train: bool
    ) -> Float[Array, "b h w {channels}"]:
        """Returns the first feature map, whose channels come first in the layer's output, as in official weights."""
        x = self.layers.dense(math.prod(base) * channels, name="stem")(x, train=train)
        return jnp.moveaxis(x.reshape(-1, channels, *base), 1, -1)

    def image(self, x: Float[Array, "b h w c"], colors: int, *, train: bool) -> Float[Array, "b h w {colors}"]:
        """Returns the image of the last feature map."""
        x = nn.relu(self.norm(name="norm")(x, train=train))
        return jnp.tanh(self.layers.conv(colors, name="out")(x, train=train).astype(jnp.float32))


def embed_class(
    label: Int[Array, " b"] | None, num_classes: int, shared_dim: int, kernel_init: KernelInit
) -> Condition:
    """Returns the shared embedding of classes; the classes, if it has no length; nothing, if there are none.

    Raises:
      ValueError: if labels and classes do not go together.
    """
    check_required_label(label, num_classes)
    if label is None or shared_dim == 0:
        return label
    return nn.Embed(num_classes, shared_dim, embedding_init=INITIALIZERS[kernel_init], name="shared")(label)


def base_of(image_shape: tuple[int, int, int], channels: tuple[int, ...]) -> tuple[int, int]:
    """Returns height and width of a generator's first feature map, which each further number of channels doubles.

    Raises:
      ValueError: if the images cannot be halved so often, or there are no channels.
    """
    check_channels(channels, "generator")
    doublings = len(channels) - 1
    check_halvings(image_shape[:2], doublings, advice="have fewer generator.channels")
    return image_shape[0] // 2**doublings, image_shape[1] // 2**doublings


def check_attention(attention: tuple[int, ...], heights: list[int], player: str) -> None:
    """Refuses attention at heights that no feature map has.

    Raises:
      ValueError: says what heights there are.
    """
    unknown = [height for height in attention if height not in heights]
    if unknown:
        raise ValueError(
            f"{player}.attention has {unknown[0]}, but the feature maps after its blocks have the heights "
            f"{', '.join(map(str, dict.fromkeys(heights)))}."
        )
