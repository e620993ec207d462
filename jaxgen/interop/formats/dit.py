"""Weights of DiT (Peebles and Xie 2023) and SiT (Ma et al. 2024), by the names of the official repositories."""

import re

from jaxgen.interop.format import RunFormat, network_parts
from jaxgen.interop.state_dict import OfficialEntries
from jaxgen.nn.dit import DiT

_POSITIONS = "pos_embed"  # a fixed table, which our network computes

_RENAMED = (
    (r"conditioning/label/embedding", "y_embedder.embedding_table.weight"),
    (r"conditioning/time_0", "t_embedder.mlp.0"),
    (r"conditioning/time_1", "t_embedder.mlp.2"),
    (r"patch_embedding", "x_embedder.proj"),
    (r"final/", "final_layer."),
    (r"block_(\d+)", r"blocks.\1"),
    (r"attention/out", "attn.proj"),
    (r"attention/", "attn."),
    (r"mlp/in", "mlp.fc1"),
    (r"mlp/out", "mlp.fc2"),
    (r"modulation", "adaLN_modulation.1"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: DiT) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of ours; if the network scans over its blocks, one per block."""
    if name.startswith("blocks/"):
        return OfficialEntries(tuple(_rename(name.replace("blocks/", f"block_{i}/")) for i in range(network.depth)))
    return _rename(name)


FORMAT = RunFormat(config="dit", parts=network_parts(DiT, official=official_name, ignored=_POSITIONS))


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
