"""The record of the distribution of an element of an image, and the settings of draws from it."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from jaxgen.core.config import call_text


class PixelDistribution(NamedTuple):
    """The distribution of an element of an image, by the outputs of a network.

    Attributes:
      num_outputs: parameters of an element.
      channelwise: whether an element is a channel of a pixel, or the pixel with all its channels.
      log_prob: `(images [b, h, w, c], outputs [b, h, w, u, o]) -> [b]`, the log-probability of levels, nats.
      draw: `(keys [b], outputs [b, o]) -> [b, v]`, the values in [-1, 1] of an element: v is 1, or all channels.
      level_log_probs: `(pixels [b, c], outputs [b, u, o]) -> [b, c, levels]`, the log-probabilities of all levels of
        each channel, given the earlier channels of the pixel.
    """

    num_outputs: int
    channelwise: bool
    log_prob: Callable[[Array, Array], Array]
    draw: Callable[[Array, Array], Array]
    level_log_probs: Callable[[Array, Array], Array]


class Choice(NamedTuple):
    """The settings of draws from logits; see `logits.draw`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0


def make_distribution(text: str, *, channels: int, levels: int, choice: Choice) -> PixelDistribution:
    """Builds the distribution that the setting `autoregressive.distribution` names.

    Args:
      text: the name of a function in `distributions`, or a call such as `logistic_mixture(mixtures=5)`.
      channels: of an image.
      levels: of an image.
      choice: the settings of draws; those of a distribution without logits must be the defaults.

    Raises:
      ValueError: if there is no such distribution, or a value is wrong.
    """
    given = {"channels": channels, "levels": levels, "choice": choice}
    return call_text("jaxgen.autoregressive.distributions", text, where="autoregressive.distribution", **given)
