"""The training half of the forward process: images, augmented, at random noise levels."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core import keys
from jaxgen.core.contract import Microbatch
from jaxgen.diffusion.process import algebra, uniforms
from jaxgen.diffusion.process.noise_process import NoiseProcess
from jaxgen.diffusion.training import augmentation, importance
from jaxgen.diffusion.training.augment_recipes import Recipe


class Noised(NamedTuple):
    """A microbatch with its noise.

    Attributes:
      clean: images, augmented.
      eps: their noise.
      sigma: their noise levels.
      vector: labels of the augmentation, an input of the network.
      quantile: quantiles of the noise levels in their distribution.
      importance: weights of the examples, of mean 1 over the distribution.
    """

    clean: Float[Array, "n h w c"]
    eps: Float[Array, "n h w c"]
    sigma: Float[Array, " n"]
    vector: Float[Array, "n f"] | None
    quantile: Float[Array, " n"]
    importance: Float[Array, " n"]

    @property
    def x(self) -> Float[Array, "n h w c"]:
        """The noisy images, clean + sigma * eps."""
        return self.clean + algebra.per_image(self.sigma) * self.eps


def add_noise(
    process: NoiseProcess,
    key: Key[Array, ""],
    example_keys: Key[Array, " n"],
    batch: Microbatch,
    *,
    stratified_over: int | None = None,
    moments: importance.Moments | None = None,
    recipe: Recipe | None = None,
) -> Noised:
    """Draws noise and noise levels for a microbatch.

    Args:
      process: the diffusion process.
      key: the key of the step.
      example_keys: the key of each example in it.
      batch: images in [-1, 1], and their indices.
      stratified_over: the size of the step's global batch, over which noise levels are spread evenly; None for
        independent ones.
      moments: second moments of the loss, to draw noise levels by; None to draw them by the process alone.
      recipe: of augmentation; None for none.
    """
    clean, vector = batch["image"], None
    if recipe is not None:
        clean, vector = augmentation.augment(example_keys, clean, recipe)
    if stratified_over is None:
        quantile = uniforms.independent(example_keys)
    else:
        quantile = uniforms.low_discrepancy(key, batch["index"], stratified_over)
    weight = jnp.ones_like(quantile)
    if moments is not None:
        quantile, weight = importance.draw(moments, quantile)
    eps = keys.normal(keys.fold_each(example_keys, "eps"), clean.shape[1:])
    return Noised(clean, eps, process.times(process.schedule, quantile), vector, quantile, weight)
