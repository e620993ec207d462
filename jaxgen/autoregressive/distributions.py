"""The distributions of elements of an image that `autoregressive.distribution` may name."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.autoregressive import logits as choices
from jaxgen.autoregressive.distribution import Choice, PixelDistribution
from jaxgen.core import images as ranges
from jaxgen.losses import logistic_mixture as mixture


def categorical(*, channels: int, levels: int, choice: Choice) -> PixelDistribution:
    """Returns the distribution with a logit for each level (van den Oord et al. 2016a, section 3.2).

    Each channel is an element, which sees the earlier channels of its pixel. Levels of it are classes without an order.
    """
    del channels

    def log_prob(images: Float[Array, "b h w c"], outputs: Float[Array, "b h w c o"]) -> Float[Array, " b"]:
        log_probs = jax.nn.log_softmax(outputs)
        own = jnp.take_along_axis(log_probs, ranges.indices(images, levels)[..., None], axis=-1)
        return jnp.sum(own, axis=(1, 2, 3, 4))

    def draw(keys: Key[Array, " b"], outputs: Float[Array, "b o"]) -> Float[Array, "b 1"]:
        return ranges.from_indices(choices.draw(keys, outputs, **choice._asdict()), levels)[:, None]

    def level_log_probs(pixels: Float[Array, "b c"], outputs: Float[Array, "b c o"]) -> Float[Array, "b c o"]:
        del pixels  # the network has seen them
        return jax.nn.log_softmax(outputs)

    return PixelDistribution(levels, True, log_prob, draw, level_log_probs)


def logistic_mixture(*, channels: int, levels: int, choice: Choice, mixtures: int = 10) -> PixelDistribution:
    """Returns the discretized mixture of logistics (Salimans et al. 2017, section 2.1), of the channels together.

    Args:
      channels: of an image.
      levels: of an image.
      choice: the defaults, since there are no logits of levels.
      mixtures: components of a pixel.

    Raises:
      ValueError: if `mixtures` is not positive, or draws are to be from changed logits.
    """
    if mixtures < 1:
        raise ValueError(f"autoregressive.distribution: mixtures is {mixtures}, but must be at least 1.")

    def log_prob(images: Float[Array, "b h w c"], outputs: Float[Array, "b h w 1 o"]) -> Float[Array, " b"]:
        return mixture.log_prob(images, outputs[:, :, :, 0], levels=levels)

    def draw(keys: Key[Array, " b"], outputs: Float[Array, "b o"]) -> Float[Array, "b c"]:
        return mixture.sample(keys, outputs[:, None, None], channels=channels, levels=levels)[:, 0, 0]

    def level_log_probs(pixels: Float[Array, "b c"], outputs: Float[Array, "b 1 o"]) -> Float[Array, "b c levels"]:
        tables = [
            mixture.level_log_probs(pixels[:, :j], outputs[:, 0], channels=channels, levels=levels)
            for j in range(channels)
        ]
        return jnp.stack(tables, axis=1)

    num_outputs = mixture.number_of_parameters(mixtures, channels)
    return PixelDistribution(num_outputs, False, log_prob, draw, level_log_probs)
