"""Weights of PixelCNN++ (Salimans et al. 2017), by the names of its PyTorch port by Lucas Caccia (pclucas14)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.interop.format import NETWORK_PLACE, RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, OfficialName, Part, StateDict

_METHOD = "autoregressive.autoregressive"

_FIRST = {"first_above": "u_init", "first_row_above": "ul_init.0", "first_left": "ul_init.1"}
_LAYERS = {"conv_in": "conv_input.conv", "conv_out": "conv_out.conv", "short_cut": "nin_skip.lin_a"}
_STREAMS = {"vertical": "u_stream", "horizontal": "ul_stream"}
_ENTRIES = {"kernel": "weight_v", "g": "weight_g", "bias": "bias"}


def official_names(resolutions: int) -> OfficialName:
    """Returns the map from a parameter of the network to its state-dict entry.

    The port counts the layers of the way up from the coarsest resolution.
    """
    last = resolutions - 1

    def official(name: str) -> str | OfficialEntries:
        *modules, parameter = name.split("/")
        entry = _ENTRIES[parameter]
        if modules[0] == "out":
            return f"nin_out.lin_a.{entry}"
        if modules[0] in _FIRST:
            return f"{_FIRST[modules[0]]}.conv.{entry}"
        stream, (kind, *numbers) = _STREAMS[modules[0]], modules[1].split("_")
        level = int(numbers[0])
        if kind == "halve":
            return f"downsize_{stream}.{level}.conv.{entry}"
        if kind == "double":
            source = f"upsize_{stream}.{last - 1 - level}.deconv.{entry}"
            # [in, out, height, width], in this order, since the convolution is transposed.
            return (
                OfficialEntries(source, lambda v: np.moveaxis(v, (0, 1), (-2, -1))) if parameter == "kernel" else source
            )
        layers = f"up_layers.{level}" if kind == "down" else f"down_layers.{last - level}"
        return f"{layers}.{stream}.{numbers[1]}.{_LAYERS[modules[2]]}.{entry}"

    return official


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the network, all of whose entries are in the file."""
    require_method(target, _METHOD)
    layers = [int(match[1]) for name in weights if (match := re.match(r"up_layers\.(\d+)\.", name))]
    return [Part(NETWORK_PLACE, official_names(max(layers, default=0) + 1))]


def settings(target: Target, weights: StateDict) -> Mapping[str, Any]:
    """Returns the norm of the port's transposed convolutions, which is that of each input's weights."""
    del target, weights
    return {"transposed_norm": "input"}


FORMAT = RunFormat(config="pixelcnnpp", parts=parts, settings=settings)
