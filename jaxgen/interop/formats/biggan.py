"""Weights of BigGAN, BigGAN-deep and SAGAN, by the names of the PyTorch code of BigGAN's first author.

A file holds a generator or a discriminator, or several networks with the prefixes `G.`, `G_ema.` and `D.`.
"""

import re

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.players import PREFIXES, OfficialNetwork, network_of_each_prefix, player_parts
from jaxgen.interop.state_dict import Part, StateDict

_METHOD = "gan.gan"

_LEAVES = {"kernel": "weight", "embedding": "weight", "u": "u0", "sigma": "sv0", "mean": "stored_mean"}
_LEAVES |= {"var": "stored_var", "scale": "gain"}
_RENAMED = (
    (r"^(batch_stats|spectral)/", ""),
    (r"^block_(\d+)_(\d+)/", r"blocks/\1/\2/"),
    (r"^block_(\d+)/", r"blocks/\1/0/"),
    (r"/norm_0/", "/bn1/"),
    (r"/norm_1/", "/bn2/"),
    (r"/norm_2/", "/bn3/"),
    (r"/norm_3/", "/bn4/"),
    (r"/conv_0/", "/conv1/"),
    (r"/conv_1/", "/conv2/"),
    (r"/conv_2/", "/conv3/"),
    (r"/conv_3/", "/conv4/"),
    (r"/shortcut/", "/conv_sc/"),
    (r"/norm/", "/"),  # the statistics below the scale and bias of a condition
    (r"^norm/", "output_layer/0/"),
    (r"^out/", "output_layer/2/"),
    (r"^head/out/", "linear/"),
    (r"^head/label/", "embed/"),
)
_PLAYERS = {"generator": "generator", "average": "generator", "discriminator": "discriminator"}


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the parameters and the other collections of the networks that the file holds, or of their average."""
    require_method(target, _METHOD)
    several = network_of_each_prefix(weights)
    if not several:
        player = "discriminator" if "embed.weight" in weights else "generator"
        return player_parts(player, official_network(player, weights))
    return [
        part
        for name, own in several.items()
        for part in player_parts(
            _PLAYERS[name], official_network(_PLAYERS[name], own), prefix=PREFIXES[name], average=name == "average"
        )
    ]


def official_network(player: str, weights: StateDict) -> OfficialNetwork:
    """Returns the names of a generator or discriminator with as many blocks in a stage as the weights have.

    The official discriminator of BigGAN-deep has all blocks of a stage, then attention, in one list.
    """
    blocks = [int(found[1]) for found in map(re.compile(r"blocks\.\d+\.(\d+)\.conv1\.").match, weights) if found]
    attention = (r"^attention_(\d+)/", rf"blocks/\1/{max(blocks, default=0) + 1}/")
    stem = (r"^stem/", "linear/" if player == "generator" else "input_conv/")

    def official(name: str) -> str:
        for pattern, replacement in (*_RENAMED, attention, stem):
            name = re.sub(pattern, replacement, name)
        path, _, leaf = name.rpartition("/")
        return f"{path}.{_LEAVES.get(leaf, leaf)}".replace("/", ".")

    return OfficialNetwork(official, r".*\.(u0|sv0|stored_mean|stored_var)")


FORMAT = RunFormat(config="biggan", parts=parts)
