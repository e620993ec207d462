"""Prefixes that wrappers of networks put before all names of a state dict."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxgen.interop.state_dict import StateDict

PREFIXES = (
    "module.",  # PyTorch's DataParallel and DistributedDataParallel
    "_orig_mod.",  # torch.compile
    "model.",
    "unet.",
    "net.",
    "network.",
    "diffusion_model.",
    "model.diffusion_model.",  # Stable Diffusion's files
    "first_stage_model.",
    "vae.",
    "ema.",
    "ema_model.",
    "generator.",
    "transformer.",
)
_DEPTH = 2  # of wrappers around each other
_SHOWN = 3


class Renamed(NamedTuple):
    """Entries of a state dict under names without a prefix.

    Attributes:
      prefix: of their names; empty for the state dict itself.
      weights: the entries that had it.
      others: how many entries had another one, and are left out.
    """

    prefix: str
    weights: StateDict
    others: int = 0


def without_prefix(weights: StateDict, expected: Callable[[StateDict], set[str]]) -> Renamed | None:
    """Returns the entries of the prefix without which most names fit; None if there is none.

    Args:
      weights: names to arrays, of which none fits.
      expected: returns the names that a format expects in a state dict.

    Raises:
      ValueError: if as many names fit without another prefix.
    """
    fitting = [(len(expected(renamed.weights) & set(renamed.weights)), renamed) for renamed in _versions(weights)]
    most = max((count for count, _ in fitting), default=0)
    best = [renamed for count, renamed in fitting if count == most > 0]
    if len(best) > 1:
        prefixes = " and ".join(repr(renamed.prefix) for renamed in best)
        raise ValueError(f"The weights fit without the prefix {prefixes}: save the entries of one of them alone.")
    return best[0] if best else None


def _versions(weights: StateDict) -> Iterator[Renamed]:
    """Yields the entries with each prefix that some names have, without it."""
    combined = ["".join(parts) for depth in range(1, _DEPTH + 1) for parts in itertools.product(PREFIXES, repeat=depth)]
    for prefix in dict.fromkeys(combined):
        own = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
        if own:
            yield Renamed(prefix, own, len(weights) - len(own))


def nothing_fits(weights: StateDict, expected: set[str]) -> str:
    """Returns the end of a refusal of weights of which no name is expected: a few of the names on both sides."""
    return f"none of their names fits: they have {_some(list(weights))}, where {_some(sorted(expected))} are expected"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
