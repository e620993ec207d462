"""The growing generator and discriminator of Karras et al. 2018, "Progressive growing of GANs".

All levels are in one parameter tree from the start: a call uses those up to a resolution. Weights are standard normal
at the start, and scaled by a constant wherever they are used, so that all learn at one rate (section 4.1).

Parameters are float32, computation runs in `dtype`, that of the discriminator's last layers in float32, and outputs are
float32.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.adversarial import Critique
from jaxgen.nn.checks import check_required_label
from jaxgen.nn.resample import downsample, upsample
from jaxgen.nn.stylegan2_discriminator import minibatch_std
from jaxgen.nn.stylegan2_layers import EqualizedConv, EqualizedDense, add_bias, channels_at

_GAIN = math.sqrt(2.0)
"""He's gain, of all layers before an activation (He et al. 2015)."""


def levels_of(sides: tuple[int, ...]) -> list[int]:
    """Returns the resolutions of images that grow to these sides, the coarsest first; each is double the one before.

    The coarsest is the first below 8, or the first that is odd.

    Raises:
      ValueError: if the images are not square, or cannot be halved.
    """
    levels = _halved(sides[0])
    if sides[0] != sides[1] or len(levels) == 1:
        raise ValueError(
            f"Progressive growing takes square images whose side is even and at least 8, but these are {sides[0]}x"
            f"{sides[1]}: set data.image_size to such a side."
        )
    return levels


class Generator(nn.Module):
    """The generator, from latents, beside the class as a vector, to images of any of the levels.

    Attributes:
      image_shape: height, width, channels of an image of the last level.
      latent_dim: values of a latent.
      channel_base: channels times side of a feature map, up to `channel_max`; twice the official `fmap_base`.
      channel_max: most channels of a feature map.
      num_classes: number of classes; 0 for an unconditional network.
      axis_name: not used, since images do not depend on each other.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 512
    channel_base: int = 16384
    channel_max: int = 512
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
        resolution: int | None = None,
        fade: Float[Array, ""] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps standard normal latents to images, about in [-1, 1]; `train` and `keys` have no effect.

        Args:
          latents: normalized to a root mean square of 1, together with the class.
          label: classes in [0, num_classes); None for an unconditional network.
          train: not used.
          keys: not used.
          resolution: side of the images, one of `levels_of`; None for the last.
          fade: weight, in [0, 1], of this level's colors against those of the level before, doubled; None for 1.

        Raises:
          ValueError: if there is no such level, or there is not the label that there must be.
        """
        del train, keys
        check_required_label(label, self.num_classes)
        levels = levels_of(self.image_shape)
        shown = _levels_up_to(levels, levels[-1] if resolution is None else resolution)
        if label is not None:
            latents = jnp.concatenate([latents, jax.nn.one_hot(label, self.num_classes)], axis=-1)
        maps: list[Array] = []
        for side in levels if self.is_initializing() else shown:
            width = channels_at(side, self.channel_base, self.channel_max)
            if not maps:
                maps.append(GrowingBase(side, width, self.dtype, name=f"block{side}")(pixel_norm(latents)))
            else:
                maps.append(GrowingBlock(width, self.dtype, name=f"block{side}")(maps[-1]))
        colors = [
            EqualizedConv(self.image_shape[2], size=1, dtype=self.dtype, name=f"to_rgb{side}")(x).astype(jnp.float32)
            for side, x in zip(levels, maps, strict=False)
            if self.is_initializing() or side in shown[-1 if fade is None else -2 :]
        ]
        if self.is_initializing():
            colors = colors[: len(shown)]
        return colors[-1] if fade is None or len(shown) == 1 else _mixed(colors[-1], upsample(colors[-2]), fade)


class Discriminator(nn.Module):
    """The discriminator, of images of any of the levels; with a score for each class, where there are any.

    Attributes:
      channel_base, channel_max, num_classes, dtype: as in `Generator`.
      group_size: images whose features are compared with each other; whole batches, if they are smaller.
      axis_name: mapped axis over which groups are spread.
    """

    channel_base: int = 16384
    channel_max: int = 512
    group_size: int = 4
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
        fade: Float[Array, ""] | None = None,
    ) -> Critique:
        """Evaluates images of any level; `train` and `keys` have no effect, and the label has none on the scores.

        Args:
          images: in [-1, 1]; at initialization, those of the last level.
          label: classes in [0, num_classes); None for an unconditional network.
          train: not used.
          keys: not used.
          fade: weight, in [0, 1], of what this level's layers see against the halved images, which the level before
            sees; None for 1.

        Raises:
          ValueError: if there is no such level, the batch is no multiple of the groups, or there is not the label that
            there must be.
        """
        del train, keys
        check_required_label(label, self.num_classes)
        levels = _halved(images.shape[1])
        x = self._from_rgb(images)
        for finer, side in zip(levels[:0:-1], levels[-2::-1], strict=True):
            width = channels_at(side, self.channel_base, self.channel_max)
            x = ShrinkingBlock(width, self.dtype, name=f"block{finer}")(x)
            if (finer == levels[-1] and fade is not None) or self.is_initializing():
                images = downsample(images)
                halved = self._from_rgb(images)
                x = x if fade is None else _mixed(x, halved, fade).astype(x.dtype)
        return self._head(x.astype(jnp.float32))

    def _from_rgb(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        side = images.shape[1]
        width = channels_at(side, self.channel_base, self.channel_max)
        layer = EqualizedConv(width, size=1, dtype=self.dtype, name=f"from_rgb{side}")
        return _activate(layer(_GAIN * images))

    def _head(self, x: Float[Array, "b h w c"]) -> Critique:
        side, width = x.shape[1], x.shape[-1]
        deviation = minibatch_std(x, self.group_size, axis_name=None if self.is_initializing() else self.axis_name)
        x = jnp.concatenate([x, jnp.broadcast_to(deviation[:, None, None, None], (*x.shape[:3], 1))], axis=-1)
        x = _activate(EqualizedConv(width, name="conv")(_GAIN * x)).reshape(len(x), -1)
        features = channels_at(side // 2, self.channel_base, self.channel_max)
        x = _activate(EqualizedDense(features, name="dense")(_GAIN * x))
        out = EqualizedDense(1 + self.num_classes, name="out")(x)
        return Critique(out[:, 0], x, out[:, 1:] if self.num_classes else None)


class GrowingBase(nn.Module):
    """The layers of the generator's first level.

    Attributes:
      side: height and width.
      features: channels.
      dtype: type of the computation.
    """

    side: int
    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, latents: Float[Array, "b d"]) -> Float[Array, "b h w {self.features}"]:
        """Applies a linear layer, whose gain is a fourth of the others' as in the first code, and a convolution."""
        dense = EqualizedConv(self.side**2 * self.features, size=1, use_bias=False, dtype=self.dtype, name="dense")
        x = dense(_GAIN / 4.0 * latents[:, None, None, :]).reshape(-1, self.side, self.side, self.features)
        x = pixel_norm(_activate(add_bias(self, x)))
        return pixel_norm(_activate(EqualizedConv(self.features, dtype=self.dtype, name="conv")(_GAIN * x)))


class GrowingBlock(nn.Module):
    """The layers of another level of the generator: pixels are doubled, and two convolutions follow.

    Attributes:
      features: channels of the output.
      dtype: type of the computation.
    """

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w {self.features}"]:
        """Doubles height and width."""
        x = upsample(x)
        for i in range(2):
            x = pixel_norm(_activate(EqualizedConv(self.features, dtype=self.dtype, name=f"conv{i}")(_GAIN * x)))
        return x


class ShrinkingBlock(nn.Module):
    """The layers of a level of the discriminator: two convolutions, then means of 2x2 pixels.

    Attributes:
      features: channels of the output.
      dtype: type of the computation.
    """

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 {self.features}"]:
        """Halves height and width."""
        for i, width in enumerate((x.shape[-1], self.features)):
            x = _activate(EqualizedConv(width, dtype=self.dtype, name=f"conv{i}")(_GAIN * x))
        return downsample(x)


def pixel_norm(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Divides the vector of each pixel by its root mean square (section 4.2)."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


def _halved(side: int) -> list[int]:
    levels = [side]
    while levels[0] % 2 == 0 and levels[0] >= 8:
        levels.insert(0, levels[0] // 2)
    return levels


def _levels_up_to(levels: list[int], resolution: int) -> list[int]:
    if resolution not in levels:
        raise ValueError(
            f"The resolution is {resolution}, but must be one of the levels, {', '.join(map(str, levels))}."
        )
    return levels[: levels.index(resolution) + 1]


def _mixed(new: Float[Array, "*s"], old: Float[Array, "*s"], fade: Float[Array, ""]) -> Float[Array, "*s"]:
    return fade * new + (1.0 - fade) * old


def _activate(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return nn.leaky_relu(x, 0.2)
