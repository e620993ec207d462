"""Energies by name: networks from images to one number each, which all take the same arguments."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.named_networks import fields_of, make_named_network


@runtime_checkable
class EnergyNetwork(Protocol):
    """A Flax module with the fields `num_classes` and `dtype`."""

    def energies(
        self, images: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Returns the energy of each image, in float32 and by that image alone: low where the density is high.

        Args:
          images: in [-1, 1], or with noise added.
          label: classes in [0, num_classes); None for an unconditional energy.
          train: whether what is kept between batches, in the collection `spectral`, is updated.
        """
        ...


def make_energy(section: Mapping[str, Any], *, num_classes: int, dtype: DTypeLike) -> nn.Module:
    """Builds the energy that a section names: `name` is module.Class below `jaxgen.nn`, the rest are its fields.

    `NEEDS` of the module, where there is one, says which fields have an effect only beside others.

    Raises:
      ValueError: if there is no such network, or a field is unknown or of a wrong type.
    """
    return make_named_network(section, _is_energy, where="model", num_classes=num_classes, dtype=dtype)


def _is_energy(network: type) -> bool:
    return fields_of(network) >= {"num_classes", "dtype"} and issubclass(network, EnergyNetwork)
