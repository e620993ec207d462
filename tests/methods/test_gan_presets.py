"""Settings of the configs that are named after a published GAN: those of its paper, or of its official code."""

import re

import numpy as np
import pytest
from named_configs import config_of, setting
from specs import data_spec

from configs import r3gan
from jaxgen.core.build import build_model
from jaxgen.core.schedules import Curve


def adam(*rates, b1=0.0, b2, eps=1e-8, schedule="constant"):
    """The optimizer of both players: one rate, or those of generator and discriminator."""
    of_players = zip(("generator", "discriminator"), (rates[0], rates[-1]), strict=True)
    return {
        f"optimizer.{player}.{name}": value
        for player, rate in of_players
        for name, value in {
            "name": "adam", "learning_rate": rate, "b1": b1, "b2": b2, "eps": eps, "schedule": schedule,
            "weight_decay": 0.0,
        }.items()
    }  # fmt: skip


DCGAN = {
    "data.batch_size": 128, "gan.loss": "non_saturating", "gan.n_critic": 1, "gan.latent_dim": 100, "gan.terms": (),
    "gan.class_conditional": False, "ema.decay": 0.0, "discriminator.batch_norm": True,
    "discriminator.minibatch_kernels": 0, **adam(2e-4, b1=0.5, b2=0.999),
}  # fmt: skip
SNGAN = {
    "data.batch_size": 64, "train.num_steps": 100_000, "gan.loss": "hinge", "gan.n_critic": 5, "gan.latent_dim": 128,
    "gan.terms": (), "gan.class_conditional": False, "ema.decay": 0.0, "discriminator.pooling": "sum",
    "discriminator.spectral_norm": True, "discriminator.num_downsampling": 2,
    **adam(2e-4, b2=0.9, schedule="linear"),
}  # fmt: skip
BIGGAN = {
    "data.batch_size": 2048, "gan.loss": "hinge", "gan.n_critic": 1, "gan.class_conditional": True, "gan.terms": (),
    "ema.decay": "piecewise(boundaries=(20000,), values=(0.0, 0.9999))", "ema.warmup": False,
    "generator.attention": (64,), "discriminator.attention": (64,), "discriminator.num_downsampling": 5,
    "generator.kernel_init": "orthogonal", "discriminator.kernel_init": "orthogonal",
    "generator.power_iterations": 1, "discriminator.conditioning": "projection", **adam(1e-4, 4e-4, b2=0.999, eps=1e-6),
}  # fmt: skip
STYLEGAN2 = {
    "data.batch_size": 32, "data.flip": True, "train.num_steps": 781_250, "ema.decay": 0.5 ** (32 / 10_000),
    "gan.loss": "non_saturating", "gan.latent_dim": 512, "gan.augment": (), "generator.style_mixing": 0.9,
    "generator.w_avg_decay": 0.995, "discriminator.group_size": 4, "sampler.truncation_psi": 1.0,
    "gan.terms": (
        "r1(gamma=10.0, every_steps=16)", "path_length(weight=2.0, decay=0.01, shrink=2, every_steps=4)",
    ),
    **adam(2e-3, b2=0.99),
}  # fmt: skip
PAPER256 = STYLEGAN2 | {
    "data.batch_size": 64, "train.num_steps": 390_625, "ema.decay": 0.5 ** (64 / 20_000),
    "discriminator.group_size": 8, "gan.terms": ("r1(gamma=1.0, every_steps=16)", STYLEGAN2["gan.terms"][1]),
    **adam(2.5e-3, b2=0.99),
}  # fmt: skip
CIFAR10_ADA = STYLEGAN2 | {
    "data.batch_size": 64, "train.num_steps": 1_562_500, "ema.decay": "half_life(steps=7812.5, ramp=0.05)",
    "gan.augment": "ada(transforms='bgc', target=0.6)", "gan.terms": ("r1(gamma=0.01, every_steps=16)",),
    "generator.style_mixing": 0.0, "discriminator.group_size": 32, "discriminator.architecture": "orig",
    **adam(2.5e-3, b2=0.99),
}  # fmt: skip
STYLEGAN3 = {
    "data.batch_size": 32, "data.flip": True, "train.num_steps": 781_250, "ema.decay": 0.5 ** (32 / 10_000),
    "gan.loss": "non_saturating", "gan.augment": (), "gan.terms": ("r1(gamma=2.0, every_steps=16)",),
    "generator.magnitude_decay": 0.5 ** (32 / 20_000), "generator.w_avg_decay": 0.998, "generator.clamp": 256.0,
    "generator.num_critical": 2, "generator.margin": 10, "generator.radial_filters": False,
    "discriminator.clamp": 256.0, "discriminator.group_size": 4, **adam(2.5e-3, 2e-3, b2=0.99),
}  # fmt: skip
PROGAN = {
    "data.batch_size": 512, "data.flip": True, "gan.loss": "wasserstein", "gan.n_critic": 1, "gan.latent_dim": 512,
    "gan.terms": ("gradient_penalty(weight=10.0)", "drift(weight=0.001)"), "ema.decay": 0.999, "ema.warmup": False,
    "growth.steady_images": 600_000, "growth.fading_images": 600_000, "growth.batch_sizes": (512, 256, 128, 64, 32),
    "discriminator.group_size": 4, **adam(1e-3, b2=0.99),
}  # fmt: skip
R3GAN = {
    "data.batch_size": 512, "data.flip": True, "gan.loss": "relativistic_pairing", "gan.n_critic": 1,
    "gan.latent_dim": 64, "gan.class_conditional": True, "optimizer.generator.b1": 0.0,
    "optimizer.discriminator.b1": 0.0, "ema.warmup": False, "generator.float32_stages": 1,
    "discriminator.float32_stages": 1,
}  # fmt: skip

PRESETS = {
    "gan:mnist": {"data.batch_size": 100, "gan.loss": "non_saturating", "discriminator.dropout": 0.5},
    "dcgan:celeba": DCGAN,
    "dcgan:lsun": DCGAN,
    "lsgan:lsun": DCGAN | {
        "gan.loss": "least_squares(real_target=1.0, fake_target=0.0, generator_target=1.0)", "data.batch_size": 64,
        **adam(1e-3, b1=0.5, b2=0.999),
    },
    "wgan:lsun": DCGAN | {
        "gan.loss": "wasserstein", "gan.n_critic": 5, "data.batch_size": 64,
        **adam(5e-5, b1=0.9, b2=0.99), "optimizer.generator.name": "rmsprop",
        "optimizer.discriminator.name": "rmsprop", "optimizer.discriminator.weight_limit": 0.01,
        "optimizer.generator.weight_limit": None,
    },
    "wgan_gp:cifar10": SNGAN | {
        "gan.loss": "wasserstein", "gan.terms": ("gradient_penalty(weight=10.0)",),
        "discriminator.spectral_norm": False, "discriminator.pooling": "mean",
    },
    "sngan:cifar10": SNGAN,
    "sngan:stl10": SNGAN | {"discriminator.num_downsampling": 4},
    "sngan:celeba64": SNGAN | {"discriminator.num_downsampling": 5},
    "sngan:celeba128": SNGAN | {"gan.n_critic": 2, "discriminator.num_downsampling": 5, **adam(2e-4, b2=0.9)},
    "cgan_pd:cifar10": SNGAN | {"gan.class_conditional": True, "discriminator.conditioning": "projection"},
    "biggan:imagenet128": BIGGAN,
    "biggan:imagenet256": BIGGAN | {"discriminator.num_downsampling": 6},
    "biggan:imagenet128_deep": BIGGAN | {"generator.depth": 2, "discriminator.depth": 2},
    "biggan:cifar10": BIGGAN | {
        "data.batch_size": 50, "gan.n_critic": 4, "train.num_steps": 125_000,
        "ema.decay": "piecewise(boundaries=(1000,), values=(0.0, 0.9999))", "generator.attention": (),
        "discriminator.attention": (), "discriminator.num_downsampling": 2, "generator.kernel_init": "normal",
        "discriminator.kernel_init": "normal", "train.compute_dtype": "float32", **adam(2e-4, b2=0.999),
    },
    "sagan:imagenet128": BIGGAN | {
        "data.batch_size": 256, "ema.decay": "piecewise(boundaries=(2000,), values=(0.0, 0.9999))",
        "generator.kernel_init": "glorot", "discriminator.kernel_init": "glorot", "train.num_steps": 1_000_000,
    },
    "stylegan2:ffhq1024": STYLEGAN2,
    "stylegan2:ffhq256": STYLEGAN2,
    "stylegan2:paper256": PAPER256,
    "stylegan2:auto256": PAPER256 | {
        "ema.decay": "half_life(steps=312.5, ramp=0.05)", "discriminator.group_size": 4,
        "generator.num_mapping_layers": 2, "discriminator.num_mapping_layers": 2, "generator.channel_base": 16384,
        "gan.augment": "ada(transforms='bgc', target=0.6)",
        "gan.terms": (f"r1(gamma={0.0002 * 256**2 / 64}, every_steps=16)", STYLEGAN2["gan.terms"][1]),
    },
    "stylegan2:cifar10": CIFAR10_ADA,
    "stylegan2:cifar10_cond": CIFAR10_ADA | {"gan.class_conditional": True},
    "stylegan3:t128": STYLEGAN3 | {"gan.terms": ("r1(gamma=0.5, every_steps=16)",)},
    "stylegan3:t256": STYLEGAN3,
    "stylegan3:t512": STYLEGAN3 | {"gan.terms": ("r1(gamma=8.0, every_steps=16)",)},
    "stylegan3:r1024": STYLEGAN3 | {
        "gan.terms": ("r1(gamma=32.0, every_steps=16)",), "generator.radial_filters": True,
        "gan.augment": (f"blur(sigma='linear(start=10.0, end=0.0, steps={200_000 // 32})')",),
    },
    "progan:celebahq": PROGAN,
    "progan:cifar10": PROGAN | {"growth.batch_sizes": (512, 256, 128, 64)},
    "r3gan:cifar10": R3GAN,
    "r3gan:ffhq64": R3GAN | {"data.batch_size": 256, "gan.class_conditional": False},
    "r3gan:ffhq256": R3GAN | {
        "data.batch_size": 256, "gan.class_conditional": False, "generator.float32_stages": 3,
        "discriminator.float32_stages": 3,
    },
    "r3gan:imagenet32": R3GAN | {"data.batch_size": 4096},
    "r3gan:imagenet64": R3GAN | {"data.batch_size": 4096},
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_the_published_ones(name):
    config, expected = config_of(name), PRESETS[name]
    assert {path: setting(config, path) for path in expected} == expected


SCHEDULES = {
    # Images until the last values, the first and last gamma, images of the average's last half-life, last probability.
    "cifar10": (20e6, (0.05, 0.005), 5e6, 0.55),
    "ffhq64": (20e6, (2.0, 0.2), 0.5e6, 0.3),
    "ffhq256": (20e6, (150.0, 15.0), 0.5e6, 0.3),
    "imagenet32": (200e6, (0.5, 0.05), 50e6, 0.5),
    "imagenet64": (200e6, (1.0, 0.1), 50e6, 0.4),
}


@pytest.mark.parametrize("variant", SCHEDULES)
def test_schedules_of_r3gan_are_the_official_cosines(variant):
    """At the start, halfway, where they end, and after that."""
    images, gamma, half_life, probability = SCHEDULES[variant]
    config = r3gan.get_config(variant)
    batch_size = config.data.batch_size
    r1, r2 = (
        re.fullmatch(rf"{name}\(gamma='(.*)'\)", text)
        for name, text in zip(("r1", "r2"), config.gan.terms, strict=True)
    )
    (pipe,) = config.gan.augment
    probabilities = re.fullmatch(
        r"pipe\(p='(.*)', transforms={'blit': 1.0, 'geom': 1.0, 'color': 0.5, 'cutout': 1.0}\)", pipe
    )
    players = config.optimizer.values()
    curves = [(r1[1], *gamma), (r2[1], *gamma), (probabilities[1], 0.0, probability)]
    curves += [(player.learning_rate, 2e-4, 5e-5) for player in players]
    curves += [(player.b2, 0.9, 0.99) for player in players]
    steps = [round(share * images / batch_size) for share in (0.0, 0.5, 1.0, 1.5)]
    for text, start, end in curves:
        curve = Curve.of(text, where="here")
        values = [curve(step) for step in steps]
        np.testing.assert_allclose(values, [start, (start + end) / 2, end, end], rtol=1e-3, err_msg=text)
    decay = Curve.of(config.ema.decay, where="here")
    expected = [0.5 ** (batch_size / half_life / share) for share in (0.5, 1.0, 1.0)]
    np.testing.assert_allclose([decay(step) for step in steps[1:]], expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "side"), [("progan:celebahq", 1024), ("progan:cifar10", 32)])
def test_progressive_growing_sees_twelve_million_images(name, side):
    config = config_of(name)
    model = build_model(config, data_spec((side, side, 3), 10))
    sizes = [model.phase(step).batch_size for step in range(0, config.train.num_steps, 100)]
    np.testing.assert_allclose(100 * sum(sizes), 12e6, rtol=0.002)
