"""The plan of progressive growing (Karras et al. 2018): the resolution, batch size and fade of every step."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.nn.resample import downsample, upsample


class GrowthSettings(NamedTuple):
    """The section `growth`. Durations are in real images that the discriminator sees.

    Attributes:
      steady_images: trained on at each level, once it is faded in; at the last level for the rest of the run.
      fading_images: during which a level other than the first is faded in; 0 for none.
      batch_sizes: examples behind one gradient at each level, the coarsest first; further levels have the last.
    """

    steady_images: int = 600_000
    fading_images: int = 600_000
    batch_sizes: tuple[int, ...] = (512, 256, 128, 64, 32)


class Level(NamedTuple):
    """A level of the plan.

    Attributes:
      resolution: height and width of its images.
      batch_size: examples behind one gradient.
      first_step: the step with which it begins, and its fade.
      faded_step: the first step after the fade.
      faded: its own weight in the first step, below 1 if it is faded in.
      slope: growth of the weight in a step.
    """

    resolution: int
    batch_size: int
    first_step: int
    faded_step: int
    faded: float
    slope: float


class Growth(NamedTuple):
    """The levels of a run, in their order, as functions of the step."""

    levels: tuple[Level, ...]

    def at(self, step: int) -> Level:
        """Returns the level of a step."""
        return self.levels[bisect.bisect_right(self.levels, step, key=lambda level: level.first_step) - 1]

    def number(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the number of the level of a step, from 0 on."""
        return jnp.sum(step >= self._column("first_step"), dtype=jnp.int32) - 1

    def fade(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Returns the weight of the layers of a step's level, in (0, 1], against the level before it."""
        number = self.number(step)
        first, faded_step, faded, slope = (
            self._column(name)[number] for name in ("first_step", "faded_step", "faded", "slope")
        )
        return jnp.where(step >= faded_step, 1.0, jnp.minimum(faded + slope * (step - first), 1.0))

    def restarts(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Returns whether optimizers start anew: in the first step of a level, and in the first step after its fade."""
        steps = [step for level in self.levels[1:] for step in (level.first_step, level.faded_step)]
        return jnp.any(step == jnp.array(steps, jnp.int32))

    def _column(self, name: str) -> Array:
        return jnp.array([getattr(level, name) for level in self.levels])


def plan(
    settings: GrowthSettings, resolutions: Sequence[int], *, batch_size: int, n_critic: int, microbatches: int
) -> Growth:
    """Returns the levels of a run, as the official code has them.

    Level i begins with the first step before which the discriminator has seen more than i steady and i - 1 fading
    durations of images; its weight is what it has seen since then, in fading durations.

    Args:
      settings: durations and batch sizes.
      resolutions: of the levels, the coarsest first.
      batch_size: the largest, that of the config's `data.batch_size`.
      n_critic: updates of the discriminator in a step, each on a batch of its own.
      microbatches: parts that a batch is cut into.

    Raises:
      ValueError: if a duration is out of range, or a batch size is not possible.
    """
    _check(settings, resolutions, batch_size, microbatches)
    steady, fading, sizes = settings.steady_images, settings.fading_images, settings.batch_sizes
    levels = [Level(resolutions[0], sizes[0], 0, 0, 1.0, 0.0)]
    seen, step = 0, 0
    for i, resolution in enumerate(resolutions[1:], start=1):
        begin = i * steady + (i - 1) * fading
        seen, step = _until(begin + (1 if fading else 0), seen, step, levels[-1].batch_size * n_critic)
        size = sizes[min(i, len(sizes) - 1)]
        _, faded_step = _until(begin + fading, seen, step, size * n_critic)
        scale = max(fading, 1)
        levels.append(Level(resolution, size, step, faded_step, (seen - begin) / scale, size * n_critic / scale))
    return Growth(tuple(levels))


def _until(images: int, seen: int, step: int, each: int) -> tuple[int, int]:
    """Returns the images seen, and the step, when at least so many are; a step has `each` images."""
    steps = max(math.ceil((images - seen) / each), 0)
    return seen + steps * each, step + steps


def _check(settings: GrowthSettings, resolutions: Sequence[int], batch_size: int, microbatches: int) -> None:
    if settings.steady_images < 1 or settings.fading_images < 0:
        raise ValueError(
            f"growth has steady_images={settings.steady_images} and fading_images={settings.fading_images}, but must "
            "have at least 1 and at least 0."
        )
    sizes = settings.batch_sizes
    if not 1 <= len(sizes) <= len(resolutions):
        raise ValueError(
            f"growth.batch_sizes is {sizes}, but must have 1 to {len(resolutions)} numbers, for the levels "
            f"{', '.join(map(str, resolutions))}."
        )
    for size in sizes:
        if not 1 <= size <= batch_size or size % microbatches:
            raise ValueError(
                f"growth.batch_sizes has {size}, but each must be a positive multiple of train.microbatches, "
                f"{microbatches}, and at most data.batch_size, {batch_size}."
            )


def shrunk(images: Float[Array, "*b h w c"], resolution: int, fade: Float[Array, ""]) -> Float[Array, "*b r r c"]:
    """Returns images at a resolution, by means of squares of pixels, mixed with those of half of it, doubled again.

    Args:
      images: of which the side is a multiple of the resolution.
      resolution: height and width of the result.
      fade: weight of the resolution's own images against those of half of it, as the generator's are mixed.
    """
    factor, channels = images.shape[-2] // resolution, images.shape[-1]
    cut = images.reshape(-1, resolution, factor, resolution, factor, channels)
    x = jnp.mean(cut, axis=(2, 4))
    if resolution % 2 == 0:
        x = fade * x + (1.0 - fade) * upsample(downsample(x))
    return x.reshape(*images.shape[:-3], resolution, resolution, channels)
