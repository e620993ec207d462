"""The record of every format: its config, the networks and methods that it is of, and its maps of names."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxgen.interop.format import ExtractorFormat, RunFormat, Target, network_parts
from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.dit import DiT
from jaxgen.nn.edm2_unet import EDM2UNet
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.unet import UNet
from jaxgen.runs import importing

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = Path(importing.__file__).parents[1] / "interop" / "formats"
NETWORKS = {
    "adm": (ADMUNet(3),),
    "ddpm": (UNet(3),),
    "dit": (DiT(3),),
    "edm": (SongUNet(3), DhariwalUNet(3)),
    "edm2": (EDM2UNet(3),),
    "iddpm": (ADMUNet(3),),
}
METHODS = {
    "autoencoder-kl": "vae.autoencoder_kl",
    "biggan": "gan.gan",
    "glow": "flows.flow",
    "llamagen": "autoregressive.autoregressive",
    "mar": "autoregressive.masked_diffusion",
    "pixelcnnpp": "autoregressive.autoregressive",
    "r3gan": "gan.gan",
    "sngan": "gan.gan",
    "stylegan2": "gan.style_based",
    "stylegan3": "gan.style_based",
    "tarflow": "flows.flow",
    "vdvae": "vae.vdvae",
    "vqgan": "vae.vector_quantized",
}
CONFIGS_OF_OTHER_NAMES = {"llamagen": "pixel_transformer"}
OTHER = Target("denoising.consistency", None, {"network": {}})


def test_every_file_is_a_format_with_a_config_or_a_feature_extractor():
    names = sorted(path.stem.replace("_", "-") for path in FILES.glob("*.py") if path.stem != "__init__")
    formats = {name: importing.find_format(name) for name in names}
    assert {name for name in names if isinstance(formats[name], RunFormat)} == {*NETWORKS, *METHODS}
    for name, format_ in formats.items():
        if isinstance(format_, RunFormat):
            assert format_.config == CONFIGS_OF_OTHER_NAMES.get(name, name.replace("-", "_"))
            assert (CONFIGS / f"{format_.config}.py").exists()
        else:
            assert isinstance(format_, ExtractorFormat)


def test_a_name_is_found_with_dashes_or_underscores():
    assert importing.find_format("autoencoder_kl") is importing.find_format("autoencoder-kl")
    with pytest.raises(
        ValueError, match=r"^here is 'dt', but must be one of adm, autoencoder-kl, .* Did you mean dit\?"
    ):
        importing.find_format("dt", where="here")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_format_of_networks_takes_those_and_refuses_others(name):
    format_ = importing.find_format(name)
    for network in NETWORKS[name]:
        (part,) = format_.parts(OTHER._replace(network=network), {})
        assert part.place == "params/network"
    names = " or ".join(type(network).__name__ for network in NETWORKS[name])
    others = [network for networks in NETWORKS.values() for network in networks if network not in NETWORKS[name]]
    for network in (None, *others):
        with pytest.raises(ValueError, match=f"are of {names}, which the config of method denoising.consistency does"):
            format_.parts(OTHER._replace(network=network), {})


@pytest.mark.parametrize("name", METHODS)
def test_a_format_of_a_method_takes_that_and_refuses_others(name):
    format_, method = importing.find_format(name), METHODS[name]
    assert format_.parts(OTHER._replace(method=method), {})
    with pytest.raises(ValueError, match=f"are of the method {method}, but config.method=denoising.consistency"):
        format_.parts(OTHER, {})


def test_names_depend_on_the_network_and_entries_are_ignored_as_given():
    parts = network_parts(DiT, official=lambda name, network: f"{network.depth}.{name}", ignored="fixed")
    (part,) = parts(OTHER._replace(network=DiT(3, depth=5)), {})
    assert part.official("kernel") == "5.kernel"
    assert part.ignored == "fixed"


def test_only_the_formats_that_know_settings_have_any():
    """That of EDM reads them; that of the port of PixelCNN++ has one norm, whatever the weights."""
    for name in (*NETWORKS, *METHODS):
        target = OTHER._replace(network=NETWORKS.get(name, (None,))[0])
        settings = importing.find_format(name).settings(target, {"map_noise.freqs": np.ones(2)})
        assert bool(settings) == (name in ("edm", "pixelcnnpp"))


BUFFERS = {"stylegan2": "synthesis.b8.conv0.noise_const", "stylegan3": "synthesis.input.freqs"}
LEFT_OUT = {
    # Of a place in a whole run: what is filled by others, or by nothing, and what it is filled with.
    "params/generator": (("G_ema.mapping.fc0.weight", "D.b4.fc.weight", "G.mapping.w_avg"), "G.mapping.fc0.weight"),
    "ema/params/generator": (
        ("G.mapping.fc0.weight", "G_ema.mapping.w_avg", "D.b4.fc.weight"),
        "G_ema.mapping.fc0.bias",
    ),
    "model_state/generator": (("G_ema.mapping.fc0.weight", "G.mapping.w_avg"), "G_ema.mapping.w_avg"),
    "params/discriminator": (
        ("G.mapping.w_avg", "G_ema.mapping.fc0.bias", "D.b8.resample_filter"),
        "D.b8.conv0.weight",
    ),
}


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("place", LEFT_OUT)
def test_each_network_of_a_run_leaves_the_entries_of_others_out(name, place):
    parts = importing.find_format(name).parts(OTHER._replace(method="gan.style_based"), {"G.x": np.ones(1)})
    (part,) = (part for part in parts if part.place == place)
    others, own = LEFT_OUT[place]
    for entry in (*others, "augment_pipe.Hz_geom"):
        assert re.fullmatch(part.ignored, entry), entry
    assert not re.fullmatch(part.ignored, own)
    of_average = bool(re.fullmatch(part.ignored, f"G_ema.{BUFFERS[name]}"))
    assert of_average == (place != "model_state/generator")


def test_the_table_of_positions_of_llamagen_is_left_out():
    (part,) = importing.find_format("llamagen").parts(OTHER._replace(method=METHODS["llamagen"]), {})
    assert re.fullmatch(part.ignored, "freqs_cis")
    assert not re.fullmatch(part.ignored, "layers.0.attention.wqkv.weight")
