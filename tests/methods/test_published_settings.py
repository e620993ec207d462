"""Configs of likelihood models have the training and sampling of the papers, and official code, they are named after.

Sizes of networks are in the numbers of their parameters, which other tests count.
"""

import importlib

import numpy as np
import pytest

from configs import pixelcnnpp
from jaxgen.core.schedules import Curve

VDVAE = {"b1": 0.9, "b2": 0.9, "weight_decay": 0.01, "warmup_steps": 100, "weight_decay_multipliers": ((".*", 1.0),)}
PUBLISHED = {
    # Child 2021, hps.py of the official code: sizes of batches are those of all its devices.
    "vdvae:cifar10": {
        "data.batch_size": 32, "optimizer.learning_rate": 2e-4, "optimizer.clip_norm": 200.0,
        "optimizer.skip_norm": 400.0, "ema.decay": 0.9999, "vdvae.mixtures": 10, "sampler.temperature": 1.0,
        "vdvae.mean": 120.63838 / 127.5 - 1.0, "vdvae.deviation": 64.16736 / 127.5, "vdvae.levels": None,
        **{f"optimizer.{name}": value for name, value in VDVAE.items()},
    },
    "vdvae:imagenet32": {
        "data.batch_size": 256, "optimizer.learning_rate": 1.5e-4, "optimizer.clip_norm": 200.0,
        "optimizer.skip_norm": 300.0, "ema.decay": 0.999, "vdvae.mean": 116.2373 / 127.5 - 1.0,
        "vdvae.deviation": 69.37404 / 127.5,
    },
    "vdvae:imagenet64": {
        "data.batch_size": 128, "optimizer.learning_rate": 1.5e-4, "optimizer.clip_norm": 220.0,
        "optimizer.skip_norm": 380.0, "ema.decay": 0.999,
    },
    "vdvae:ffhq256": {
        "data.batch_size": 32, "data.image_size": 256, "optimizer.learning_rate": 1.5e-4,
        "optimizer.clip_norm": 130.0, "optimizer.skip_norm": 180.0, "vdvae.levels": 32,
    },
    # Van den Oord et al. 2017, section 4.1 and appendix A.1; Mentzer et al. 2024, table 1.
    "vqvae:cifar10": {
        "data.batch_size": 128, "train.num_steps": 250_000, "optimizer.learning_rate": 2e-4,
        "quantizer.num_codes": 512, "quantizer.decay": 0.99, "quantizer.revive_below": 0.0,
        "tokenizer.error": "squared", "tokenizer.commitment_weight": 0.25, "tokenizer.codebook_weight": 0.0,
        "gan.weight": 0.0, "model.num_halvings": 2,
    },
    "vqvae:imagenet128": {"data.image_size": 128, "quantizer.num_codes": 512, "model.num_halvings": 2},
    "fsq:cifar10": {"quantizer.levels": (8, 5, 5, 5), "tokenizer.commitment_weight": 0.0},
    "fsq:imagenet256": {"quantizer.levels": (8, 5, 5, 5), "ema.include": "params/generator/.*"},
    # Sun et al. 2024, the options of the official trainer; Esser et al. 2021, configs of the official code.
    "vqgan:vq16": {
        "data.batch_size": 128, "train.num_steps": 400_000, "optimizer.generator.learning_rate": 1e-4,
        "optimizer.generator.b1": 0.9, "optimizer.generator.b2": 0.95, "optimizer.discriminator.learning_rate": 1e-4,
        "optimizer.discriminator.b2": 0.95, "quantizer.num_codes": 16_384, "quantizer.code_dim": 8,
        "quantizer.unit_norm": True, "quantizer.decay": None, "tokenizer.codebook_weight": 1.0,
        "tokenizer.commitment_weight": 0.25, "tokenizer.entropy_weight": 0.0, "gan.weight": 0.5,
        "gan.feature_weight": 1.0, "gan.start_steps": 20_000, "gan.adaptive": False,
    },
    "vqgan:taming": {
        "data.batch_size": 12, "optimizer.generator.learning_rate": 12 * 4.5e-6, "optimizer.generator.b1": 0.5,
        "optimizer.discriminator.learning_rate": 12 * 4.5e-6, "optimizer.discriminator.b2": 0.9,
        "quantizer.num_codes": 1_024, "quantizer.code_dim": 256, "quantizer.unit_norm": False,
        "tokenizer.error": "absolute", "gan.weight": 0.8, "gan.start_steps": 250_001, "gan.adaptive": True,
    },
    # Kingma and Dhariwal 2018; Dinh et al. 2017, section 4.1; Durkan et al. 2019, appendix B.
    "glow:cifar10": {
        "data.batch_size": 512, "optimizer.learning_rate": 1e-3, "model.lu": False, "model.plain": False,
        "flow.dequantization": "uniform", "flow.logit_alpha": 0.0,
    },
    "realnvp:cifar10": {
        "data.batch_size": 64, "optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 5e-5,
        "flow.logit_alpha": 0.05, "model.levels": 2, "model.width": 64, "model.blocks": 8, "model.couplings": 3,
    },
    "realnvp:imagenet32": {"model.width": 32, "model.blocks": 4, "flow.logit_alpha": 0.05, "data.flip": False},
    "realnvp:imagenet64": {"model.levels": 5, "model.width": 32, "model.blocks": 2},
    "spline_flow:cifar10": {
        "data.batch_size": 512, "train.num_steps": 100_000, "optimizer.learning_rate": 5e-4,
        "optimizer.schedule": "cosine", "model.levels": 3, "model.steps": 7, "model.width": 96, "model.blocks": 3,
        "model.bins": 4, "model.bound": 3.0, "model.dropout": 0.2,
    },
    "spline_flow:imagenet64": {
        "data.batch_size": 256, "train.num_steps": 200_000, "model.levels": 4, "model.bins": 8, "model.dropout": 0.0,
    },
    # Zhai et al. 2024, commands of the official code; Kolesnikov et al. 2024.
    "tarflow:imagenet64": {
        "data.batch_size": 256, "train.num_steps": 1_000_000, "optimizer.learning_rate": 1e-4,
        "optimizer.b2": 0.95, "optimizer.weight_decay": 1e-4, "flow.dequantization": "gaussian",
        "flow.noise_std": 0.05, "ema.decay": 0.0, "sampler.denoise": True,
    },
    "tarflow:imagenet64_likelihood": {"flow.dequantization": "uniform", "train.compute_dtype": "float32"},
    "tarflow:imagenet64_cond": {"flow.label_dropout": 0.1, "sampler.guidance_scale": 3.3, "data.image_size": 64},
    "jet:imagenet64": {
        "data.batch_size": 1_024, "optimizer.learning_rate": 3e-4, "optimizer.weight_decay": 1e-5,
        "optimizer.clip_norm": 1.0, "model.couplings": 64, "model.depth": 5, "model.width": 512,
        "model.channel_couplings": 4, "model.patch_size": 4,
    },
    # Salimans et al. 2017, official code; Sun et al. 2024; Chang et al. 2022; Li et al. 2024, commands of the README.
    "pixelcnnpp:cifar10": {
        "data.batch_size": 128, "optimizer.b1": 0.95, "optimizer.b2": 0.9995, "ema.decay": 0.9995,
        "autoregressive.distribution": "logistic_mixture(mixtures=10)", "model.dropout": 0.5,
    },
    "pixel_transformer:llamagen_b": {
        "data.batch_size": 256, "train.num_steps": 1_500_000, "optimizer.learning_rate": 1e-4, "optimizer.b2": 0.95,
        "optimizer.weight_decay": 0.05, "optimizer.clip_norm": 1.0, "model.dropout": 0.1,
        "autoregressive.label_dropout": 0.1, "autoregressive.class_conditional": True,
    },
    "maskgit:imagenet256": {
        "data.batch_size": 256, "train.num_steps": 1_500_000, "optimizer.learning_rate": 1e-4, "optimizer.b2": 0.96,
        "optimizer.weight_decay": 0.045, "optimizer.warmup_steps": 5_000, "masked.schedule": "cosine",
        "masked.label_smoothing": 0.1, "masked.label_dropout": 0.1, "model.dropout": 0.1, "sampler.num_steps": 8,
        "sampler.schedule": "cosine", "sampler.order": "confidence", "sampler.choice_temperature": 4.5,
    },
    "mar:imagenet256_b": {
        "data.batch_size": 2_048, "train.num_steps": 500_000, "optimizer.learning_rate": 8e-4,
        "optimizer.b2": 0.95, "optimizer.weight_decay": 0.02, "optimizer.warmup_steps": 62_500,
        "optimizer.clip_norm": 3.0, "ema.decay": 0.9999, "masked.mask_ratio_mean": 1.0, "masked.mask_ratio_std": 0.25,
        "masked.mask_ratio_min": 0.7, "masked.label_dropout": 0.1, "diffusion.repeats": 4,
        "diffusion.schedule": "cosine", "diffusion.learned_variance": True, "sampler.num_iterations": 256,
        "sampler.num_steps": 100, "sampler.guidance_scale": 2.9, "sampler.guidance_schedule": "linear",
        "sampler.clip": False, "model.attention_dropout": 0.1, "model.dropout": 0.1,
    },
    "mar:imagenet256_l": {"sampler.guidance_scale": 3.0},
    "mar:imagenet256_h": {"sampler.guidance_scale": 3.2},
    # Du and Mordatch 2019, official code: a step of 10, noise of 0.005 and gradients of at most 0.01 in [0, 1].
    "ebm:cifar10": {
        "data.batch_size": 128, "optimizer.learning_rate": 3e-4, "optimizer.b1": 0.0, "ema.decay": 0.0,
        "energy.objective": "contrastive", "energy.alpha": 1.0, "energy.data_noise": 0.0,
        "energy.num_chains": 10_000, "energy.restart_probability": 0.05, "energy.num_steps": 60,
        "langevin.step_size": 10.0 * 2**2, "langevin.temperature": (2 * 0.005) ** 2 / (2 * 10.0 * 2**2),
        "langevin.max_gradient": 0.01 / 2, "langevin.clip": True, "model.spectral_norm": True,
    },
    "ebm:cifar10_cond": {"energy.class_conditional": True, "energy.num_chains": 10_000},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name):
    file, variant = name.split(":")
    config = importlib.import_module(f"configs.{file}").get_config(variant)
    for path, published in PUBLISHED[name].items():
        value = config
        for part in path.split("."):
            value = value[part]
        assert value == (pytest.approx(published) if isinstance(published, float) else published), path


def test_the_rate_of_pixelcnnpp_falls_by_five_millionths_a_step():
    rate = Curve.of(pixelcnnpp.get_config("cifar10").optimizer.learning_rate, where="optimizer.learning_rate")
    for step in (0, 1_000, 400_000):
        np.testing.assert_allclose(rate(step), 1e-3 * 0.999995**step, rtol=1e-5)
