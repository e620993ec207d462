"""The generator of StyleGAN2 (Karras et al. 2020): a mapping network, and a synthesis network with skip connections.

Two buffers are no parameters: the average style `w_avg`, which is kept in training, and constant noise. They live in
the collection `buffers`. Parameters are float32, synthesis runs in `dtype`, outputs are float32.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import check_bounds
from jaxgen.nn import styles
from jaxgen.nn.resample import upsample
from jaxgen.nn.stylegan2_layers import TAPS, Mapping, NoiseMode, StyledConv, ToRGB, channels_at, resolutions


class Generator(nn.Module):
    """The generator, from latents to images by way of one style for each layer.

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: length of a latent, standard normal.
      w_dim: length of a style.
      num_mapping_layers: fully connected layers from the one to the other.
      channel_base: channels of the feature maps times their side, as far as `channel_max` allows.
      channel_max: most channels of a feature map.
      clamp: largest magnitude of activations, or None; 256 in the official training in half precision.
      style_mixing: in training, how often the layers from some layer on have the style of another latent.
      w_avg_decay: in training, weight of the old average of styles in the new one, with each batch.
      num_classes: number of classes; 0 for an unconditional network.
      axis_name: mapped axis to take the average over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 512
    w_dim: int = 512
    num_mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    clamp: float | None = None
    style_mixing: float = 0.9
    w_avg_decay: float = 0.995
    num_classes: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the two networks."""
        check_bounds(self, {"style_mixing": (0, 1), "w_avg_decay": (0, 1)}, where="generator")
        self.mapping = Mapping(self.w_dim, self.num_mapping_layers, self.num_classes)
        self.synthesis = Synthesis(self.image_shape, self.channel_base, self.channel_max, self.clamp, self.dtype)
        self.w_avg = self.variable("buffers", "w_avg", jnp.zeros, (self.w_dim,))

    @property
    def num_ws(self) -> int:
        """Number of layers that have a style."""
        return 2 * len(resolutions(self.image_shape))

    @property
    def has_noise(self) -> bool:
        """True: each layer adds noise to its feature maps."""
        return True

    def __call__(
        self,
        latents: Float[Array, "b {self.latent_dim}"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps latents to images, which are not clipped to [-1, 1]; see `adversarial.GeneratorNetwork`."""
        ws = self.training_styles(latents, label, keys) if train else self.styles(latents, label)
        return self.synthesize(ws, noise_keys=keys, noise_mode="const" if keys is None else "random")

    def styles(
        self, latents: Float[Array, "b {self.latent_dim}"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b {self.num_ws} {self.w_dim}"]:
        """Returns the style of each latent, once for each layer."""
        return jnp.repeat(self.mapping(latents, label)[:, None], self.num_ws, axis=1)

    def training_styles(
        self,
        latents: Float[Array, "b {self.latent_dim}"],
        label: Int[Array, " b"] | None,
        keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b {self.num_ws} {self.w_dim}"]:
        """Returns styles as in training, mixed by the keys; the average style moves.

        Raises:
          ValueError: if styles are to be mixed, and there are no keys.
        """
        ws = self.styles(latents, label)
        self.w_avg.value = styles.moved_average(
            self.w_avg.value, ws[:, 0], decay=self.w_avg_decay, axis_name=self.axis_name
        )
        return styles.mixed(
            ws,
            keys,
            lambda z: self.styles(z, label),
            latent_dim=self.latent_dim,
            probability=self.style_mixing,
        )

    def truncate(
        self, ws: Float[Array, "b {self.num_ws} {self.w_dim}"], *, psi: float, cutoff: int | None = None
    ) -> Float[Array, "b {self.num_ws} {self.w_dim}"]:
        """Moves styles towards their average; see `styles.truncate`."""
        return styles.truncate(ws, self.w_avg.value, psi=psi, cutoff=cutoff)

    def synthesize(
        self,
        ws: Float[Array, "b {self.num_ws} {self.w_dim}"],
        *,
        noise_keys: Key[Array, " b"] | None = None,
        noise_mode: NoiseMode = "const",
    ) -> Float[Array, "b h w c"]:
        """Maps styles to images.

        Args:
          ws: styles.
          noise_keys: one key an image, for random noise.
          noise_mode: what noise there is.

        Raises:
          ValueError: if noise is to be random, and there are no keys.
        """
        return self.synthesis(ws, noise_keys, noise_mode)


class Synthesis(nn.Module):
    """Blocks of doubling resolution, each of which adds to the image (figure 7b). Attributes as in `Generator`."""

    image_shape: tuple[int, int, int]
    channel_base: int
    channel_max: int
    clamp: float | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, ws: Float[Array, "b n d"], noise_keys: Key[Array, " b"] | None, noise_mode: NoiseMode
    ) -> Float[Array, "b h w c"]:
        """Maps styles to images."""
        x, image = None, None
        for i, side in enumerate(resolutions(self.image_shape)):
            block = SynthesisBlock(
                channels_at(side, self.channel_base, self.channel_max),
                self.image_shape[-1],
                self.clamp,
                self.dtype,
                name=f"b{side}",
            )
            # The last style of a block, of its colors, is also the first of the next one.
            x, image = block(x, image, ws[:, max(2 * i - 1, 0) : 2 * i + 2], noise_keys, noise_mode)
        assert image is not None
        return image


class SynthesisBlock(nn.Module):
    """Two styled convolutions, the first of which doubles the resolution, and colors; the first block has one.

    Attributes:
      features: channels of the feature maps.
      colors: channels of the image.
      clamp, dtype: as in `Generator`.
    """

    features: int
    colors: int
    clamp: float | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"] | None,
        image: Float[Array, "b h w colors"] | None,
        ws: Float[Array, "b n d"],
        noise_keys: Key[Array, " b"] | None,
        noise_mode: NoiseMode,
    ) -> tuple[Float[Array, "b h2 w2 {self.features}"], Float[Array, "b h2 w2 colors"]]:
        """Maps the feature maps and the image so far; there are none before the first block."""
        shared = {"clamp": self.clamp, "dtype": self.dtype}
        if x is None:
            const = self.param("const", nn.initializers.normal(1.0), (4, 4, self.features))
            x = jnp.broadcast_to(const[None], (len(ws), *const.shape))
        else:
            x = StyledConv(self.features, up=True, name="conv0", **shared)(x, ws[:, 0], noise_keys, noise_mode)
        x = StyledConv(self.features, name="conv1", **shared)(x, ws[:, -2], noise_keys, noise_mode)
        colors = ToRGB(self.colors, name="torgb", **shared)(x, ws[:, -1])
        return x, colors if image is None else upsample(image, TAPS) + colors
