"""The network of the very deep VAE (Child 2021): an encoder, and a decoder with latents at every block."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.layers import LayerInit, conv, dense

_SMALL = 2
"""Feature maps of at most this side have 1x1 convolutions only."""


class BlockPlan(NamedTuple):
    """A block of the encoder or decoder.

    Attributes:
      resolution: height and width of its input.
      rate: of an encoder's block, the factor by which it averages its output down; 1 for none.
      mixed_in: of a decoder's block, the resolution whose feature map is enlarged and added to the input; 0 for none.
    """

    resolution: int
    rate: int = 1
    mixed_in: int = 0


def parse_blocks(text: str) -> tuple[BlockPlan, ...]:
    """Returns the blocks of the official notation, such as `32x11,32d2,16x6` or `1x1,4m1,4x2`.

    `RxN` are N blocks of resolution R, `RdK` is one that averages windows of K x K pixels, and `RmS` is one that the
    feature map of resolution S is added to.

    Raises:
      ValueError: if the text is of another form.
    """
    stages: list[BlockPlan] = []
    for item in text.split(","):
        kind = next((letter for letter in "xdm" if letter in item), "")
        left, _, right = item.partition(kind or ",")
        if not (kind and left.isdecimal() and right.isdecimal() and int(left) > 0 and int(right) > 0):
            raise ValueError(
                f"The blocks {text!r} have the item {item!r}, but each must be like 32x11, 32d2 or 32m16, of positive "
                "numbers."
            )
        resolution, number = int(left), int(right)
        stages += {
            "x": [BlockPlan(resolution)] * number,
            "d": [BlockPlan(resolution, rate=number)],
            "m": [BlockPlan(resolution, mixed_in=number)],
        }[kind]
    return tuple(stages)


class BottleneckBlock(nn.Module):
    """Four convolutions with GELU before each: 1x1, 3x3 twice, 1x1.

    Attributes:
      middle: channels of the inner layers.
      features: channels of the output.
      wide: whether the two in the middle are 3x3; 1x1 otherwise.
      residual: whether the input is added to the output.
      rate: the output is averaged over windows of this side.
      last_scale: factor on the variance of the last kernel at the start.
      dtype: type of the computation.
    """

    middle: int
    features: int
    wide: bool
    residual: bool = False
    rate: int = 1
    last_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the block."""
        middle_conv = conv if self.wide else dense
        h = x.astype(self.dtype)
        h = dense(_gelu(h), self.middle, _init(), name="c1", dtype=self.dtype)
        h = middle_conv(_gelu(h), self.middle, _init(), name="c2", dtype=self.dtype)
        h = middle_conv(_gelu(h), self.middle, _init(), name="c3", dtype=self.dtype)
        h = dense(_gelu(h), self.features, _init(self.last_scale), name="c4", dtype=self.dtype)
        h = x + h if self.residual else h
        return nn.avg_pool(h, (self.rate, self.rate), (self.rate, self.rate)) if self.rate > 1 else h


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _init(scale: float = 1.0) -> LayerInit:
    """Returns PyTorch's initialization of kernels, its variance times `scale`, with biases of zero."""
    return LayerInit(scale / 3.0, "fan_in")


class Diagonal(NamedTuple):
    """A Gaussian with independent dimensions, float32."""

    mean: Float[Array, "b r r z"]
    log_sigma: Float[Array, "b r r z"]

    def at(self, eps: Float[Array, "b r r z"]) -> Float[Array, "b r r z"]:
        """Returns the point that standard normal noise stands for."""
        return self.mean + jnp.exp(self.log_sigma) * eps


class LatentBlock(nn.Module):
    """A block of the decoder: prior and posterior of its latent, which is added to the feature map, and a residual one.

    Attributes:
      features: channels of the feature map.
      middle: channels of the inner layers.
      latent_channels: of the latent.
      wide: whether there are 3x3 convolutions.
      depth: number of blocks of the decoder.
      dtype: type of the computation.
    """

    features: int
    middle: int
    latent_channels: int
    wide: bool
    depth: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Defines the layers."""
        shared = {"wide": self.wide, "dtype": self.dtype}
        z, scale = self.latent_channels, 1.0 / self.depth
        self.enc = BottleneckBlock(self.middle, 2 * z, **shared)
        self.prior = BottleneckBlock(self.middle, 2 * z + self.features, last_scale=0.0, **shared)
        self.z_proj = nn.Dense(self.features, dtype=self.dtype, kernel_init=_init(scale).kernel())
        self.resnet = BottleneckBlock(self.middle, self.features, residual=True, last_scale=scale, **shared)

    def posterior(self, x: Float[Array, "b r r c"], activations: Float[Array, "b r r c"]) -> Diagonal:
        """Returns q(z | x, latents before), from the feature map and the encoder's of the same resolution."""
        return _diagonal(self.enc(jnp.concatenate([x, activations.astype(x.dtype)], axis=-1)))

    def prior_of(self, x: Float[Array, "b r r c"]) -> tuple[Diagonal, Float[Array, "b r r c"]]:
        """Returns p(z | latents before), and the feature map with the prior's own part added."""
        outputs = self.prior(x)
        return _diagonal(outputs[..., : 2 * self.latent_channels]), x + outputs[..., 2 * self.latent_channels :]

    def finish(self, x: Float[Array, "b r r c"], latent: Float[Array, "b r r z"]) -> Float[Array, "b r r c"]:
        """Returns the feature map for a latent."""
        return self.resnet(x + self.z_proj(latent.astype(x.dtype)))


def _diagonal(outputs: Float[Array, "b r r z2"]) -> Diagonal:
    return Diagonal(*jnp.split(outputs.astype(jnp.float32), 2, axis=-1))


Choose: TypeAlias = Callable[[int, LatentBlock, Diagonal, Array], Array]
"""`(k, block, prior, x) -> latent`: of block k, whose feature map is x."""


class Inferred(NamedTuple):
    """The decoder's pass with latents of the posterior.

    Attributes:
      outputs: parameters of the images' distribution.
      features: the last feature map, from which the outputs are a linear layer.
      posteriors, priors, latents: of each block.
    """

    outputs: Float[Array, "b h w o"]
    features: Float[Array, "b h w c"]
    posteriors: tuple[Diagonal, ...]
    priors: tuple[Diagonal, ...]
    latents: tuple[Float[Array, "b _ _ z"], ...]


class VeryDeepNetwork(nn.Module):
    """Encoder and decoder.

    Parameters are float32, computation runs in `dtype`, and outputs and latents are float32. Images are square.

    Attributes:
      out_channels: parameters of the images' distribution for each pixel.
      image_size: height and width of images.
      encoder_blocks: blocks of the encoder, in the notation of `parse_blocks`.
      decoder_blocks: blocks of the decoder; each has a latent.
      width: channels of feature maps.
      latent_channels: channels of each latent.
      bottleneck: channels of the inner layers relative to those of feature maps.
      bias_up_to: highest resolution whose feature map starts at a learned constant; others start at zero.
      dtype: type of the computation.
    """

    out_channels: int
    image_size: int
    encoder_blocks: str
    decoder_blocks: str
    width: int = 384
    latent_channels: int = 16
    bottleneck: float = 0.25
    bias_up_to: int = 64
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Defines the layers."""
        check_blocks(self)
        middle, shared = int(self.width * self.bottleneck), {"dtype": self.dtype}
        encoding, decoding = parse_blocks(self.encoder_blocks), parse_blocks(self.decoder_blocks)
        self.in_conv = nn.Conv(self.width, (3, 3), padding=1, dtype=self.dtype, kernel_init=_init().kernel())
        self.encoder = [
            BottleneckBlock(
                middle,
                self.width,
                wide=stage.resolution > _SMALL,
                residual=True,
                rate=stage.rate,
                last_scale=1.0 / len(encoding),
                **shared,
            )
            for stage in encoding
        ]
        self.decoder = [
            LatentBlock(
                self.width, middle, self.latent_channels, stage.resolution > _SMALL, depth=len(decoding), **shared
            )
            for stage in decoding
        ]
        self.constants = {
            str(r): self.param(f"constant_{r}", nn.initializers.zeros_init(), (r, r, self.width))
            for r in sorted({stage.resolution for stage in decoding})
            if r <= self.bias_up_to
        }
        self.gain = self.param("gain", nn.initializers.ones_init(), (self.width,))
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        self.out = nn.Dense(self.out_channels, dtype=self.dtype, kernel_init=_init().kernel())

    def latent_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Returns the shape of each latent."""
        sides = (stage.resolution for stage in parse_blocks(self.decoder_blocks))
        return tuple((side, side, self.latent_channels) for side in sides)

    def __call__(self, images: Float[Array, "b h w c"], eps: Sequence[Float[Array, "b _ _ z"]]) -> Inferred:
        """Encodes images, standardized, and decodes latents that standard normal noise picks from the posteriors."""
        activations = self.encode(images)
        posteriors, priors, latents = [], [], []

        def choose(k: int, block: LatentBlock, prior: Diagonal, x: Array) -> Array:
            posteriors.append(block.posterior(x, activations[x.shape[1]]))
            priors.append(prior)
            latents.append(posteriors[-1].at(eps[k]))
            return latents[-1]

        features = self._decode(len(images), choose)
        return Inferred(self._outputs(features), features, tuple(posteriors), tuple(priors), tuple(latents))

    def posteriors_of_noise(
        self, images: Float[Array, "b h w c"], eps: Sequence[Float[Array, "b _ _ z"]]
    ) -> tuple[Diagonal, ...]:
        """Returns the posterior, given images, of the noise that `generate` takes; of each block given that before it.

        The latent of a block is mean + sigma * eps of its prior, so that the noise is standard normal under the prior.
        """
        activations = self.encode(images)
        posteriors = []

        def choose(k: int, block: LatentBlock, prior: Diagonal, x: Array) -> Array:
            q = block.posterior(x, activations[x.shape[1]])
            mean = (q.mean - prior.mean) * jnp.exp(-prior.log_sigma)
            posteriors.append(Diagonal(mean, q.log_sigma - prior.log_sigma))
            return prior.at(eps[k])

        self._decode(len(images), choose)
        return tuple(posteriors)

    def encode(self, images: Float[Array, "b h w c"]) -> dict[int, Float[Array, "b _ _ c2"]]:
        """Returns the last feature map of each resolution."""
        x = self.in_conv(images.astype(self.dtype))
        activations = {x.shape[1]: x}
        for block in self.encoder:
            x = block(x)
            activations[x.shape[1]] = x
        return activations

    def generate(
        self,
        eps: Sequence[Float[Array, "b _ _ z"]],
        latents: Sequence[Float[Array, "b _ _ z"] | None] = (),
        *,
        temperature: float = 1.0,
    ) -> tuple[Float[Array, "b h w o"], Float[Array, "b h w c"]]:
        """Returns outputs and features for latents of the prior.

        Args:
          eps: standard normal noise of each block.
          latents: those of the first blocks, or None, in the place of draws.
          temperature: factor on the standard deviations of the prior.
        """

        def choose(k: int, block: LatentBlock, prior: Diagonal, x: Array) -> Array:
            del block, x
            given = latents[k] if k < len(latents) else None
            return prior.at(temperature * eps[k]) if given is None else given

        features = self._decode(len(eps[0]), choose)
        return self._outputs(features), features

    def _decode(self, count: int, choose: Choose) -> Float[Array, "b h w c"]:
        """Returns the last feature map; `choose(k, block, prior, x)` returns the latent of block k."""
        maps = {int(r): jnp.tile(constant[None], (count, 1, 1, 1)) for r, constant in self.constants.items()}
        for k, (stage, block) in enumerate(zip(parse_blocks(self.decoder_blocks), self.decoder, strict=True)):
            side = stage.resolution
            x = maps.get(side, jnp.zeros((count, side, side, self.width))).astype(self.dtype)
            if stage.mixed_in:
                factor = side // stage.mixed_in
                x = x + maps[stage.mixed_in].repeat(factor, axis=1).repeat(factor, axis=2)
            prior, with_prior = block.prior_of(x)
            maps[side] = block.finish(with_prior, choose(k, block, prior, x))
        gain, bias = (value.reshape(1, 1, 1, -1).astype(self.dtype) for value in (self.gain, self.bias))
        return maps[self.image_size] * gain + bias

    def _outputs(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        return self.out(features).astype(jnp.float32)


def check_blocks(network: VeryDeepNetwork) -> None:
    """Checks that the blocks of encoder and decoder fit each other and the images.

    Raises:
      ValueError: says which block does not fit.
    """
    side, encoded = network.image_size, {network.image_size}
    for stage in parse_blocks(network.encoder_blocks):
        if stage.mixed_in or stage.resolution != side or side % stage.rate:
            raise ValueError(
                f"model.encoder_blocks has a block of resolution {stage.resolution} that {side}x{side} feature maps do "
                "not fit: blocks follow each other from the images' size on, and 32d2 takes 32x32 to 16x16."
            )
        side //= stage.rate
        encoded.add(side)
    made: set[int] = set()
    for stage in parse_blocks(network.decoder_blocks):
        fits = not stage.mixed_in or (stage.mixed_in in made and stage.resolution % stage.mixed_in == 0)
        if stage.rate > 1 or not fits or stage.resolution not in encoded:
            raise ValueError(
                f"model.decoder_blocks has a block of resolution {stage.resolution} that does not fit: the encoder has "
                f"the resolutions {sorted(encoded)}, and 8m4 must come after a block of 4."
            )
        made.add(stage.resolution)
    if network.image_size not in made:
        raise ValueError(f"model.decoder_blocks has no block of {network.image_size}, the images' height and width.")
