"""The generator and the discriminator of R3GAN (Huang et al. 2024): residual stages without normalization.

A stage has one resolution, half that of the next: a transition, which is the base or a change of resolution, and blocks
of 1x1, grouped 3x3 and 1x1 convolutions. The discriminator is the mirror image of the generator. Images have any sides
that can be halved between stages; the base is what is left, 4x4 in the official presets.

Parameters are float32, computation runs in `dtype` but for the coarsest stages, and outputs are float32.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import Need
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.checks import check_required_label
from jaxgen.nn.grouped_conv import GroupedConv
from jaxgen.nn.resample import downsample, upsample

TAPS = (1, 3, 3, 1)
"""Bilinear interpolation: the filter [1, 2, 1] at the double resolution, over the box that repeats pixels."""

_SLOPE = 0.2
_GAIN = math.sqrt(2.0 / (1.0 + _SLOPE**2))

NEEDS_OF_GENERATOR = {"label_features": Need("classes", lambda network: network.num_classes > 0)}
NEEDS_OF_DISCRIMINATOR = NEEDS_OF_GENERATOR
"""Fields without an effect, unless others are as said."""


class Generator(nn.Module):
    """The generator, from latents, beside an embedding of the class, to images.

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: values of a latent.
      widths: channels of each stage, the coarsest first.
      groups: groups of the 3x3 convolutions of each stage.
      blocks: residual blocks of each stage.
      expansion: channels within a block relative to those of its stage.
      label_features: features of the embedded class; None for `latent_dim`.
      float32_stages: the coarsest stages, whose computation is float32 whatever `dtype` is.
      num_classes: number of classes; 0 for an unconditional network.
      axis_name: not used, since images do not depend on each other.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 64
    widths: tuple[int, ...] = (768, 768, 768, 768)
    groups: tuple[int, ...] = (96, 96, 96, 96)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    expansion: int = 2
    label_features: int | None = None
    float32_stages: int = 1
    num_classes: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps standard normal latents to images, about in [-1, 1]; `train` and `keys` have no effect.

        Raises:
          ValueError: if the stages do not fit each other or the images, or there is not the label that there must be.
        """
        del train, keys
        base = _base(self, self.image_shape[:2])
        check_required_label(label, self.num_classes)
        if label is not None:
            features = self.label_features or self.latent_dim
            latents = jnp.concatenate([latents, _embed(label, self.num_classes, features, name="label")], axis=-1)
        x = Basis(base, self.widths[0], name="stage0_basis")(latents)
        for i, (width, groups, blocks) in enumerate(zip(self.widths, self.groups, self.blocks, strict=True)):
            x = x.astype(jnp.float32 if i < self.float32_stages else self.dtype)
            if i > 0:
                x = TransitionLayer(width, up=True, name=f"stage{i}_transition")(x)
            x = _blocks(self, i, x, groups, blocks)
        return _conv1x1(x, self.image_shape[2], name="out").astype(jnp.float32)


class Discriminator(nn.Module):
    """The discriminator, from images to logits; of classes, by projection (Miyato and Koyama 2018).

    Attributes:
      widths, groups, blocks, expansion, float32_stages: as in `Generator`, in the same order.
      label_features: features of the embedded class, onto which those of the image are projected; None for the channels
        of the coarsest stage.
      num_classes, axis_name, dtype: as in `Generator`.
    """

    widths: tuple[int, ...] = (768, 768, 768, 768)
    groups: tuple[int, ...] = (96, 96, 96, 96)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    expansion: int = 2
    label_features: int | None = None
    float32_stages: int = 1
    num_classes: int = 0
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
        """Evaluates images in [-1, 1]; `train` and `keys` have no effect.

        Raises:
          ValueError: if the stages do not fit each other or the images, or there is not the label that there must be.
        """
        del train, keys
        _base(self, images.shape[1:3])
        check_required_label(label, self.num_classes)
        stages = list(zip(self.widths, self.groups, self.blocks, strict=True))
        x = images.astype(_stage_dtype(self, len(stages) - 1))
        x = _conv1x1(x, self.widths[-1], name="in")
        for i, (_, groups, blocks) in reversed(list(enumerate(stages))):
            x = _blocks(self, i, x.astype(_stage_dtype(self, i)), groups, blocks)
            if i > 0:
                x = TransitionLayer(self.widths[i - 1], up=False, name=f"stage{i}_transition")(x)
        pooled = Pool(name="stage0_pool")(x)
        width = (self.label_features or self.widths[0]) if self.num_classes else 1
        out = _dense(pooled, width, name="stage0_out").astype(jnp.float32)
        if label is not None:
            out = out * _embed(label, self.num_classes, width, gain=1.0 / math.sqrt(width), name="label")
        return Critique(jnp.sum(out, axis=-1), pooled.astype(jnp.float32))


class GroupedBlock(nn.Module):
    """A residual block: a 1x1 convolution, a grouped 3x3 one and a 1x1 one, which starts at zero.

    The activations between them are leaky ReLUs of what has a bias added.

    Attributes:
      groups, expansion: as in `Generator`, of this stage.
      depth: number of all residual blocks, by which the weights are scaled at the start so that activations neither
        grow nor shrink with it (Zhang et al. 2019, "Fixup initialization").
    """

    groups: int
    expansion: int
    depth: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x + f(x); computation runs in the type of x."""
        channels = x.shape[-1]
        inner = channels * self.expansion
        gain = _GAIN * self.depth ** (-1.0 / 4.0)  # L^(-1 / (2 m - 2)) for branches of m = 3 layers
        y = self._activate(_conv1x1(x, inner, gain=gain, name="conv0"), "bias0")
        grouped = GroupedConv(inner, self.groups, _normal(9 * inner // self.groups, gain), name="conv1")
        y = self._activate(grouped(y), "bias1")
        return x + _conv1x1(y, channels, gain=0.0, name="conv2")

    def _activate(self, x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
        bias = self.param(name, nn.initializers.zeros_init(), (x.shape[-1],))
        return nn.leaky_relu(x + bias.astype(x.dtype).reshape(1, 1, 1, -1), _SLOPE)


class TransitionLayer(nn.Module):
    """A change of resolution, by a factor of 2, and of the number of channels.

    Attributes:
      features: channels of the output. A 1x1 convolution, at the lower resolution, makes them where the input has
        another number.
      up: whether to double the resolution.
    """

    features: int
    up: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
        """Resamples, after the convolution on the way up and before it on the way down."""
        if not self.up:
            x = downsample(x, TAPS)
        if x.shape[-1] != self.features:
            x = _conv1x1(x, self.features, name="conv")
        return upsample(x, TAPS) if self.up else x


class Basis(nn.Module):
    """Feature maps that are learned, each times a linear function of the latents.

    Attributes:
      sides: height and width.
      features: number of maps.
    """

    sides: tuple[int, int]
    features: int

    @nn.compact
    def __call__(self, latents: Float[Array, "b d"]) -> Float[Array, "b h w {self.features}"]:
        """Returns the maps, float32."""
        basis = self.param("basis", nn.initializers.normal(1.0), (*self.sides, self.features))
        return basis[None] * _dense(latents, self.features, name="weights")[:, None, None, :]


class Pool(nn.Module):
    """A weighted sum over the pixels of each feature map, with weights that are learned for each."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        """Returns one feature vector an image."""
        weights = self.param("basis", _normal(x.shape[1] * x.shape[2], 1.0), x.shape[1:])
        return jnp.sum(x * weights.astype(x.dtype)[None], axis=(1, 2))


def _blocks(
    network: Generator | Discriminator, stage: int, x: Float[Array, "b h w c"], groups: int, count: int
) -> Float[Array, "b h w c"]:
    for j in range(count):
        x = GroupedBlock(groups, network.expansion, sum(network.blocks), name=f"stage{stage}_block{j}")(x)
    return x


def _stage_dtype(network: Generator | Discriminator, stage: int) -> DTypeLike:
    return jnp.float32 if stage < network.float32_stages else network.dtype


def _base(network: Generator | Discriminator, sides: tuple[int, ...]) -> tuple[int, int]:
    """Returns the sides of the coarsest stage's feature maps.

    Raises:
      ValueError: if there are none, or the stages' widths, groups and blocks do not go together.
    """
    counts = len(network.widths), len(network.groups), len(network.blocks)
    if not network.widths or len(set(counts)) > 1:
        raise ValueError(
            f"The network has {counts[0]} widths, {counts[1]} groups and {counts[2]} blocks, but must have one of each "
            "for every stage, and a stage at least."
        )
    for width, groups in zip(network.widths, network.groups, strict=True):
        if groups < 1 or width < 1 or width * network.expansion % groups:
            raise ValueError(
                f"A stage has {width} channels and {groups} groups, but the channels within its blocks, "
                f"{width * network.expansion} by an expansion of {network.expansion}, must be a multiple of the groups."
            )
    stride = 2 ** (len(network.widths) - 1)
    if sides[0] % stride or sides[1] % stride:
        raise ValueError(
            f"Images of {sides[0]}x{sides[1]} pixels cannot be halved between {len(network.widths)} stages: both sides "
            f"must be multiples of {stride}, so resize the images or change the number of widths, groups and blocks."
        )
    return sides[0] // stride, sides[1] // stride


def _normal(fan_in: int, gain: float) -> nn.initializers.Initializer:
    """Returns normal weights with which a layer scales the root mean square of its input by `gain`; zeros for 0."""
    return nn.initializers.normal(gain / math.sqrt(fan_in)) if gain else nn.initializers.zeros_init()


def _dense(x: Float[Array, "b c"], features: int, *, name: str) -> Float[Array, "b {features}"]:
    return nn.Dense(features, use_bias=False, dtype=x.dtype, kernel_init=_normal(x.shape[-1], 1.0), name=name)(x)


def _conv1x1(
    x: Float[Array, "b h w c"], features: int, *, gain: float = 1.0, name: str
) -> Float[Array, "b h w {features}"]:
    return nn.Dense(features, use_bias=False, dtype=x.dtype, kernel_init=_normal(x.shape[-1], gain), name=name)(x)


def _embed(
    label: Int[Array, " b"], num_classes: int, features: int, *, gain: float = 1.0, name: str
) -> Float[Array, "b {features}"]:
    """Returns a linear function, without a bias, of the one-hot classes."""
    return nn.Embed(num_classes, features, embedding_init=_normal(num_classes, gain), name=name)(label)
