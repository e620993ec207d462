"""Weights of TarFlow (Zhai et al. 2024), by the names of the official repository."""

import re

from jaxgen.interop.format import NETWORK_PLACE, RunFormat, Target, require_method
from jaxgen.interop.state_dict import Part, StateDict

_RENAMED = (
    (r"^blocks_(\d+)", r"blocks.\1"),
    (r"layers_(\d+)", r"attn_blocks.\1"),
    (r"norm_0", "attention.norm"),
    (r"norm_1", "mlp.norm"),
    (r"attention/out", "attention.proj"),
    (r"mlp/in", "mlp.main.0"),
    (r"mlp/out", "mlp.main.2"),
    (r"position_embedding", "pos_embed"),
    (r"class_embedding", "class_embed"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str) -> str:
    """Returns the state-dict entry of a parameter of the network."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the network's parameters, and the variance of its prior."""
    del weights
    require_method(target, "flows.flow")
    return [
        Part(NETWORK_PLACE, official_name, r"var|.*\.attn_mask"),
        Part("model_state/buffers", lambda name: "var", r"blocks\..*"),
    ]


FORMAT = RunFormat(config="tarflow", parts=parts)
