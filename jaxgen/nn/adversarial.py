"""Networks of adversarial games by name; those of one kind take the same arguments, so that a game can have any two."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.named_networks import fields_of, make_named_network


class Critique(NamedTuple):
    """The output of a discriminator for images.

    Attributes:
      logits: large for images that look real.
      features: the activations before the last layer, one vector an image.
      classes: a score for each class, of discriminators that tell classes apart; None of others.
      embedding: a vector of unit norm, of discriminators that compare images with each other; None of others.
    """

    logits: Float[Array, " b"]
    features: Float[Array, "b d"]
    classes: Float[Array, "b k"] | None = None
    embedding: Float[Array, "b e"] | None = None


@runtime_checkable
class GeneratorNetwork(Protocol):
    """A Flax module with the fields `image_shape`, `latent_dim`, `num_classes`, `axis_name` and `dtype`."""

    def __call__(
        self,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns images, in [-1, 1] or near it.

        What changes without a gradient lies in collections beside `params` (`batch_stats`, `spectral`, `buffers`), all
        of which are mutable where `train`.

        Args:
          latents: standard normal, `latent_dim` values each.
          label: classes in [0, num_classes); None for an unconditional network.
          train: whether statistics are the batch's own, and what is kept between batches is updated.
          keys: one an image, of whatever the network draws, such as noise; None for its constant noise, or none.
        """
        ...


@runtime_checkable
class DiscriminatorNetwork(Protocol):
    """A Flax module with the fields `num_classes`, `axis_name` and `dtype`."""

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Critique:
        """Judges images in [-1, 1]; labels, `train`, `keys` and collections are as those of `GeneratorNetwork`."""
        ...


_GENERATOR_FIELDS = {"image_shape", "latent_dim", "num_classes", "axis_name", "dtype"}
_DISCRIMINATOR_FIELDS = {"num_classes", "axis_name", "dtype"}


def make_generator(
    section: Mapping[str, Any],
    *,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    num_classes: int,
    axis_name: str | None,
    dtype: DTypeLike,
) -> nn.Module:
    """Builds the generator that a section names: `name` is module.Class below `jaxgen.nn`, the rest are its fields.

    `NEEDS_OF_GENERATOR` of the module, where there is one, says which fields have an effect only beside others.

    Raises:
      ValueError: if there is no such network, or a field is unknown or of a wrong type.
    """
    given = {"image_shape": image_shape, "latent_dim": latent_dim}
    given |= {"num_classes": num_classes, "axis_name": axis_name, "dtype": dtype}
    needs = "NEEDS_OF_GENERATOR"
    return make_named_network(section, _is_generator, where="generator", needs=needs, **given)


def make_discriminator(
    section: Mapping[str, Any], *, num_classes: int, axis_name: str | None, dtype: DTypeLike
) -> nn.Module:
    """Builds the discriminator that a section names, as `make_generator` does; with `NEEDS_OF_DISCRIMINATOR`.

    Raises:
      ValueError: as `make_generator`.
    """
    given = {"num_classes": num_classes, "axis_name": axis_name, "dtype": dtype}
    return make_named_network(
        section, _is_discriminator, where="discriminator", needs="NEEDS_OF_DISCRIMINATOR", **given
    )


def _is_generator(network: type) -> bool:
    return fields_of(network) >= _GENERATOR_FIELDS


def _is_discriminator(network: type) -> bool:
    return fields_of(network) >= _DISCRIMINATOR_FIELDS and not fields_of(network) & {"latent_dim", "out_channels"}
