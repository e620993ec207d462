"""Weights of improved DDPM and ADM, by the names of guided-diffusion's UNetModel."""

import re

from jaxgen.interop.format import RunFormat, network_parts
from jaxgen.interop.state_dict import OfficialEntries
from jaxgen.nn.adm_unet import ADMUNet

_RENAMED = (
    (r"^input_0/", "input_blocks.0.0."),
    (r"^(input|output)_(\d+)(_\d)?_(conv|op)/", r"\1_\2\3/\4/"),
    (r"^(input|output)_(\d+)/attention/", r"\1_blocks.\2.1."),
    (r"^(input|output)_(\d+)_(\d)/", r"\1_blocks.\2.\3."),
    (r"^(input|output)_(\d+)/", r"\1_blocks.\2.0."),
    (r"^middle_0/attention/", "middle_block.1."),
    (r"^middle_(\d)/", r"middle_block.\1."),
    (r"norm0/", "in_layers.0."),
    (r"conv0/", "in_layers.2."),
    (r"affine/", "emb_layers.1."),
    (r"norm1/", "out_layers.0."),
    (r"conv1/", "out_layers.3."),
    (r"skip/", "skip_connection."),
    (r"proj/", "proj_out."),
    (r"^out_norm/", "out.0."),
    (r"^out_conv/", "out.2."),
    (r"^time_", "time_embed."),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str, network: ADMUNet) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of ours."""
    del network
    if name == "label/kernel":
        return OfficialEntries("label_emb.weight", lambda table: table)  # one row a class, in both
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


FORMAT = RunFormat(config="adm", parts=network_parts(ADMUNet, official=official_name))
