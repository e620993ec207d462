"""Deep features of the network that samplers keep from step to step (DeepCache, Ma et al. 2024).

Neighboring steps of a sampler change the deep features of a network little, and these take most of its time: they are
computed at every `interval`-th step and reused at the others, where only the outermost layers see the noisy images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgen.diffusion.sampling.denoisers import Images


class CachedDenoiser(NamedTuple):
    """A denoiser whose deep features come from the last step, counted from 0, that is a multiple of `interval`.

    It has no state: the sampler's scan carries the features from `no_features` through every `evaluate`.

    Attributes:
      deep_features: `(x, sigma)` -> the features of the noisy images, a tree of arrays.
      reusing: features -> the denoiser that computes the outermost layers alone. What it returns may be an estimate of
        the clean images, or whatever else the sampler takes.
      interval: steps from one computation of the features to the next, at least 1.
    """

    deep_features: Callable[[Images, Float[Array, " n"]], PyTree]
    reusing: Callable[[PyTree], Callable[[Images, Float[Array, " n"]], Any]]
    interval: int

    def no_features(self, x: Images) -> PyTree:
        """Returns zeros of the features' shapes and types, which the first step replaces."""
        shapes = jax.eval_shape(self.deep_features, x, jnp.zeros(len(x)))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def evaluate(self, x: Images, sigma: Float[Array, " n"], k: Int[Array, ""], features: PyTree) -> tuple[Any, PyTree]:
        """Returns the denoiser's estimate in step k, and the features for the next step."""
        outdated = k % self.interval == 0
        features = jax.lax.cond(outdated, lambda: self.deep_features(x, sigma), lambda: features)
        return self.reusing(features)(x, sigma), features

    def __call__(self, x: Images, sigma: Float[Array, " n"]) -> Images:
        """Refuses samplers that call the denoiser without its features.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"sampler.cache_interval is {self.interval}, but sampler.name calls the network more than once a step, at "
            "levels where features are not kept: set it to 1, or use a sampler of one evaluation, such as ddim."
        )
