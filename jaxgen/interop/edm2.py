"""Weights of EDM2 (Karras et al. 2024), by the names of the official repository.

The official `Precond` holds the network, `unet.*`, and the uncertainty head, `logvar_*`.
"""

import re

from jaxgen.interop.state_dict import Source
from jaxgen.nn.edm2_unet import EDM2UNet

NETWORK = EDM2UNet

IGNORED = r"logvar_.*"
"""What is no part of the network: the uncertainty head."""

IGNORED_BY_UNCERTAINTY = r"unet\..*"
"""What is no part of the uncertainty head."""

_RENAMED = (
    (r"^(enc|dec)_(\d+)_", r"\1.\2x\2_"),
    (r"^emb/", "emb_"),
    (r"/attn/", "/attn_"),
    (r"kernel$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: EDM2UNet) -> str | Source:
    """The state-dict entry of a parameter of the network."""
    del network
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return f"unet.{name}"


def official_uncertainty_name(name: str) -> str | Source:
    """The state-dict entry of a parameter of `nn.uncertainty.Uncertainty`."""
    return "logvar_" + name.replace("/", ".").replace("kernel", "weight")
