"""The official numbers of parameters, for every config that is named after a published model; by shapes alone."""

import re

import jax
import jax.numpy as jnp
import pytest
from named_configs import config_of
from specs import data_spec

from jaxgen.core import keys, trees
from jaxgen.core.build import build_model

# Data of the config: image (or latent) shape, and classes that it has.
CIFAR10 = ((32, 32, 3), 10)
COUNTS = {
    "ddpm:cifar10": (*CIFAR10, 35_746_307),
    "ddpm:celebahq256": ((256, 256, 3), 0, 113_673_219),
    "ddpm:lsun256": ((256, 256, 3), 0, 113_673_219),
    "iddpm:cifar10": (*CIFAR10, 52_546_438),
    "iddpm:imagenet64": ((64, 64, 3), 1000, 121_063_942),
    "iddpm:imagenet64_cond": ((64, 64, 3), 1000, 273_049_350),
    "adm:imagenet64": ((64, 64, 3), 1000, 295_904_454),
    "adm:imagenet128": ((128, 128, 3), 1000, 421_529_606),
    "adm:imagenet256": ((256, 256, 3), 1000, 553_838_086),
    "adm:imagenet256_uncond": ((256, 256, 3), 1000, 552_814_086),
    "adm:imagenet512": ((512, 512, 3), 1000, 558_997_638),
    "edm:cifar10": (*CIFAR10, 55_735_299),
    "edm:cifar10_uncond": (*CIFAR10, 55_733_891),
    "edm:cifar10_ncsnpp": (*CIFAR10, 56_400_643),
    "edm:cifar10_uncond_ncsnpp": (*CIFAR10, 56_397_827),
    "edm:ffhq64": ((64, 64, 3), 0, 61_805_571),
    "edm:ffhq64_ncsnpp": ((64, 64, 3), 0, 62_761_091),
    "edm:imagenet64": ((64, 64, 3), 1000, 295_899_267),
    "edm:vp": (*CIFAR10, 55_733_891),
    "edm:ve": (*CIFAR10, 56_397_827),
    "consistency:cifar10": (*CIFAR10, 56_397_827 - 9 * 256),  # NCSN++ without the layer of augmentations
    "edm2:xs": ((64, 64, 4), 1000, 124_713_253),
    "edm2:s": ((64, 64, 4), 1000, 280_212_837),
    "edm2:m": ((64, 64, 4), 1000, 497_807_781),
    "edm2:l": ((64, 64, 4), 1000, 777_498_085),
    "edm2:xl": ((64, 64, 4), 1000, 1_119_283_749),
    "edm2:xxl": ((64, 64, 4), 1000, 1_523_164_773),
    "dit:s2": ((32, 32, 4), 1000, 32_865_056),
    "dit:b2": ((32, 32, 4), 1000, 130_315_808),
    "dit:l2": ((32, 32, 4), 1000, 457_840_672),
    "dit:xl2": ((32, 32, 4), 1000, 674_834_720),
    "autoencoder_kl:kl_f8": ((256, 256, 3), 0, 83_653_863),
    "vqgan:vq16": ((256, 256, 3), 0, 71_883_403 + 2_765_633),
    "vqgan:vq8": ((256, 256, 3), 0, 70_109_835 + 2_765_633),
    "vdvae:cifar10": (*CIFAR10, 39_145_700),
    "vdvae:imagenet32": ((32, 32, 3), 0, 119_280_868),
    "vdvae:imagenet64": ((64, 64, 3), 0, 125_005_860),
    "vdvae:ffhq256": ((256, 256, 3), 0, 114_874_852),
    "dcgan:celeba": ((64, 64, 3), 0, 3_576_704 + 2_765_568),
    "sngan:cifar10": ((32, 32, 3), 0, 4_276_739 + 1_053_825),
    "sngan:stl10": ((48, 48, 3), 0, 4_878_083 + 10_141_441),
    "sngan:celeba64": ((64, 64, 3), 0, 12_220_675 + 10_141_441),
    "sngan:celeba128": ((128, 128, 3), 0, 32_150_787 + 29_017_857),
    "cgan_pd:cifar10": (*CIFAR10, 4_304_387 + 1_055_105),
    "sagan:imagenet128": ((128, 128, 3), 1000, 42_017_412 + 39_448_258),
    "biggan:cifar10": (*CIFAR10, 4_304_387 + 4_207_361),
    "biggan:imagenet128": ((128, 128, 3), 1000, 70_433_988 + 87_982_370),
    "biggan:imagenet256": ((256, 256, 3), 1000, 82_235_844 + 99_225_890),
    "biggan:imagenet128_deep": ((128, 128, 3), 1000, 50_244_484 + 34_590_210),
    "r3gan:cifar10": (*CIFAR10, 20_781_952 + 21_280_512),
    "r3gan:ffhq64": ((64, 64, 3), 0, 22_429_824 + 22_381_440),
    "r3gan:ffhq256": ((256, 256, 3), 0, 23_057_952 + 23_009_568),
    "r3gan:imagenet32": ((32, 32, 3), 1000, 82_914_304 + 86_548_992),
    "r3gan:imagenet64": ((64, 64, 3), 1000, 103_570_432 + 107_205_120),
    "progan:celebahq": ((1024, 1024, 3), 0, 23_079_115 + 23_087_249),
    "progan:cifar10": (*CIFAR10, 20_719_628 + 20_726_785),
    "stylegan2:ffhq1024": ((1024, 1024, 3), 0, 30_370_060 + 29_012_513),
    "stylegan2:ffhq256": ((256, 256, 3), 0, 30_034_338 + 28_864_129),
    "stylegan2:paper256": ((256, 256, 3), 0, 24_767_458 + 24_001_089),
    "stylegan2:cifar10": (*CIFAR10, 19_947_539 + 20_720_641),
    "stylegan2:cifar10_cond": (*CIFAR10, 20_215_315 + 23_089_664),
    "stylegan3:t256": ((256, 256, 3), 0, 28_472_133 + 28_864_129),
    "stylegan3:t512": ((512, 512, 3), 0, 24_873_519 + 28_982_849),
    "stylegan3:t1024": ((1024, 1024, 3), 0, 22_313_167 + 29_012_513),
    "stylegan3:t256_small": ((256, 256, 3), 0, 23_320_443 + 24_001_089),
    "stylegan3:r256": ((256, 256, 3), 0, 18_816_387 + 28_864_129),
    "stylegan3:r512": ((512, 512, 3), 0, 16_665_594 + 28_982_849),
    "stylegan3:r1024": ((1024, 1024, 3), 0, 15_093_151 + 29_012_513),
    "stylegan3:r256_small": ((256, 256, 3), 0, 15_779_565 + 24_001_089),
    "glow:cifar10": (*CIFAR10, 44_603_604),
    "glow:imagenet32": ((32, 32, 3), 0, 66_861_588),
    "glow:imagenet64": ((64, 64, 3), 0, 112_377_540),
    "tarflow:imagenet64": ((64, 64, 3), 0, 460_142_784),
    "tarflow:imagenet64_cond": ((64, 64, 3), 1000, 466_286_784),
    "tarflow:imagenet64_patch4": ((64, 64, 3), 0, 809_444_096),
    "pixelcnnpp:cifar10": (*CIFAR10, 53_659_080),
    "pixel_transformer:llamagen_b": ((16, 16, 1), 1000, 110_888_448),
    "pixel_transformer:llamagen_l": ((16, 16, 1), 1000, 342_910_976),
    "pixel_transformer:llamagen_xl": ((16, 16, 1), 1000, 774_699_520),
    "mar:imagenet256_b": ((16, 16, 16), 1000, 207_924_768),
    "mar:imagenet256_l": ((16, 16, 16), 1000, 478_326_304),
    "mar:imagenet256_h": ((16, 16, 16), 1000, 942_403_104),
}

NOT_COUNTED = re.compile(r".*fourier.*")  # fixed features, which are buffers of the official modules


CODES = {"pixel_transformer": 16_384}
"""Levels of the data of configs that are named after models of a tokenizer's codes, which the number depends on."""


NCSNPP = {"encoder": "residual", "embedding": "fourier", "noise_channel_multiplier": 2, "resample_filter": (1, 3, 3, 1)}
ADM256 = {"base_channels": 256, "num_res_blocks": 2, "use_new_attention_order": False, "dropout": 0.0}
STYLEGAN3_R = {"kernel_size": 1, "channel_max": 1024, "radial_filters": True}
MAR = {"model.num_heads": 16, "model.remat": True, "denoiser.remat": True}


def of_model(**changes):
    return {f"model.{name}": value for name, value in changes.items()}


def of_generator(**changes):
    return {f"generator.{name}": value for name, value in changes.items()}


UNCONDITIONAL = {"diffusion.class_conditional": False}
SIBLINGS = {
    "ddpm:celebahq256": ("cifar10", of_model(channel_multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0, remat=True)),
    "ddpm:lsun256": ("cifar10", of_model(channel_multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0, remat=True)),
    "iddpm:imagenet64": ("cifar10", of_model(channel_multipliers=(1, 2, 3, 4), dropout=0.0)),
    "iddpm:imagenet64_cond": (
        "cifar10",
        {"diffusion.class_conditional": True}
        | of_model(base_channels=192, channel_multipliers=(1, 2, 3, 4), dropout=0.0),
    ),
    "adm:imagenet128": ("imagenet64", of_model(**ADM256, channel_multipliers=(1, 1, 2, 3, 4), head_channels=0)),
    "adm:imagenet256": ("imagenet64", of_model(**ADM256, channel_multipliers=(1, 1, 2, 2, 4, 4))),
    "adm:imagenet256_uncond": (
        "imagenet64", UNCONDITIONAL | of_model(**ADM256, channel_multipliers=(1, 1, 2, 2, 4, 4)),
    ),
    "adm:imagenet512": ("imagenet64", of_model(**ADM256, channel_multipliers=(0.5, 1, 1, 2, 2, 4, 4))),
    "edm:cifar10_uncond": ("cifar10", UNCONDITIONAL),
    "edm:cifar10_uncond_ncsnpp": ("cifar10", UNCONDITIONAL | of_model(**NCSNPP)),
    "edm:ffhq64": ("cifar10", UNCONDITIONAL | of_model(channel_multipliers=(1, 2, 2, 2), dropout=0.05)),
    "edm:ffhq64_ncsnpp": (
        "cifar10", UNCONDITIONAL | of_model(channel_multipliers=(1, 2, 2, 2), dropout=0.05, **NCSNPP),
    ),
    "edm:vp": ("cifar10", UNCONDITIONAL),
    "edm:ve": ("cifar10", UNCONDITIONAL | of_model(**NCSNPP)),
    "edm2:s": ("xs", of_model(base_channels=192)),
    "edm2:m": ("xs", of_model(base_channels=256, dropout=0.1)),
    "edm2:l": ("xs", of_model(base_channels=320, dropout=0.1)),
    "edm2:xl": ("xs", of_model(base_channels=384, dropout=0.1)),
    "edm2:xxl": ("xs", of_model(base_channels=448, dropout=0.1)),
    "vdvae:imagenet32": (
        "cifar10",
        of_model(
            width=512,
            encoder_blocks="32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6",
            decoder_blocks="1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40",
        ),
    ),
    "vdvae:imagenet64": (
        "cifar10",
        of_model(
            width=512,
            encoder_blocks="64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
            decoder_blocks="1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
        ),
    ),
    "vdvae:ffhq256": (
        "cifar10",
        of_model(
            width=512,
            encoder_blocks="256x3,256d2,128x8,128d2,64x12,64d2,32x17,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
            decoder_blocks="1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x21,64m32,64x13,128m64,128x7,256m128",
        ),
    ),
    "stylegan3:t512": ("t256", {}),
    "stylegan3:t1024": ("t256", {}),
    "stylegan3:t256_small": ("t256", {"discriminator.channel_base": 16_384, "generator.channel_base": 16_384}),
    "stylegan3:r256": ("t256", of_generator(channel_base=65_536, **STYLEGAN3_R)),
    "stylegan3:r512": ("t256", of_generator(channel_base=65_536, **STYLEGAN3_R)),
    "stylegan3:r1024": ("t256", of_generator(channel_base=65_536, **STYLEGAN3_R)),
    "stylegan3:r256_small": ("t256", {"discriminator.channel_base": 16_384} | of_generator(**STYLEGAN3_R)),
    "tarflow:imagenet64_cond": ("imagenet64", {"flow.class_conditional": True}),
    "tarflow:imagenet64_patch4": ("imagenet64", of_model(patch_size=4, width=1_024)),
    "mar:imagenet256_l": (
        "imagenet256_b",
        MAR | of_model(depth=16, hidden_size=1_024) | {"denoiser.depth": 8, "denoiser.hidden_size": 1_280},
    ),
    "mar:imagenet256_h": (
        "imagenet256_b",
        MAR | of_model(depth=20, hidden_size=1_280) | {"denoiser.depth": 12, "denoiser.hidden_size": 1_536},
    ),
}  # fmt: skip
"""Variants that every run compares with another one, by the settings of their networks, and `make soak` counts, too.

The layers of StyleGAN3 follow from the data's resolution; tests of its networks count them.
"""


def of_networks(name: str) -> dict:
    """The settings of a config that its number of parameters depends on, by path; and what stands beside them."""
    config = config_of(name)
    sections = ("model", "generator", "discriminator", "denoiser", "autoencoder")
    found = {f"{s}.{key}": value for s in sections if s in config for key, value in config[s].items()}
    for section in ("diffusion", "flow", "gan", "masked"):
        for key in ("class_conditional", "latent_dim", "variance"):
            if key in config.get(section, {}):
                found[f"{section}.{key}"] = config[section][key]
    return found


@pytest.mark.parametrize("name", SIBLINGS)
def test_siblings_differ_from_a_counted_config_as_published(name):
    other, changes = SIBLINGS[name]
    counted = f"{name.split(':')[0]}:{other}"
    assert counted in COUNTS.keys() - SIBLINGS.keys()
    assert of_networks(name) == of_networks(counted) | changes


def counted() -> list:
    return [pytest.param(name, marks=pytest.mark.soak if name in SIBLINGS else ()) for name in COUNTS]


@pytest.mark.parametrize("name", counted())
def test_official_parameter_counts(name):
    shape, classes, expected = COUNTS[name]
    model = build_model(config_of(name), data_spec(shape, classes, levels=CODES.get(name.split(":")[0], 256)))
    k = model.microbatches
    example = {
        "image": jax.ShapeDtypeStruct((k, 1, *shape), jnp.uint8),
        "index": jax.ShapeDtypeStruct((k, 1), jnp.int32),
        "label": jax.ShapeDtypeStruct((k, 1), jnp.int32),
    }
    params = trees.named_leaves(jax.eval_shape(model.init, keys.root_key(0), example).params)
    counted = {path: leaf for path, leaf in params.items() if not NOT_COUNTED.fullmatch(path)}
    assert trees.count(counted) == expected
