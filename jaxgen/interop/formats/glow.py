"""Weights of the port of Glow (Kingma and Dhariwal 2018) to PyTorch, by the names of rosinality's repository.

The port sees pixels in [-0.5, 0.5], our networks in [-1, 1]: the first normalization takes up the factor.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.core import trees
from jaxgen.interop.format import NETWORK_PLACE, RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict

_FIRST = "level_0_step_0/norm/"

_RENAMED = (
    (r"^level_(\d+)_step_(\d+)/", r"blocks.\1.flows.\2."),
    (r"^level_(\d+)_prior/net/conv/", r"blocks.\1.prior."),
    (r"norm/shift", "actnorm.loc"),
    (r"norm/scale", "actnorm.scale"),
    (r"mix/lower", "invconv.w_l"),
    (r"mix/upper", "invconv.w_u"),
    (r"mix/log_diagonal", "invconv.w_s"),
    (r"mix/permutation", "invconv.w_p"),
    (r"mix/sign", "invconv.s_sign"),
    (r"mix/matrix", "invconv.weight"),
    (r"coupling/net/conv_0/conv", "coupling.net.0"),
    (r"coupling/net/conv_1/conv", "coupling.net.2"),
    (r"coupling/net/out/", "coupling.net.4."),
    (r"log_scale", "scale"),
    (r"kernel", "weight"),
    (r"/", "."),
)

_BUFFERS = r".*\.(w_p|s_sign)"
_CONSTANTS = r".*\.(initialized|u_mask|l_mask|l_eye)"


def official_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter, or of a constant, of the network."""
    entry = name
    for pattern, replacement in _RENAMED:
        entry = re.sub(pattern, replacement, entry)
    if name == f"{_FIRST}shift":
        return OfficialEntries(entry, lambda loc: 2.0 * loc.astype(np.float32))
    if name == f"{_FIRST}scale":
        return OfficialEntries(entry, lambda scale: 0.5 * scale.astype(np.float32))
    if name.endswith("mix/permutation"):
        return OfficialEntries(entry, lambda matrix: np.argmax(matrix, axis=1))
    if name.endswith("mix/matrix"):
        return OfficialEntries(entry, lambda weight: weight[:, :, 0, 0].T)
    return entry


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the network's parameters and, with triangular matrices, the constants beside them."""
    del weights
    require_method(target, "flows.flow")
    found = [Part(NETWORK_PLACE, official_name, f"{_BUFFERS}|{_CONSTANTS}")]
    if any(name.endswith("mix/lower") for name in trees.named_leaves(target.params)):
        found.append(Part("model_state/buffers", official_name, rf"(?!{_BUFFERS}$).*"))
    return found


def settings(target: Target, weights: StateDict) -> Mapping[str, Any]:
    """Returns the fields of the network that the weights determine."""
    del target
    steps = [match.groups() for name in weights if (match := re.match(r"blocks\.(\d+)\.flows\.(\d+)\.", name))]
    first = weights.get("blocks.0.flows.0.coupling.net.0.weight")
    if not steps or first is None:
        return {}
    levels, each = (1 + max(map(int, numbers)) for numbers in zip(*steps, strict=True))
    lu = any(name.endswith("invconv.w_l") for name in weights)
    as_stored = {"plain": True, "scan_layers": False, "remat": False}
    return as_stored | {"lu": lu, "levels": levels, "steps": each, "width": len(first)}


FORMAT = RunFormat(config="glow", parts=parts, settings=settings)
