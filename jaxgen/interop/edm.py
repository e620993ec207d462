"""Weights of EDM's U-Nets (Karras et al. 2022), DDPM++, NCSN++ and ADM, by the names of its official code."""

import re

from jaxgen.interop.state_dict import StateDict
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.song_unet import SongUNet

NETWORK = (SongUNet, DhariwalUNet)

IGNORED = r"(.*\.)?resample_filter|map_noise\.freqs"

_RENAMED = (
    (r"attention/norm/", "norm2/"),
    (r"attention/", ""),
    (r"^dec_", "dec/"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: SongUNet | DhariwalUNet) -> str:
    """The state-dict entry of a parameter of ours."""
    del network
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def with_frequencies(network: SongUNet | DhariwalUNet, state_dict: StateDict) -> SongUNet | DhariwalUNet:
    """The network with the random frequencies of a state dict: constants of NCSN++ which are no parameters."""
    if "map_noise.freqs" not in state_dict:
        return network
    return network.clone(frequencies=tuple(state_dict["map_noise.freqs"].tolist()))
