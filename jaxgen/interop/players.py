"""Official weights of adversarial networks as parts of a run: one network alone, or several with prefixes."""

from typing import NamedTuple

from jaxgen.interop.state_dict import AVERAGE, OfficialEntries, OfficialName, Part, StateDict

PREFIXES = {"generator": "G.", "average": "G_ema.", "discriminator": "D."}
"""The beginnings of official names in a file of several networks."""


class OfficialNetwork(NamedTuple):
    """The official names of a generator or discriminator.

    Attributes:
      official: the map of names, of its parameters and of what lies in its other collections, `batch_stats/...`.
      buffers: regular expression of the official entries that are in other collections.
      unused: regular expression of those that are nowhere.
    """

    official: OfficialName
    buffers: str
    unused: str = "(?!)"


def network_of_each_prefix(weights: StateDict) -> dict[str, StateDict]:
    """Returns the weights of each network by its name in `PREFIXES`, without their prefix; none if they have none."""
    found = {name: _without(prefix, weights) for name, prefix in PREFIXES.items()}
    return {name: own for name, own in found.items() if own}


def player_parts(player: str, network: OfficialNetwork, *, prefix: str = "", average: bool = False) -> list[Part]:
    """Returns the parameters of a player and what lies in its other collections.

    Args:
      player: `generator` or `discriminator`.
      network: its official names.
      prefix: of these names in the file; all others are ignored.
      average: whether it is the average of the player that the weights are of.
    """
    start, place = prefix.replace(".", r"\."), AVERAGE if average else ""
    others, official = f"(?!{start}).*", _prefixed(prefix, network.official)
    unused, buffers = f"{start}({network.unused})", f"{start}({network.buffers})"
    parts = [Part(f"{place}params/{player}", official, f"{others}|{unused}|{buffers}")]
    if network.buffers:
        parts.append(Part(f"{place}model_state/{player}", official, f"{others}|{unused}|(?!{buffers}$).*"))
    return parts


def _without(prefix: str, weights: StateDict) -> StateDict:
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def _prefixed(prefix: str, official: OfficialName) -> OfficialName:
    def name_of(name: str) -> str | OfficialEntries:
        source = official(name)
        if isinstance(source, str):
            return prefix + source
        names = prefix + source.name if isinstance(source.name, str) else tuple(prefix + entry for entry in source.name)
        return source._replace(name=names)

    return name_of
