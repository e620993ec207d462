"""Weights of latent diffusion's autoencoder (Rombach et al. 2022), by the names of diffusers' AutoencoderKL."""

import re

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.state_dict import Part, StateDict

_METHOD = "vae.autoencoder_kl"

_RENAMED = (
    (r"(down|up)_(\d+)_(\d+)", r"\1_blocks.\2.resnets.\3"),
    (r"(down|up)sample_(\d+)", r"\1_blocks.\2.\1samplers.0"),
    (r"mid_attention/norm", "mid_block.attentions.0.group_norm"),
    (r"mid_attention/out", "mid_block.attentions.0.to_out.0"),
    (r"mid_attention/(q|k|v)\w*", r"mid_block.attentions.0.to_\1"),
    (r"mid_(\d)", r"mid_block.resnets.\1"),
    (r"shortcut", "conv_shortcut"),
    (r"norm_out", "conv_norm_out"),
    (r"(norm|conv)_0", r"\g<1>1"),
    (r"(norm|conv)_1", r"\g<1>2"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str) -> str:
    """Returns the state-dict entry of a parameter of ours."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the autoencoder, which is the generator of two players if it is trained with a discriminator."""
    del weights
    require_method(target, _METHOD)
    player = "params/generator" if "generator" in target.params else "params"
    return [Part(f"{player}/network", official_name)]


FORMAT = RunFormat(config="autoencoder_kl", parts=parts)
