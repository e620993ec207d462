"""Weights of MAR (Li et al. 2024), by the names of the official repository; averages are the entry `model_ema`."""

import re

import numpy as np

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict

_METHOD = "autoregressive.masked_diffusion"
_DENOISER = "diffloss.net."

_NETWORK_NAMES = (
    (r"^token_embedding", "z_proj"),
    (r"^norm_in", "z_proj_ln"),
    (r"^decoder_embedding", "decoder_embed"),
    (r"^output_positions", "diffusion_pos_embed_learned"),
    (r"^(encoder|decoder)_positions", r"\1_pos_embed_learned"),
    (r"^(encoder|decoder)_(\d+)", r"\1_blocks.\2"),
    (r"norm_0", "norm1"),
    (r"norm_1", "norm2"),
    (r"attention/out", "attn.proj"),
    (r"attention/", "attn."),
    (r"mlp/in", "mlp.fc1"),
    (r"mlp/out", "mlp.fc2"),
)
_DENOISER_NAMES = (
    (r"^conditioning/time_0", "time_embed.mlp.0"),
    (r"^conditioning/time_1", "time_embed.mlp.2"),
    (r"^condition/", "cond_embed/"),
    (r"^token_embedding", "input_proj"),
    (r"^block_(\d+)", r"res_blocks.\1"),
    (r"^final", "final_layer"),
    (r"/norm/", "/in_ln/"),
    (r"/in/", "/mlp.0/"),
    (r"/out/", "/mlp.2/"),
    (r"modulation", "adaLN_modulation.1"),
)


def official_network_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of the network; the null class has one of its own."""
    if name == "label/embedding":
        return OfficialEntries(("class_emb.weight", "fake_latent"), lambda *rows: np.concatenate(rows))
    return _rename(name, _NETWORK_NAMES)


def official_denoiser_name(name: str) -> str:
    """Returns the state-dict entry of a parameter of the denoiser."""
    return _DENOISER + _rename(name, _DENOISER_NAMES)


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the transformer and the denoiser."""
    del weights
    require_method(target, _METHOD)
    denoiser = re.escape(_DENOISER)
    return [
        Part("params/network", official_network_name, rf"{denoiser}.*"),
        Part("params/denoiser", official_denoiser_name, rf"(?!{denoiser}).*"),
    ]


FORMAT = RunFormat(config="mar", parts=parts)


def _rename(name: str, renamed: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in (*renamed, (r"(kernel|scale)$", "weight"), (r"/", ".")):
        name = re.sub(pattern, replacement, name)
    return name
