"""Weights of EDM's U-Nets (Karras et al. 2022), DDPM++, NCSN++ and ADM, by the names of its official code."""

import re
from collections.abc import Mapping
from typing import Any

from jaxgen.interop.format import RunFormat, Target, network_parts
from jaxgen.interop.state_dict import StateDict
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.song_unet import SongUNet

_FREQUENCIES = "map_noise.freqs"
_CONSTANTS = r"(.*\.)?resample_filter|map_noise\.freqs"

_RENAMED = (
    (r"attention/norm/", "norm2/"),
    (r"attention/", ""),
    (r"^dec_", "dec/"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: SongUNet | DhariwalUNet) -> str:
    """Returns the state-dict entry of a parameter of ours."""
    del network
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def settings(target: Target, weights: StateDict) -> Mapping[str, Any]:
    """Returns the random frequencies of NCSN++'s noise embedding, which are constants rather than parameters."""
    if not isinstance(target.network, SongUNet) or _FREQUENCIES not in weights:
        return {}
    return {"frequencies": tuple(weights[_FREQUENCIES].tolist())}


FORMAT = RunFormat(
    config="edm",
    parts=network_parts(SongUNet, DhariwalUNet, official=official_name, ignored=_CONSTANTS),
    settings=settings,
)
