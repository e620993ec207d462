"""Weights of R3GAN (Huang et al. 2024), by the names of the official PyTorch repository.

A file holds either a generator alone or all networks of a run with the prefixes `G.`, `G_ema.` and `D.`. The official
wrappers of the networks add `Model.` to names, which may be there or not.
"""

import re

import numpy as np

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.state_dict import OfficialEntries, OfficialName, Part, StateDict, prefixed

_METHOD = "gan.gan"

_FILTER = r"(.*\.)?Resampler\.Kernel"

_LAYERS = {
    "conv0/kernel": "LinearLayer1.Layer.weight",
    "conv1/kernel": "LinearLayer2.Layer.weight",
    "conv2/kernel": "LinearLayer3.Layer.weight",
    "bias0": "NonLinearity1.Bias",
    "bias1": "NonLinearity2.Bias",
    "conv/kernel": "LinearLayer.Layer.weight",
    "weights/kernel": "LinearLayer.weight",
}
"""Parameters within a module of ours, and within an official layer."""


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the generator or, of a whole run, both players and the average."""
    require_method(target, _METHOD)
    if not any(name.startswith(("G.", "G_ema.", "D.")) for name in weights):
        prefix = _wrapper(weights, "")
        return [Part("params/generator", prefixed(prefix, official_generator_name), _FILTER)]
    places = {"G.": "params/generator", "G_ema.": "ema/params/generator", "D.": "params/discriminator"}
    official: dict[str, OfficialName] = dict.fromkeys(("G.", "G_ema."), official_generator_name)
    official["D."] = official_discriminator_names(_below(weights, _wrapper(weights, "D.")))
    return [
        Part(place, prefixed(_wrapper(weights, player), official[player]), rf"(?!{re.escape(player)}).*|{_FILTER}")
        for player, place in places.items()
    ]


def official_generator_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter of the generator."""
    if name == "label/embedding":
        return OfficialEntries("EmbeddingLayer.weight", np.transpose)
    if name == "out/kernel":
        return "AggregationLayer.Layer.weight"
    stage, layer, rest = _split(name)
    if rest == "basis":
        return OfficialEntries("MainLayers.0.Layers.0.Basis", lambda basis: np.moveaxis(basis, 0, -1))
    index = int(layer.removeprefix("block")) + 1 if layer.startswith("block") else 0
    return f"MainLayers.{stage}.Layers.{index}.{_LAYERS[rest]}"


def official_discriminator_names(weights: StateDict) -> OfficialName:
    """Returns the map from a parameter of the discriminator to its state-dict entry.

    The official stages are numbered from the finest one, and the layer that changes the resolution is the last of its
    stage: so numbers depend on how many there are, which is read from the weights.

    Args:
      weights: of the discriminator, without a prefix.
    """
    layers = [match.groups() for name in weights if (match := re.match(r"MainLayers\.(\d+)\.Layers\.(\d+)\.", name))]
    last_stage = max((int(stage) for stage, _ in layers), default=0)

    def official(name: str) -> str | OfficialEntries:
        if name == "label/embedding":
            return OfficialEntries("EmbeddingLayer.weight", np.transpose)
        if name == "in/kernel":
            return "ExtractionLayer.Layer.weight"
        ours, layer, rest = _split(name)
        stage = last_stage - ours
        last = max((int(index) for own, index in layers if int(own) == stage), default=0)
        index = layer.removeprefix("block") if layer.startswith("block") else last
        place = f"MainLayers.{stage}.Layers.{index}"
        if layer == "pool":
            return OfficialEntries(f"{place}.Basis.weight", lambda basis: np.moveaxis(basis[:, 0], 0, -1))
        return f"{place}.LinearLayer.weight" if layer == "out" else f"{place}.{_LAYERS[rest]}"

    return official


def _split(name: str) -> tuple[int, str, str]:
    """Splits `stage1_block0/conv0/kernel` into the stage, the layer in it and the parameter in that."""
    module, _, parameter = name.partition("/")
    stage, _, layer = module.removeprefix("stage").partition("_")
    return int(stage), layer, parameter


def _wrapper(weights: StateDict, prefix: str) -> str:
    """Returns the prefix of a network's entries, with that of the official wrapper where there is one."""
    return f"{prefix}Model." if any(name.startswith(f"{prefix}Model.") for name in weights) else prefix


def _below(weights: StateDict, prefix: str) -> StateDict:
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


FORMAT = RunFormat(config="r3gan", parts=parts)
