"""Weights of StyleGAN2 (Karras et al. 2020), by the names of the official PyTorch repository.

A file holds either a generator alone, `mapping.*` and `synthesis.*`, or all networks of a run with the prefixes `G.`,
`G_ema.` and `D.`. Buffers are those of the generator whose images are looked at: of `G_ema`, if there is one.
"""

import re

import numpy as np

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict, prefixed

_METHOD = "gan.style_based"

_FILTER = r"(.*\.)?resample_filter"
_BUFFER = r".*\.(w_avg|noise_const)"


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the generator and its buffers or, of a whole run, both players, the average and its buffers."""
    require_method(target, _METHOD)
    if not any(name.startswith(("G.", "G_ema.", "D.")) for name in weights):
        return [
            Part("params/generator", official_generator_name, rf"{_FILTER}|{_BUFFER}"),
            Part("model_state/generator", official_generator_name, rf"(?!{_BUFFER}).*"),
        ]
    generator, discriminator = official_generator_name, official_discriminator_name
    return [
        Part("params/generator", prefixed("G.", generator), rf"(G_ema|D|augment_pipe)\..*|{_FILTER}|{_BUFFER}"),
        Part("ema/params/generator", prefixed("G_ema.", generator), rf"(?!G_ema\.).*|{_FILTER}|{_BUFFER}"),
        Part("model_state/generator", prefixed("G_ema.", generator), rf"(?!G_ema{_BUFFER}).*"),
        Part("params/discriminator", prefixed("D.", discriminator), rf"(?!D\.).*|{_FILTER}"),
    ]


def official_generator_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter or buffer of the generator."""
    name = name.removeprefix("buffers/")
    if name == "w_avg":
        return "mapping.w_avg"
    if name.endswith("/const"):
        return OfficialEntries(_dotted(name), lambda const: np.moveaxis(const, 0, -1))
    return _dotted(name)


def official_discriminator_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of the discriminator."""
    official = _dotted(re.sub(r"^(b\d+)_", r"\1/", name))
    return OfficialEntries(official, _flattened_features) if name == "b4_fc/kernel" else official


def _flattened_features(weight: np.ndarray) -> np.ndarray:
    """Converts a linear layer [out, c * 4 * 4] of 4x4 feature maps, channels last: [4 * 4 * c, out]."""
    return weight.reshape(len(weight), -1, 16).transpose(2, 1, 0).reshape(-1, len(weight))


def _dotted(name: str) -> str:
    return re.sub("kernel$", "weight", name).replace("/", ".")


FORMAT = RunFormat(config="stylegan2", parts=parts)
