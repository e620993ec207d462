"""Diffusion networks by name; all take the same arguments, so that a method can be trained with any of them."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import config
from jaxgen.nn.named_networks import PACKAGE, fields_of, make_named_network, networks_in


class DiffusionNetwork(Protocol):
    """A Flax module from noisy images to predictions, with the fields `out_channels`, `num_classes` and `dtype`."""

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise_label: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
        *,
        vector: Float[Array, "b f"] | None = None,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w o"]:
        """Returns `out_channels` predictions per pixel; the method says of what.

        Args:
          x: noisy images, scaled by the path.
          noise_label: the noise level, in the scale that the network was made for (`diffusion.process.noise_labels`).
          label: classes in [0, num_classes]; `num_classes` is the null token; None means the null token throughout.
          vector: further conditioning, such as augmentation labels, through a linear layer of its own; a network that
            was initialized with it can do without, but not the other way round.
          train: whether dropout is on.
          dropout_keys: one key an example; needed when training with dropout, unused otherwise.
        """
        ...


@runtime_checkable
class CachingNetwork(Protocol):
    """A diffusion network of deep layers within outer ones, whose deep features samplers reuse (Ma et al. 2024).

    Its call takes one more argument, `deep`: features that `deep_features` returned, of these images at this noise
    level or another, with which it computes the outer layers alone. With those of the same arguments, and no dropout,
    it returns what it does without.
    """

    def deep_features(
        self, x: Float[Array, "b h w c"], noise_label: Float[Array, " b"], label: Int[Array, " b"] | None = None
    ) -> PyTree:
        """Returns the deep features, arrays with the axis of images in front, from the arguments of the call."""
        ...


def make_network(
    section: Mapping[str, Any], *, out_channels: int, num_classes: int, dtype: DTypeLike, where: str = "model"
) -> nn.Module:
    """Builds the network that a section names: `name` is module.Class below `jaxgen.nn`, the rest are its fields.

    `NEEDS` of the module, where there is one, says which fields have an effect only beside others.

    Raises:
      ValueError: if there is no such network, or a field is unknown or of a wrong type.
    """
    given: dict[str, Any] = {"out_channels": out_channels, "num_classes": num_classes, "dtype": dtype}
    return make_named_network(section, _is_network, where=where, **given)


def names_network(section: Mapping[str, Any]) -> bool:
    """Returns whether the name in a section is that of a network that `make_network` builds, rather than of others."""
    module_name, _, class_name = section.get("name", "").rpartition(".")
    if module_name not in config.module_names(PACKAGE):
        return False
    module = config.resolve(PACKAGE, module_name, where="model.name")
    return class_name in networks_in(module, _is_network)


def _is_network(network: type) -> bool:
    return fields_of(network) >= {"out_channels", "num_classes"}
