"""Weights of the DDPM U-Net (Ho et al. 2020), by the names of diffusers' UNet2DModel."""

import re

from jaxgen.interop.format import RunFormat, network_parts
from jaxgen.nn.unet import UNet

_RENAMED = (
    (r"^(down|up)_(\d+)_(\d+)/attention/", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)_(\d+)_(\d+)/", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)sample_(\d+)/", r"\1_blocks.\2.\1samplers.0."),
    (r"^mid_(\d)/attention/", r"mid_block.attentions.\1."),
    (r"^mid_(\d)/", r"mid_block.resnets.\1."),
    (r"^norm_out/", "conv_norm_out."),
    (r"norm_0/", "norm1."),
    (r"conv_0/", "conv1."),
    (r"norm_1/", "norm2."),
    (r"conv_1/", "conv2."),
    (r"\.norm/", ".group_norm."),
    (r"\.emb/", ".time_emb_proj."),
    (r"\.shortcut/", ".conv_shortcut."),
    (r"\.(query|key|value)/", lambda match: f".to_{match[1][0]}."),
    (r"\.out/", ".to_out.0."),
    (r"^embedding/time_0/", "time_embedding.linear_1."),
    (r"^embedding/time_1/", "time_embedding.linear_2."),
    (r"^embedding/label/embedding", "class_embedding.weight"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: UNet) -> str:
    """Returns the state-dict entry of a parameter of ours; the official levels are numbered in order of execution."""
    last = len(network.channel_multipliers) - 1
    name = re.sub(r"^(up|upsample)_(\d+)", lambda match: f"{match[1]}_{last - int(match[2])}", name)
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


FORMAT = RunFormat(config="ddpm", parts=network_parts(UNet, official=official_name))
