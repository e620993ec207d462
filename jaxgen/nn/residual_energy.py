"""The residual energy of Du and Mordatch 2019: SNGAN's blocks with a smooth activation, without normalization."""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.checks import check_required_label
from jaxgen.nn.critic_head import CriticHead
from jaxgen.nn.layers import GLOROT, LayerInit
from jaxgen.nn.preactivation_blocks import PreactivationDownBlock, check_channels, check_downsampling
from jaxgen.nn.spectral_norm import PowerIteration, SpectralConv

_ACTIVATIONS = {"swish": nn.swish, "gelu": nn.gelu, "softplus": nn.softplus}
_residual_init = LayerInit(2.0, "fan_avg").kernel()
_linear_init = GLOROT.kernel()


class ResidualEnergy(nn.Module):
    """A convolution, residual blocks, pooling and a linear layer to one number (Du and Mordatch 2019).

    Attributes:
      channels: channels of each stage.
      num_blocks: residual blocks of a stage.
      num_downsampling: the number of stages, from the first on, whose first block halves height and width.
      activation: smooth, since the gradient with respect to the image is what sampling follows.
      pooling: how the features of pixels become those of the image: `sum` or `mean`.
      spectral_norm: whether all layers are divided by their largest singular values, which bounds the gradient.
      num_classes: number of classes, each of which has a vector whose inner product with the features of the image is
        added (Miyato and Koyama 2018, eq. 5); 0 for an unconditional energy.
      dtype: type of the computation.
    """

    channels: tuple[int, ...] = (128, 256, 512)
    num_blocks: int = 3
    num_downsampling: int = 3
    activation: Literal["swish", "gelu", "softplus"] = "swish"
    pooling: Literal["sum", "mean"] = "sum"
    spectral_norm: bool = False
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def energies(
        self, images: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Returns the energies of images; see `energy.EnergyNetwork`.

        Raises:
          ValueError: if labels and classes do not go together, there are no blocks, or height and width cannot be
            halved so often.
        """
        self._check(images, label)
        # One iteration from the stored vector normalizes averaged weights, too, whose vectors are not averaged.
        power_iteration = PowerIteration(stores_v=False) if self.spectral_norm else None
        activation = _ACTIVATIONS[self.activation]
        x = SpectralConv(self.channels[0], power_iteration, _linear_init, self.dtype, name="stem")(images, train=train)
        for stage, channels in enumerate(self.channels):
            for i in range(self.num_blocks):
                block = PreactivationDownBlock(
                    channels,
                    hidden=channels,
                    halves=i == 0 and stage < self.num_downsampling,
                    first=False,
                    rectified_shortcut=False,
                    residual_init=_residual_init,
                    shortcut_init=_linear_init,
                    power_iteration=power_iteration,
                    dtype=self.dtype,
                    activation=activation,
                    name=f"block_{stage}_{i}",
                )
                x = block(x, train=train)
        pool = jnp.sum if self.pooling == "sum" else jnp.mean
        features = pool(activation(x).astype(jnp.float32), axis=(1, 2))
        conditioning: Literal["projection", "none"] = "projection" if self.num_classes else "none"
        settings = {"power_iteration": power_iteration, "kernel_init": _linear_init, "dtype": self.dtype}
        return CriticHead(self.num_classes, conditioning, name="head", **settings)(features, label, train=train).logits

    def _check(self, images: Float[Array, "b h w c"], label: Int[Array, " b"] | None) -> None:
        check_required_label(label, self.num_classes)
        check_channels(self.channels, "model")
        check_downsampling(images.shape[1:3], self.num_downsampling, self.channels, where="model")
        if self.num_blocks < 1:
            raise ValueError(f"model.num_blocks is {self.num_blocks}, but must be at least 1.")
