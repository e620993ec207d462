"""Weights of the official VDVAE (Child 2021)."""

import re
from collections.abc import Sequence

from jaxgen.interop.format import NETWORK_PLACE, RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict

_METHOD = "vae.vdvae"
_CONSTANT = "constant_"

_RENAMED = (
    (r"^in_conv", "encoder.in_conv"),
    (r"^encoder_(\d+)", r"encoder.enc_blocks.\1"),
    (r"^decoder_(\d+)", r"decoder.dec_blocks.\1"),
    (r"^out/", "decoder.out_net.out_conv/"),
    (r"kernel$", "weight"),
    (r"/", "."),
)


def official_name(name: str, sides: Sequence[int]) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of ours.

    Args:
      name: of the parameter.
      sides: resolutions of the learned constants.
    """
    if name in ("gain", "bias"):
        return OfficialEntries(f"decoder.{name}", lambda array: array[0, :, 0, 0])
    if name.startswith(_CONSTANT):
        index = sorted(sides).index(int(name.removeprefix(_CONSTANT)))
        return OfficialEntries(f"decoder.bias_xs.{index}", lambda array: array[0].transpose(1, 2, 0))
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the network."""
    del weights
    require_method(target, _METHOD)
    names = target.params["network"]
    sides = [int(name.removeprefix(_CONSTANT)) for name in names if name.startswith(_CONSTANT)]
    return [Part(NETWORK_PLACE, lambda name: official_name(name, sides))]


FORMAT = RunFormat(config="vdvae", parts=parts)
