"""The generator of StyleGAN3 (Karras et al. 2021): equivariant to translation (T), or to rotation as well (R).

T has 3x3 convolutions and separable filters; R has 1x1 convolutions, twice the channels and radially symmetric filters.
Buffers, such as the average style `w_avg`, live in the collection `buffers`. Parameters are float32, convolutions run
in `dtype`, outputs are float32.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import check_bounds
from jaxgen.nn import styles
from jaxgen.nn.stylegan2_layers import Mapping, NoiseMode
from jaxgen.nn.stylegan3_layers import AliasFreeConv, Band, FourierInput, bands


class Generator(nn.Module):
    """The generator, from latents to images by way of one style for each layer.

    Attributes:
      image_shape: height, width, channels of an image; a power of two from 8 on.
      latent_dim: length of a latent, standard normal.
      w_dim: length of a style.
      num_mapping_layers: fully connected layers from the one to the other.
      channel_base: channels of the feature maps times twice their cutoff frequency, as far as `channel_max` allows.
      channel_max: most channels of a feature map.
      num_layers: convolutions between the Fourier features and the colors.
      num_critical: the last of them whose cutoff is half the sampling rate, as that of the image.
      margin: pixels around the image that feature maps have on each side.
      kernel_size: height and width of the kernels: 3 in T, 1 in R.
      radial_filters: whether filters before downsampling are radially symmetric, but for critical layers, as in R.
      output_scale: factor of the output.
      clamp: largest magnitude of activations, or None.
      style_mixing: in training, how often the layers from some layer on have the style of another latent.
      w_avg_decay: in training, weight of the old average of styles in the new one, with each batch.
      magnitude_decay: the same, of the mean squares of the layers' inputs.
      num_classes: number of classes; 0 for an unconditional network.
      axis_name: the mapped axis that batches are spread over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 512
    w_dim: int = 512
    num_mapping_layers: int = 2
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14
    num_critical: int = 2
    margin: int = 10
    kernel_size: int = 3
    radial_filters: bool = False
    output_scale: float = 0.25
    clamp: float | None = 256.0
    style_mixing: float = 0.0
    w_avg_decay: float = 0.998
    magnitude_decay: float = 0.999
    num_classes: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the two networks."""
        fractions = ("style_mixing", "w_avg_decay", "magnitude_decay")
        check_bounds(self, dict.fromkeys(fractions, (0, 1)), where="generator")
        height, width, colors = self.image_shape
        if height != width:
            raise ValueError(f"StyleGAN3 takes square images, not {height}x{width}: set data.image_size.")
        if self.kernel_size not in (1, 3):
            raise ValueError(f"generator.kernel_size is {self.kernel_size}, but must be 3 (T) or 1 (R).")
        self.mapping = Mapping(self.w_dim, self.num_mapping_layers, self.num_classes)
        layers = bands(
            height,
            num_layers=self.num_layers,
            num_critical=self.num_critical,
            margin=self.margin,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            colors=colors,
        )
        self.synthesis = AliasFreeSynthesis(
            tuple(layers),
            num_critical=self.num_critical,
            kernel_size=self.kernel_size,
            radial_filters=self.radial_filters,
            clamp=self.clamp,
            magnitude_decay=self.magnitude_decay,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        self.w_avg = self.variable("buffers", "w_avg", jnp.zeros, (self.w_dim,))

    @property
    def num_ws(self) -> int:
        """Number of layers that have a style: the Fourier features, the convolutions and the colors."""
        return self.num_layers + 2

    @property
    def has_noise(self) -> bool:
        """False: noise would not move with the image."""
        return False

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
        return self.synthesize(ws, train=train)

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
        noise_mode: NoiseMode = "none",
        train: bool = False,
        transform: Float[Array, "#b 3 3"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps styles to images.

        Args:
          ws: styles.
          noise_keys: of generators with noise; this one has none.
          noise_mode: as well.
          train: whether the mean squares of the layers' inputs move.
          transform: inverse of an affine transformation of the image, one for all or one each; in homogeneous
            coordinates (x, y, 1), of which the image covers [-0.5, 0.5] with y downwards. None for the buffer
            `transform` of the input, which is the identity in new networks.
        """
        del noise_keys, noise_mode
        return self.output_scale * self.synthesis(ws, transform, train=train)


class AliasFreeSynthesis(nn.Module):
    """Fourier features, filtered convolutions and colors (figure 4b).

    Attributes:
      bands: of the output of each layer, the last one of the colors.
      num_critical, kernel_size, radial_filters, clamp, magnitude_decay, axis_name, dtype: as in `Generator`.
    """

    bands: tuple[Band, ...]
    num_critical: int
    kernel_size: int
    radial_filters: bool
    clamp: float | None
    magnitude_decay: float
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, ws: Float[Array, "b n d"], transform: Float[Array, "#b 3 3"] | None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Maps styles to images, before their scale."""
        x = FourierInput(self.bands[0], name="input")(ws[:, 0], transform)
        last = len(self.bands) - 1
        for i, after in enumerate(self.bands):
            conv = AliasFreeConv(
                self.bands[max(i - 1, 0)],
                after,
                size=1 if i == last else self.kernel_size,
                radial=self.radial_filters and i < last - self.num_critical,
                to_rgb=i == last,
                clamp=self.clamp,
                magnitude_decay=self.magnitude_decay,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"L{i}_{after.size}_{after.features}",
            )
            x = conv(x, ws[:, i + 1], train=train)
        return x.astype(jnp.float32)
