"""The record that each file of `jaxgen/interop/formats` exports as `FORMAT`, and the functions that formats share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from flax import linen as nn
from jaxtyping import PyTree

from jaxgen.interop.state_dict import OfficialEntries, OfficialName, Part, StateDict

NETWORK_PLACE = "params/network"
"""The place of a diffusion model's network in the state."""


class Target(NamedTuple):
    """The model of a config, which official weights are to fill.

    Attributes:
      method: the config's method, such as `denoising.diffusion`.
      network: the one that the section `model` names; None if it names none.
      params: shapes of the parameters.
    """

    method: str
    network: nn.Module | None
    params: PyTree


@runtime_checkable
class Parts(Protocol):
    """Maps official weights to the state of a run."""

    def __call__(self, target: Target, weights: StateDict) -> list[Part]:
        """Returns the parts of the state that the weights fill; anything else starts as in a new run.

        Raises:
          ValueError: if the weights are of another method or network than the target's.
        """
        ...


@runtime_checkable
class ReadSettings(Protocol):
    """Reads settings from official weights."""

    def __call__(self, target: Target, weights: StateDict) -> Mapping[str, Any]:
        """Returns settings of the section `model` that have to be as in the weights, such as random constants."""
        ...


def no_settings(target: Target, weights: StateDict) -> Mapping[str, Any]:
    """Returns no settings: the weights are parameters only."""
    del target, weights
    return {}


class RunFormat(NamedTuple):
    """A format of weights from which a run is made.

    Attributes:
      config: the file in `configs/`, without its suffix, whose variants are tried unless a config is given.
      parts: the parts of the state that the weights fill, with their maps of names.
      settings: the settings that the weights determine.
    """

    config: str
    parts: Parts
    settings: ReadSettings = no_settings


class ExtractorFormat(NamedTuple):
    """A format of weights of a network that computes features of images, from which no run is made.

    Attributes:
      network: the feature extractor.
      official: the map of names, of all variables: `params/...`, `batch_stats/...`.
      ignored: regular expression of official entries that are no variables of the network.
    """

    network: nn.Module
    official: OfficialName
    ignored: str = ""


Format: TypeAlias = RunFormat | ExtractorFormat
"""The type of `FORMAT` in a file of `jaxgen/interop/formats`."""

OfficialNameOf: TypeAlias = Callable[[str, Any], str | OfficialEntries]
"""`(name, network) -> entry`: an `OfficialName` that depends on the fields of the network."""


def network_parts(*networks: type[nn.Module], official: OfficialNameOf, ignored: str = "") -> Parts:
    """Returns the `parts` of a format that holds the network of a diffusion model.

    Args:
      *networks: the classes whose weights have these names.
      official: the map of names, relative to the network's parameters.
      ignored: regular expression of official entries that are no parameters of the network.
    """

    def parts(target: Target, weights: StateDict) -> list[Part]:
        del weights
        network = target.network
        if not isinstance(network, networks):
            names = " or ".join(cls.__name__ for cls in networks)
            raise ValueError(
                f"The format's weights are of {names}, which the config of method {target.method} does not have."
            )
        return [Part(NETWORK_PLACE, lambda name: official(name, network), ignored)]

    return parts


def require_method(target: Target, method: str) -> None:
    """Checks that a config is of the method whose weights a format holds.

    Raises:
      ValueError: if it is of another method.
    """
    if target.method != method:
        raise ValueError(f"The format's weights are of the method {method}, but config.method={target.method}.")
