"""Weights of StyleGAN3 (Karras et al. 2021), by the names of the official PyTorch repository.

A file holds either a generator alone, `mapping.*` and `synthesis.*`, or all networks of a run with the prefixes `G.`,
`G_ema.` and `D.`. The discriminator is that of StyleGAN2. Buffers (frequencies, filters, running means) are those of
the generator whose images are looked at: of `G_ema`, if there is one.
"""

from jaxgen.interop.format import RunFormat, Target, require_method
from jaxgen.interop.formats.stylegan2 import official_discriminator_name
from jaxgen.interop.state_dict import OfficialEntries, Part, StateDict, prefixed

_METHOD = "gan.style_based"

_BUFFER = r".*\.(w_avg|magnitude_ema|up_filter|down_filter|freqs|phases|transform)"
_FILTER = r"(.*\.)?resample_filter"


def parts(target: Target, weights: StateDict) -> list[Part]:
    """Returns the generator and its buffers or, of a whole run, both players, the average and its buffers."""
    require_method(target, _METHOD)
    generator, discriminator = official_generator_name, official_discriminator_name
    if not any(name.startswith(("G.", "G_ema.", "D.")) for name in weights):
        return [
            Part("params/generator", generator, _BUFFER),
            Part("model_state/generator", generator, rf"(?!{_BUFFER}).*"),
        ]
    return [
        Part("params/generator", prefixed("G.", generator), rf"(?!G\.).*|{_BUFFER}"),
        Part("ema/params/generator", prefixed("G_ema.", generator), rf"(?!G_ema\.).*|{_BUFFER}"),
        Part("model_state/generator", prefixed("G_ema.", generator), rf"(?!G_ema{_BUFFER}).*"),
        Part("params/discriminator", prefixed("D.", discriminator), rf"(?!D\.).*|{_FILTER}"),
    ]


def official_generator_name(name: str) -> str | OfficialEntries:
    """Returns the state-dict entry of a parameter or buffer of the generator."""
    name = name.removeprefix("buffers/")
    if name == "w_avg":
        return "mapping.w_avg"
    if name.endswith("/kernel"):
        return name.removesuffix("kernel").replace("/", ".") + "weight"
    return name.replace("/", ".")


FORMAT = RunFormat(config="stylegan3", parts=parts)
