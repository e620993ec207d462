"""Weights of EDM2 (Karras et al. 2024), by the names of the official repository.

The official `Precond` holds the network, `unet.*`, and the uncertainty head, `logvar_*`.
"""

import re

from jaxgen.interop.format import RunFormat, Target, network_parts
from jaxgen.interop.state_dict import Part, StateDict
from jaxgen.nn.edm2_unet import EDM2UNet

_NETWORK = r"unet\..*"
_UNCERTAINTY = r"logvar_.*"

_RENAMED = (
    (r"^(enc|dec)_(\d+)_", r"\1.\2x\2_"),
    (r"^emb/", "emb_"),
    (r"/attn/", "/attn_"),
    (r"kernel$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: EDM2UNet) -> str:
    """Returns the state-dict entry of a parameter of the network."""
    del network
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return f"unet.{name}"


def official_uncertainty_name(name: str) -> str:
    """Returns the state-dict entry of a parameter of `nn.uncertainty.Uncertainty`."""
    return "logvar_" + name.replace("/", ".").replace("kernel", "weight")


_network_parts = network_parts(EDM2UNet, official=official_name, ignored=_UNCERTAINTY)


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the network and, for a model with an uncertainty head, that head."""
    found = _network_parts(target, weights)
    if "uncertainty" in target.params:
        found.append(Part("params/uncertainty", official_uncertainty_name, ignored=_NETWORK))
    return found


FORMAT = RunFormat(config="edm2", parts=parts)
