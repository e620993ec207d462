"""Likelihoods p(x | z) of a decoder's outputs, found by name."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.gaussians import discretized_gaussian_log_likelihood, gaussian_log_likelihood
from jaxgen.core.images import from_indices
from jaxgen.losses import logistic_mixture
from jaxgen.losses.reconstruction import bernoulli_log_likelihood


@runtime_checkable
class LogLikelihood(Protocol):
    """Scores images by the outputs of a decoder."""

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        outputs: Float[Array, "b h w o"],
        log_sigma: Float[Array, ""],
        *,
        levels: int,
    ) -> Float[Array, " b"]:
        """Returns log p(x | z) in nats per image; `log_sigma` is that of Gaussians, which others make no use of."""
        ...


@runtime_checkable
class LevelTable(Protocol):
    """Predicts one channel of images by the outputs of a decoder."""

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        outputs: Float[Array, "b h w o"],
        log_sigma: Float[Array, ""],
        *,
        channel: int,
        levels: int,
    ) -> Float[Array, "b h w levels"]:
        """Returns the log-probabilities of all levels of a channel given those before it, in nats."""
        ...


class PixelLikelihood(NamedTuple):
    """A distribution of images given a decoder's outputs.

    Attributes:
      outputs: number of outputs for a pixel of c channels.
      training: what training maximizes: of Gaussians, the density, whose gradient is that of squared error.
      of_levels: log-probability of the images' levels; None where there is none.
      level_log_probs: the distribution of each channel of each pixel, whose sum `of_levels` is; None likewise.
      mean: image without noise, in [-1, 1], from outputs and the number of channels.
      gaussian: whether it has the standard deviation `sigma`.
      optimal: whether that is the root mean squared error of the batch.
    """

    outputs: Callable[[int], int]
    training: LogLikelihood
    of_levels: LogLikelihood | None
    level_log_probs: LevelTable | None
    mean: Callable[[Float[Array, "b h w o"], int], Float[Array, "b h w c"]]
    gaussian: bool = False
    optimal: bool = False


LikelihoodName = Literal["gaussian", "optimal_gaussian", "bernoulli", "logistic", "logistic_mixture"]


def make_likelihood(name: LikelihoodName, mixtures: int) -> PixelLikelihood:
    """Returns the likelihood of a name; `mixtures` is the number of components of `logistic_mixture`."""
    return _LIKELIHOODS[name](mixtures)


def _clipped(outputs: Float[Array, "b h w o"], channels: int) -> Float[Array, "b h w c"]:
    return jnp.clip(outputs[..., :channels], -1.0, 1.0)


def _of_independent(of_levels: LogLikelihood, pick: Callable[[Array, int], Array]) -> LevelTable:
    """Returns the table of a likelihood of independent channels, each of which has the outputs that `pick` returns."""

    def level_log_probs(
        images: Array, outputs: Array, log_sigma: Array, *, channel: int, levels: int
    ) -> Float[Array, "b h w levels"]:
        shape, picked = images.shape[:-1], pick(outputs, channel)
        one_each = picked.reshape(-1, 1, 1, picked.shape[-1])  # an image of one pixel for each

        def at(level: Array) -> Array:
            return of_levels(jnp.full((len(one_each), 1, 1, 1), level), one_each, log_sigma, levels=levels)

        return jax.vmap(at, out_axes=-1)(from_indices(jnp.arange(levels), levels)).reshape(*shape, levels)

    return level_log_probs


def _gaussian(*, optimal: bool) -> PixelLikelihood:
    def training(images: Array, outputs: Array, log_sigma: Array, *, levels: int) -> Float[Array, " b"]:
        del levels
        return gaussian_log_likelihood(images, outputs, log_sigma)

    def of_levels(images: Array, outputs: Array, log_sigma: Array, *, levels: int) -> Float[Array, " b"]:
        return discretized_gaussian_log_likelihood(images, outputs, log_sigma, levels=levels)

    return PixelLikelihood(
        outputs=lambda channels: channels,
        training=training,
        of_levels=of_levels,
        level_log_probs=_of_independent(of_levels, lambda outputs, channel: outputs[..., channel, None]),
        mean=_clipped,
        gaussian=True,
        optimal=optimal,
    )


def _bernoulli() -> PixelLikelihood:
    def training(images: Array, outputs: Array, log_sigma: Array, *, levels: int) -> Float[Array, " b"]:
        del log_sigma, levels
        return bernoulli_log_likelihood(0.5 * (images + 1.0), outputs)

    return PixelLikelihood(
        outputs=lambda channels: channels,
        training=training,
        of_levels=None,  # probabilities are those of binary images only
        level_log_probs=None,
        mean=lambda outputs, channels: 2.0 * jax.nn.sigmoid(outputs) - 1.0,
    )


def _logistic() -> PixelLikelihood:
    def of_levels(images: Array, outputs: Array, log_sigma: Array, *, levels: int) -> Float[Array, " b"]:
        del log_sigma
        mean, log_scale = jnp.split(outputs, 2, axis=-1)
        log_scale = jnp.maximum(log_scale, logistic_mixture.MIN_LOG_SCALE)
        return logistic_mixture.discretized_logistic_log_likelihood(images, mean, log_scale, levels=levels)

    def pick(outputs: Array, channel: int) -> Float[Array, "b h w 2"]:
        return outputs[..., channel :: outputs.shape[-1] // 2]

    table = _of_independent(of_levels, pick)
    return PixelLikelihood(lambda channels: 2 * channels, of_levels, of_levels, table, _clipped)


def _logistic_mixture(mixtures: int) -> PixelLikelihood:
    def of_levels(images: Array, outputs: Array, log_sigma: Array, *, levels: int) -> Float[Array, " b"]:
        del log_sigma
        return logistic_mixture.log_prob(images, outputs, levels=levels)

    def level_log_probs(
        images: Array, outputs: Array, log_sigma: Array, *, channel: int, levels: int
    ) -> Float[Array, "b h w levels"]:
        del log_sigma
        previous, channels = images[..., :channel], images.shape[-1]
        return logistic_mixture.level_log_probs(previous, outputs, channels=channels, levels=levels)

    return PixelLikelihood(
        outputs=lambda channels: logistic_mixture.number_of_parameters(mixtures, channels),
        training=of_levels,
        of_levels=of_levels,
        level_log_probs=level_log_probs,
        mean=lambda outputs, channels: logistic_mixture.mean(outputs, channels=channels),
    )


_LIKELIHOODS: dict[LikelihoodName, Callable[[int], PixelLikelihood]] = {
    "gaussian": lambda _: _gaussian(optimal=False),
    "optimal_gaussian": lambda _: _gaussian(optimal=True),
    "bernoulli": lambda _: _bernoulli(),
    "logistic": lambda _: _logistic(),
    "logistic_mixture": _logistic_mixture,
}
