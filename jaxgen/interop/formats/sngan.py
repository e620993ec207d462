"""Weights of SNGAN, of cGANs with projection discriminator and of WGAN-GP, by the names of mimicry (Lee and Town 2020).

A file holds a generator or a discriminator of any of the library's sizes, or both with the prefixes `G.` and `D.`.
"""

import re

import numpy as np

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.players import PREFIXES, OfficialNetwork, network_of_each_prefix, player_parts
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict

_METHOD = "gan.gan"

_IN_BLOCKS = {"conv_0": "c1", "conv_1": "c2", "norm_0": "b1", "norm_1": "b2", "shortcut": "c_sc"}
_LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "sigma": "sn_sigma",
}


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the parameters and statistics of the networks that the file holds."""
    require_method(target, _METHOD)
    several = network_of_each_prefix(weights)
    if not several:
        player = "discriminator" if "block1.c1.bias" in weights else "generator"
        return player_parts(player, _NETWORKS[player](weights))
    return [
        part
        for player, own in several.items()
        if player in _NETWORKS
        for part in player_parts(player, _NETWORKS[player](own), prefix=PREFIXES[player])
    ]


def official_generator(weights: StateDict) -> OfficialNetwork:
    """Returns the names of a generator with as many blocks as the weights have."""
    last = _last_block(weights) + 1
    outer = {"stem": "l1", "norm": f"b{last}", "out": f"c{last}"}

    def official(name: str) -> str:
        *path, leaf = _path(name)
        if "embedding" in name:
            return f"{_layer(path, outer, first_block=2)}.embed.weight"
        if path[-1] == "norm" and len(path) > 1:  # below the scales and biases of classes
            return f"{_layer(path[:-1], outer, first_block=2)}.bn.{_LEAVES[leaf]}"
        return f"{_layer(path, outer, first_block=2)}.{_LEAVES.get(leaf, leaf)}"

    return OfficialNetwork(official, r".*\.running_(mean|var)", r".*\.num_batches_tracked")


def official_discriminator(weights: StateDict) -> OfficialNetwork:
    """Returns the names of a discriminator with as many blocks as the weights have.

    PyTorch's spectral normalization calls a kernel `weight_orig` and its vectors `weight_u` and `weight_v`; that of the
    library, of the last layers where there are classes, has `weight`, `sn_u` and `sn_sigma`.
    """
    outer = {"head/out": f"l{_last_block(weights) + 1}", "head/label": "l_y"}

    def official(name: str) -> str | OfficialEntries:
        *path, leaf = _path(name)
        layer = _layer(path, outer, first_block=1)
        by_torch = f"{layer}.weight_orig" in weights
        if leaf == "kernel" and by_torch:
            return f"{layer}.weight_orig"
        if leaf == "u":
            return f"{layer}.weight_u" if by_torch else f"{layer}.sn_u"
        if leaf == "v":
            return OfficialEntries((f"{layer}.weight_v", f"{layer}.weight_orig"), _channels_last)
        return f"{layer}.{_LEAVES.get(leaf, leaf)}"

    return OfficialNetwork(official, r".*\.(weight_[uv]|sn_u|sn_sigma)")


_NETWORKS = {"generator": official_generator, "discriminator": official_discriminator}


def _path(name: str) -> list[str]:
    """Returns the parts of a name without the collection that it may begin with."""
    return name.removeprefix("batch_stats/").removeprefix("spectral/").split("/")


def _layer(path: list[str], outer: dict[str, str], *, first_block: int) -> str:
    block = re.fullmatch(r"block_(\d+)", path[0])
    if not block:
        return outer["/".join(path)]
    return f"block{int(block[1]) + first_block}.{_IN_BLOCKS[path[1]]}"


def _last_block(weights: StateDict) -> int:
    return max((int(name[1]) for name in map(re.compile(r"block(\d+)\.").match, weights) if name), default=0)


def _channels_last(v: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Converts a vector over the inputs of a convolution, [in, height, width], to [height, width, in]."""
    return np.moveaxis(v.reshape(weight.shape[1:]), 0, -1).ravel()


FORMAT = RunFormat(config="sngan", parts=parts)
