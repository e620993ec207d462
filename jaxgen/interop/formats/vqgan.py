"""Weights of LlamaGen's image tokenizers (Sun et al. 2024), the networks and normalized codebook of a VQ-GAN."""

import re

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.state_dict import Part, StateDict

_METHOD = "vae.vector_quantized"

_CODEBOOK = r"quantize\..*"
_USAGE = r"quantize\.codebook_used"

_RENAMED = (
    (r"(down|up)_(\d+)_(\d+)/attention", r"conv_blocks.\2.attn.\3"),
    (r"(down|up)_(\d+)_(\d+)", r"conv_blocks.\2.res.\3"),
    (r"(down|up)sample_(\d+)", r"conv_blocks.\2.\1sample"),
    (r"mid_attention", "mid.1"),
    (r"mid_1", "mid.2"),
    (r"mid_0", "mid.0"),
    (r"shortcut", "nin_shortcut"),
    (r"/(q)uery|/(k)ey|/(v)alue", r"/\1\2\3"),
    (r"/out/", "/proj_out/"),
    (r"(norm|conv)_0", r"\g<1>1"),
    (r"(norm|conv)_1", r"\g<1>2"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str) -> str:
    """Returns the state-dict entry of a parameter of the networks."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns networks and codebook, which are the generator of two players if there is a discriminator."""
    del weights
    require_method(target, _METHOD)
    player = "params/generator" if "generator" in target.params else "params"
    return [
        Part(f"{player}/network", official_name, _CODEBOOK),
        Part(f"{player}/quantizer", lambda _: "quantize.embedding.weight", rf"(?!quantize\.).*|{_USAGE}"),
    ]


FORMAT = RunFormat(config="vqgan", parts=parts)
