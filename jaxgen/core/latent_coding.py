"""The functions by which an entropy coder uses a model with latents (bits-back coding, Townsend et al. 2019)."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree


@runtime_checkable
class CodingPosterior(Protocol):
    """Maps images to distributions of latents, of each group given those before it."""

    def __call__(
        self,
        variables: PyTree,
        images: Float[Array, "n h w c"],
        latents: Float[Array, "n d"],
        cond: Mapping[str, Array] | None = None,
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Returns mean and standard deviation of the Gaussian q(z_j | x, z of the groups before that of j) of each j.

        Latents of the same group and of later ones have no effect.
        """
        ...


@runtime_checkable
class CodingLikelihood(Protocol):
    """Predicts one channel of all pixels from latents."""

    def __call__(
        self,
        variables: PyTree,
        latents: Float[Array, "n d"],
        images: Float[Array, "n h w c"],
        cond: Mapping[str, Array] | None = None,
        *,
        channel: int,
    ) -> Float[Array, "n h w levels"]:
        """Returns the log-probabilities, in nats, of all levels of a channel of each pixel, which are independent.

        Channels of the images from `channel` on have no effect.
        """
        ...


class LatentCoding(NamedTuple):
    """A model with latents whose prior is N(0, I), as an entropy coder sees it.

    Of a hierarchy of latents, z_k = mean_k + deviation_k u_k given those before, the u are meant here, not the z.

    Attributes:
      groups: lengths of the groups of latents, in the order in which they depend on each other; one in all if they are
        independent given the image.
      levels: number of levels of the images, which divide [-1, 1] evenly.
      posterior: q(z | x).
      level_log_probs: p(x | z); summed over all channels, at the levels of an image, it is its log-likelihood.
    """

    groups: tuple[int, ...]
    levels: int
    posterior: CodingPosterior
    level_log_probs: CodingLikelihood
