"""Residual blocks of SNGAN, SAGAN and BigGAN: ReLU before each 3x3 convolution, and a shortcut through a 1x1 one.

A 1x1 convolution commutes with averages and interpolation, and is done where the feature map is smaller.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.checks import check_halvings
from jaxgen.nn.resample import downsample
from jaxgen.nn.spectral_norm import PowerIteration, SpectralConv, SpectralDense


class PreactivationUpBlock(nn.Module):
    """A block of a generator, which doubles height and width.

    Attributes:
      features: channels of the output.
      norm: `norm(name=...)` is a layer of normalization, `(x, *condition, train=...) -> x`.
      upsample: doubles height and width of a map.
      residual_init: initializer of 3x3 kernels.
      shortcut_init: initializer of the 1x1 kernel.
      power_iteration: the convention of spectral normalization; None for none.
      dtype: type of the computation.
    """

    features: int
    norm: Callable[..., nn.Module]
    upsample: Callable[[Array], Array]
    residual_init: nn.initializers.Initializer
    shortcut_init: nn.initializers.Initializer
    power_iteration: PowerIteration | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *condition: Any, train: bool
    ) -> Float[Array, "b 2*h 2*w {self.features}"]:
        """Applies the block; the condition is what the normalization takes."""
        shared = {"power_iteration": self.power_iteration, "dtype": self.dtype}
        y = self.upsample(nn.relu(self.norm(name="norm_0")(x, *condition, train=train)))
        y = SpectralConv(self.features, kernel_init=self.residual_init, name="conv_0", **shared)(y, train=train)
        y = nn.relu(self.norm(name="norm_1")(y, *condition, train=train))
        y = SpectralConv(self.features, kernel_init=self.residual_init, name="conv_1", **shared)(y, train=train)
        shortcut = SpectralDense(self.features, kernel_init=self.shortcut_init, name="shortcut", **shared)
        return y + self.upsample(shortcut(x, train=train))


class PreactivationDownBlock(nn.Module):
    """A block of a discriminator, which may halve height and width.

    Attributes:
      features: channels of the output.
      hidden: channels between the two convolutions.
      halves: whether height and width are halved, by averages of 2x2 pixels.
      first: whether the input is an image, to which no ReLU is applied.
      rectified_shortcut: whether the shortcut sees what comes out of the first ReLU, if there is one.
      residual_init, shortcut_init, power_iteration, dtype: as in `PreactivationUpBlock`.
      activation: in the place of the ReLU; energies have smooth ones, since their gradients are learned.
    """

    features: int
    hidden: int
    halves: bool
    first: bool
    rectified_shortcut: bool
    residual_init: nn.initializers.Initializer
    shortcut_init: nn.initializers.Initializer
    power_iteration: PowerIteration | None = None
    dtype: DTypeLike = jnp.float32
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the block."""
        shared = {"power_iteration": self.power_iteration, "dtype": self.dtype}
        y = x if self.first else self.activation(x)
        skip = y if self.rectified_shortcut else x
        y = SpectralConv(self.hidden, kernel_init=self.residual_init, name="conv_0", **shared)(y, train=train)
        y = SpectralConv(self.features, kernel_init=self.residual_init, halves=self.halves, name="conv_1", **shared)(
            self.activation(y), train=train
        )
        if self.halves:
            skip = downsample(skip)
        if self.halves or skip.shape[-1] != self.features:
            shortcut = SpectralDense(self.features, kernel_init=self.shortcut_init, name="shortcut", **shared)
            skip = shortcut(skip, train=train)
        return y + skip


def check_channels(channels: tuple[int, ...], player: str) -> None:
    """Refuses networks without channels.

    Raises:
      ValueError: says what is allowed.
    """
    if not channels or min(channels) < 1:
        raise ValueError(f"{player}.channels is {channels}, but must have at least one number, and all positive.")


def check_downsampling(
    sides: tuple[int, ...], num_downsampling: int, channels: tuple[int, ...], *, where: str = "discriminator"
) -> None:
    """Refuses a network, of the section `where`, whose blocks cannot halve images so often.

    Raises:
      ValueError: says what is allowed.
    """
    if not 0 <= num_downsampling <= len(channels):
        raise ValueError(
            f"{where}.num_downsampling is {num_downsampling}, but must lie in [0, {len(channels)}]: there is one block "
            f"or stage for each of {where}.channels."
        )
    check_halvings(sides, num_downsampling, advice=f"lower {where}.num_downsampling")
