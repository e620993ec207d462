"""The residual generator and discriminator of SNGAN (Miyato et al. 2018, appendix B.4).

With classes they are those of cGANs with projection discriminator (Miyato and Koyama 2018); without spectral
normalization, those of the ResNet of WGAN-GP. Details follow the code of the library mimicry (Lee and Town 2020), which
reaches better figures than the paper: bilinear upsampling, and shortcuts that see rectified features. Parameters are
float32, computation runs in `dtype`, outputs are float32.
"""

import math
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.adversarial import Critique
from jaxgen.nn.batch_norm import ClassBatchNorm, UnbiasedBatchNorm
from jaxgen.nn.checks import check_halvings, check_required_label
from jaxgen.nn.critic_head import NEEDS_OF_CONDITIONING, Conditioning, CriticHead
from jaxgen.nn.layers import GLOROT, LayerInit
from jaxgen.nn.preactivation_blocks import (
    PreactivationDownBlock,
    PreactivationUpBlock,
    check_channels,
    check_downsampling,
)
from jaxgen.nn.resample import bilinear_upsample
from jaxgen.nn.spectral_norm import PowerIteration, SpectralConv, SpectralDense

NEEDS_OF_DISCRIMINATOR = NEEDS_OF_CONDITIONING

_residual_init = LayerInit(2.0, "fan_avg").kernel()  # Glorot with the gain of a ReLU
_linear_init = GLOROT.kernel()


class Generator(nn.Module):
    """A linear layer, then residual blocks that double height and width; tanh at the end.

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: length of a latent.
      channels: channels of the first feature map, then of the output of each block, of which there is one less; each
        doubles height and width. CIFAR-10 has (256, 256, 256, 256), 64x64 pixels (1024, 512, 256, 128, 64).
      num_classes: number of classes, each of which has its scales and biases in the batch normalization of blocks; 0
        for an unconditional network.
      momentum: weight of the old batch statistics in the running ones.
      axis_name: mapped axis to take batch statistics over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    channels: tuple[int, ...] = (256, 256, 256, 256)
    num_classes: int = 0
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b {self.latent_dim}"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps standard normal latents to images in [-1, 1]; see `adversarial.GeneratorNetwork`.

        Raises:
          ValueError: if labels and classes do not go together, or the blocks do not lead to the size of the images.
        """
        del keys
        check_required_label(label, self.num_classes)
        check_channels(self.channels, "generator")
        doublings = len(self.channels) - 1
        check_halvings(self.image_shape[:2], doublings, advice="have fewer generator.channels")
        base = [side // 2**doublings for side in self.image_shape[:2]]
        shared = {"momentum": self.momentum, "axis_name": self.axis_name, "dtype": self.dtype}
        norm = partial(ClassBatchNorm, self.num_classes, **shared) if self.num_classes else None
        x = SpectralDense(math.prod(base) * self.channels[0], None, _linear_init, dtype=self.dtype, name="stem")(
            latents, train=train
        )
        # As in the official weights, channels come first in the output of the linear layer.
        x = jnp.moveaxis(x.reshape(-1, self.channels[0], *base), 1, -1)
        for i, features in enumerate(self.channels[1:]):
            block = PreactivationUpBlock(
                features,
                norm or partial(UnbiasedBatchNorm, **shared),
                bilinear_upsample,
                _residual_init,
                _linear_init,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = block(x, *([label] if self.num_classes else []), train=train)
        x = nn.relu(UnbiasedBatchNorm(name="norm", **shared)(x, train=train))
        out = SpectralConv(self.image_shape[2], None, _linear_init, dtype=self.dtype, name="out")
        return jnp.tanh(out(x, train=train).astype(jnp.float32))


class Discriminator(nn.Module):
    """Residual blocks, ReLU, pooling over all pixels and a `CriticHead`.

    Attributes:
      channels: channels of the output of each block.
      num_downsampling: the number of blocks, from the first on, that halve height and width.
      pooling: how the features of pixels become those of the image: `sum`, or `mean` as in WGAN-GP.
      spectral_norm: whether all layers are spectrally normalized.
      num_classes: number of classes; 0 for an unconditional network.
      conditioning: the use of classes (`critic_head.Conditioning`); without effect if there are none.
      embedding_dim: length of the embedding that `cosine` conditioning compares with those of the classes.
      axis_name: as in `Generator`; unused, since no statistic is of a batch.
      dtype: type of the computation.
    """

    channels: tuple[int, ...] = (128, 128, 128, 128)
    num_downsampling: int = 2
    pooling: Literal["sum", "mean"] = "sum"
    spectral_norm: bool = True
    num_classes: int = 0
    conditioning: Conditioning = "projection"
    embedding_dim: int = 512
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Critique:
        """Maps images in [-1, 1] to logits; see `adversarial.DiscriminatorNetwork`.

        Raises:
          ValueError: if labels and classes do not go together, or height and width cannot be halved so often.
        """
        del keys
        check_channels(self.channels, "discriminator")
        check_downsampling(images.shape[1:3], self.num_downsampling, self.channels)
        x = images.astype(self.dtype)
        for i, channels in enumerate(self.channels):
            block = PreactivationDownBlock(
                channels,
                hidden=x.shape[-1] if i else channels,
                halves=i < self.num_downsampling,
                first=i == 0,
                rectified_shortcut=True,
                residual_init=_residual_init,
                shortcut_init=_linear_init,
                power_iteration=PowerIteration(stores_v=True) if self.spectral_norm else None,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = block(x, train=train)
        features = (jnp.sum if self.pooling == "sum" else jnp.mean)(nn.relu(x), axis=(1, 2))
        return self._head()(features, label, train=train)

    def _head(self) -> CriticHead:
        """The official code has another convention of spectral normalization where there are classes."""
        power_iteration = PowerIteration(stores_v=not self.num_classes) if self.spectral_norm else None
        return CriticHead(
            self.num_classes,
            self.conditioning,
            self.embedding_dim,
            power_iteration,
            _linear_init,
            dtype=self.dtype,
            name="head",
        )
