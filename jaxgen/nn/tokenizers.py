"""Networks of tokenizers by name: encoders to vectors that a quantizer takes, and decoders of quantized vectors.

All have the same functions, so that a method can be trained with any of them.
"""

import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.core import config
from jaxgen.nn.autoencoder_kl import KLDecoder, KLEncoder, autoencoder_style, check_levels
from jaxgen.nn.checks import check_halvings
from jaxgen.nn.layers import GLOROT, DownConv, UpConv, conv, dense
from jaxgen.nn.named_networks import fields_of, networks_in


@runtime_checkable
class TokenizerNetwork(Protocol):
    """A Flax module with the fields `image_channels`, `code_dim` and `dtype`; its call reconstructs images.

    `decoder/conv_out/kernel` of its parameters is the kernel whose outputs are the image.
    """

    @property
    def stride(self) -> int:
        """Height and width of an image relative to those of its feature map."""
        ...

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h_z w_z d"]:
        """Returns `code_dim` float32 numbers for each place of images in [-1, 1], before quantization."""
        ...

    def decode(self, z: Float[Array, "b h_z w_z d"]) -> Float[Array, "b h w c"]:
        """Returns float32 images, roughly in [-1, 1], from quantized vectors."""
        ...


def make_tokenizer_network(
    section: Mapping[str, Any], *, image_channels: int, code_dim: int, dtype: DTypeLike, where: str = "model"
) -> nn.Module:
    """Builds the network that a section names: `name` is a class here, such as `tokenizers.StridedAutoencoder`.

    The rest of the section are its fields.

    Raises:
      ValueError: if there is no such network, or a field is unknown or of a wrong type.
    """
    settings = dict(section)
    own = networks_in(sys.modules[__name__], lambda network: fields_of(network) >= {"image_channels", "code_dim"})
    networks = {f"tokenizers.{name}": network for name, network in own.items()}
    network = config.choose(networks, settings.pop("name", ""), where=f"{where}.name")
    return config.call(network, settings, where=where, image_channels=image_channels, code_dim=code_dim, dtype=dtype)


class AttentionAutoencoder(nn.Module):
    """The VQ-GAN's networks (Esser et al. 2021, table 7), of LlamaGen (Sun et al. 2024): attention at the lowest level.

    Parameters are float32, computation runs in `dtype`. The defaults are LlamaGen's VQ-16.

    Attributes:
      image_channels: channels of the images.
      code_dim: length of the vectors that are quantized.
      latent_channels: channels of the feature maps on either side of the 1x1 convolutions to and from these.
      block_channels: width of each level, highest resolution first.
      stem_channels: width of the encoder's first convolution; None for that of the first level.
      decoder_channels: widths of as many levels of the decoder, highest resolution first; None for the encoder's.
      num_res_blocks: residual blocks a level of the encoder; the decoder has one more.
      num_groups: groups of the normalizations; the widths must be multiples of it.
      dtype: type of the computation.
    """

    image_channels: int = 3
    code_dim: int = 8
    latent_channels: int = 256
    block_channels: tuple[int, ...] = (128, 128, 256, 256, 512)
    stem_channels: int | None = None
    decoder_channels: tuple[int, ...] | None = None
    num_res_blocks: int = 2
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Returns 2 to the number of levels but one."""
        return 2 ** (len(self.block_channels) - 1)

    def setup(self) -> None:
        """Creates the two halves, and the 1x1 convolutions on either side of the vectors."""
        style = autoencoder_style(self.num_groups, self.dtype)
        rest = (self.num_res_blocks, style, True)
        self.encoder = KLEncoder(self.latent_channels, self.block_channels, *rest, self.stem_channels)
        self.quant_conv = nn.Dense(self.code_dim, dtype=self.dtype, kernel_init=GLOROT.kernel())
        self.post_quant_conv = nn.Dense(self.latent_channels, dtype=self.dtype, kernel_init=GLOROT.kernel())
        self.decoder = KLDecoder(self.image_channels, self._decoder_channels, *rest)

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h_z w_z {self.code_dim}"]:
        """Returns vectors.

        Raises:
          ValueError: if the images cannot be halved between all levels, a width is no multiple of `num_groups`, or the
            decoder has another number of levels.
        """
        if len(self._decoder_channels) != len(self.block_channels):
            raise ValueError(
                f"model.decoder_channels is {self.decoder_channels}, but must have as many levels as block_channels, "
                f"{self.block_channels}."
            )
        check_levels(x, self.block_channels, self.num_groups)
        check_levels(x, self._decoder_channels, self.num_groups)
        return self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)

    def decode(self, z: Float[Array, "b h_z w_z {self.code_dim}"]) -> Float[Array, "b h w {self.image_channels}"]:
        """Returns images."""
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.image_channels}"]:
        """Reconstructs images without quantization."""
        return self.decode(self.encode(x))

    @property
    def _decoder_channels(self) -> tuple[int, ...]:
        return self.block_channels if self.decoder_channels is None else self.decoder_channels


class StridedAutoencoder(nn.Module):
    """The VQ-VAE's networks (van den Oord et al. 2017, section 4.1): strided convolutions, then residual blocks.

    Parameters are float32, computation runs in `dtype`. The defaults are the paper's.

    Attributes:
      image_channels: channels of the images.
      code_dim: length of the vectors that are quantized.
      width: channels of all layers.
      num_halvings: 4x4 convolutions of stride 2, each with its ReLU.
      num_res_blocks: residual blocks after them: ReLU, 3x3, ReLU, 1x1.
      dtype: type of the computation.
    """

    image_channels: int = 3
    code_dim: int = 64
    width: int = 256
    num_halvings: int = 2
    num_res_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Returns 2 to the number of halvings."""
        return 2**self.num_halvings

    def setup(self) -> None:
        """Creates the two halves."""
        shared = (self.width, self.num_halvings, self.num_res_blocks, self.dtype)
        self.encoder = StridedEncoder(self.code_dim, *shared)
        self.decoder = StridedDecoder(self.image_channels, *shared)

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h_z w_z {self.code_dim}"]:
        """Returns vectors.

        Raises:
          ValueError: if the images cannot be halved so often.
        """
        check_halvings(x.shape[1:3], self.num_halvings, advice="set model.num_halvings lower")
        return self.encoder(x.astype(self.dtype)).astype(jnp.float32)

    def decode(self, z: Float[Array, "b h_z w_z {self.code_dim}"]) -> Float[Array, "b h w {self.image_channels}"]:
        """Returns images."""
        return self.decoder(z.astype(self.dtype)).astype(jnp.float32)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.image_channels}"]:
        """Reconstructs images without quantization."""
        return self.decode(self.encode(x))


class StridedEncoder(nn.Module):
    """From images to `out_channels` numbers for each place."""

    out_channels: int
    width: int
    num_halvings: int
    num_res_blocks: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h_z w_z {self.out_channels}"]:
        """Applies the layers."""
        h = x
        for i in range(self.num_halvings):
            h = nn.relu(DownConv(self.width, dtype=self.dtype, name=f"down_{i}")(h))
        h = conv(h, self.width, GLOROT, name="conv_in", dtype=self.dtype)
        h = _residual_blocks(h, self.num_res_blocks, self.dtype)
        return dense(h, self.out_channels, GLOROT, name="conv_out", dtype=self.dtype)


class StridedDecoder(nn.Module):
    """From vectors to images of `out_channels`."""

    out_channels: int
    width: int
    num_halvings: int
    num_res_blocks: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, z: Float[Array, "b h_z w_z d"]) -> Float[Array, "b h w {self.out_channels}"]:
        """Applies the layers."""
        h = conv(z, self.width, GLOROT, name="conv_in", dtype=self.dtype)
        h = _residual_blocks(h, self.num_res_blocks, self.dtype)
        for i in range(self.num_halvings - 1):
            h = nn.relu(UpConv(self.width, dtype=self.dtype, name=f"up_{i}")(h))
        return UpConv(self.out_channels, dtype=self.dtype, name="conv_out")(h)


def _residual_blocks(h: Float[Array, "b h w c"], number: int, dtype: DTypeLike) -> Float[Array, "b h w c"]:
    width = h.shape[-1]
    for i in range(number):
        inner = conv(nn.relu(h), width, GLOROT, name=f"block_{i}_conv", dtype=dtype)
        h = h + dense(nn.relu(inner), width, GLOROT, name=f"block_{i}_dense", dtype=dtype)
    return nn.relu(h)
