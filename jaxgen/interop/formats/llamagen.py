"""Weights of LlamaGen's class-conditional transformers (Sun et al. 2024), by the names of the official repository."""

import re

import numpy as np

from jaxgen.interop.format import NETWORK_PLACE, RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict

_METHOD = "autoregressive.autoregressive"

_ROTARY = r"freqs_cis"  # a fixed table, which our network computes

_RENAMED = (
    (r"^classes/embedding", "cls_embedding.embedding_table.weight"),
    (r"^tokens/embedding", "tok_embeddings.weight"),
    (r"^out/", "output/"),
    (r"^blocks_(\d+)/", r"layers.\1/"),
    (r"/attention/qkv/", "/attention/wqkv/"),
    (r"/attention/out/", "/attention/wo/"),
    (r"/mlp_out/", "/feed_forward/w2/"),
    (r"/mlp_norm/", "/ffn_norm/"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of ours; the MLP's gate and value are two."""
    if name.endswith("/mlp_in/kernel"):
        block = _rename(name.removesuffix("/mlp_in/kernel") + "/")
        entries = (f"{block}feed_forward.w1.weight", f"{block}feed_forward.w3.weight")
        return OfficialEntries(entries, lambda gate, value: np.stack([gate.T, value.T], axis=1))
    return _rename(name)


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the network, all of whose entries but the rotary table are in the file."""
    del weights
    require_method(target, _METHOD)
    return [Part(NETWORK_PLACE, official_name, _ROTARY)]


FORMAT = RunFormat(config="pixel_transformer", parts=parts)


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
