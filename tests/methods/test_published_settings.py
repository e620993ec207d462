"""Configs of likelihood and diffusion models have the settings of the papers, and official code, they are named after.

Sizes of networks are in the numbers of their parameters, which other tests count.
"""

import numpy as np
import pytest
from named_configs import config_of, setting

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

LATENTS = {
    "data.batch_size": 256, "train.num_steps": 7_000_000, "optimizer.name": "adam", "optimizer.learning_rate": 1e-4,
    "optimizer.schedule": "constant", "optimizer.warmup_steps": 0, "optimizer.b2": 0.999,
    "optimizer.weight_decay": 0.0, "ema.decay": 0.9999, "diffusion.class_conditional": True,
    "diffusion.label_dropout": 0.1, "sampler.clip": False,
}  # fmt: skip
EDM = {
    "optimizer.name": "adam", "optimizer.b1": 0.9, "optimizer.b2": 0.999, "optimizer.eps": 1e-8,
    "optimizer.schedule": "constant", "data.flip": False, "diffusion.path": "normalized",
    "diffusion.parameterization": "edm", "diffusion.noise_label": "log_sigma", "diffusion.times": "log_normal",
    "sampler.name": "heun", "sampler.levels": "karras",
}  # fmt: skip
EDM2 = {
    "data.batch_size": 2_048, "optimizer.name": "adam", "optimizer.b1": 0.9, "optimizer.b2": 0.99,
    "optimizer.schedule": "inverse_sqrt", "optimizer.decay_steps": 70_000, "optimizer.warmup_steps": 4_883,
    "ema.kind": "power", "ema.sigma_rel": (0.05, 0.10), "diffusion.times": "log_normal(mean=-0.4, std=1.0)",
    "diffusion.label_dropout": 0.0, "diffusion.class_conditional": True, "sampler.num_steps": 32, "sampler.clip": False,
}  # fmt: skip
ADM = {
    "data.batch_size": 256, "data.flip": True, "optimizer.learning_rate": 1e-4, "ema.decay": 0.9999,
    "diffusion.schedule": "linear", "diffusion.class_conditional": True, "diffusion.label_dropout": 0.0,
    "diffusion.learned_variance": True, "model.dropout": 0.0, "model.resblock_updown": True,
    "model.use_scale_shift_norm": True, "model.use_new_attention_order": False, "model.head_channels": 64,
    "sampler.name": "ancestral_learned", "sampler.num_steps": 250,
}  # fmt: skip
IDDPM = {
    "data.batch_size": 128, "data.flip": False, "optimizer.name": "adam", "optimizer.learning_rate": 1e-4,
    "optimizer.weight_decay": 0.0, "optimizer.warmup_steps": 0, "ema.decay": 0.9999,
    "diffusion.schedule": "cosine(num_timesteps=4000)", "diffusion.learned_variance": True,
    "diffusion.class_conditional": False, "diffusion.label_dropout": 0.1, "model.num_heads": 4,
    "model.head_channels": 0, "model.use_scale_shift_norm": True, "model.resblock_updown": False,
}  # fmt: skip
JIT = {
    "data.batch_size": 1_024, "train.num_steps": 750_000, "optimizer.learning_rate": 1_024 / 256 * 5e-5,
    "optimizer.schedule": "constant", "optimizer.warmup_steps": 6_250, "optimizer.b2": 0.95,
    "optimizer.weight_decay": 0.0, "ema.decay": 0.9999, "diffusion.parameterization": "x0",
    "diffusion.weighting": "velocity", "diffusion.times": "logit_normal(mean=0.8, std=0.8)",
    "diffusion.label_dropout": 0.1, "sampler.name": "heun(path='flow')", "sampler.num_steps": 50, "model.dropout": 0.0,
}  # fmt: skip
DDPMPP = {
    "model.base_channels": 128, "model.channel_multipliers": (2, 2, 2), "model.num_res_blocks": 4,
    "model.attention_resolutions": (16,), "model.embedding": "positional", "model.encoder": "standard",
}  # fmt: skip
NCSNPP = DDPMPP | {
    "model.embedding": "fourier", "model.encoder": "residual", "model.noise_channel_multiplier": 2,
    "model.resample_filter": (1, 3, 3, 1),
}  # fmt: skip
AUTOENCODER = {
    "learning_rate": 96 * 4.5e-6, "name": "adam", "b1": 0.5, "b2": 0.9, "weight_decay": 0.0, "schedule": "constant",
}  # fmt: skip
DIFFUSION = {
    # Ho et al. 2020, appendix B, and the scripts of the official code.
    "ddpm:cifar10": {
        "data.batch_size": 128, "data.flip": True, "train.num_steps": 800_000, "optimizer.name": "adam",
        "optimizer.learning_rate": 2e-4, "optimizer.b1": 0.9, "optimizer.b2": 0.999, "optimizer.eps": 1e-8,
        "optimizer.schedule": "constant", "optimizer.warmup_steps": 5_000, "optimizer.clip_norm": 1.0,
        "ema.decay": 0.9999, "model.dropout": 0.1, "diffusion.path": "variance_preserving",
        "diffusion.parameterization": "eps", "diffusion.schedule": "linear", "diffusion.times": "uniform",
        "diffusion.weighting": "uniform", "diffusion.class_conditional": False, "diffusion.learned_variance": False,
        "sampler.name": "ancestral(variance='large')", "sampler.num_steps": 1_000, "sampler.clip": True,
    },
    "ddpm:celebahq256": {
        "data.batch_size": 64, "data.flip": True, "train.num_steps": 500_000, "optimizer.learning_rate": 2e-5,
        "optimizer.warmup_steps": 5_000, "optimizer.clip_norm": 1.0, "ema.decay": 0.9999, "model.dropout": 0.0,
    },
    "ddpm:lsun256": {
        "data.name": "lsun/bedroom", "data.image_size": 256, "data.batch_size": 64, "train.num_steps": 2_400_000,
        "optimizer.learning_rate": 2e-5, "model.dropout": 0.0,
    },
    # Nichol and Dhariwal 2021, flags of the official README; its loader mirrors nothing.
    "iddpm:cifar10": IDDPM | {"train.num_steps": 500_000, "model.dropout": 0.3},
    "iddpm:imagenet64": IDDPM | {"train.num_steps": 1_500_000, "model.dropout": 0.0},
    "iddpm:imagenet64_cond": IDDPM | {
        "train.num_steps": 250_000, "data.batch_size": 2_048, "optimizer.learning_rate": 3e-4, "model.dropout": 0.0,
        "diffusion.class_conditional": True, "diffusion.label_dropout": 0.0,
    },
    # Dhariwal and Nichol 2021, table 11, and flags of the official README.
    "adm:imagenet64": ADM | {
        "data.batch_size": 2_048, "train.num_steps": 540_000, "optimizer.learning_rate": 3e-4, "model.dropout": 0.1,
        "model.use_new_attention_order": True, "diffusion.schedule": "cosine",
    },
    "adm:imagenet128": ADM | {"train.num_steps": 4_360_000, "model.num_heads": 4, "model.head_channels": 0},
    "adm:imagenet256": ADM | {"train.num_steps": 1_980_000, "data.image_size": 256},
    "adm:imagenet256_uncond": ADM | {"diffusion.class_conditional": False},
    "adm:imagenet512": ADM | {"train.num_steps": 1_940_000, "data.image_size": 512},
    # Karras et al. 2022, table 7: options of the official README, and defaults of its training.
    "edm:cifar10": EDM | {
        "data.batch_size": 512, "train.num_steps": 200_000_000 // 512, "optimizer.learning_rate": 10e-4,
        "optimizer.warmup_steps": 10_000_000 // 512, "ema.decay": 0.5 ** (512 / 500_000), "model.dropout": 0.13,
        "diffusion.augment": "edm", "diffusion.augment_probability": 0.12, "diffusion.class_conditional": True,
        "diffusion.label_dropout": 0.0, "sampler.num_steps": 18,
    },
    "edm:cifar10_uncond": EDM | {"diffusion.class_conditional": False, "diffusion.augment_probability": 0.12},
    "edm:cifar10_uncond_ncsnpp": EDM | NCSNPP | {"model.dropout": 0.13, "diffusion.class_conditional": False},
    "edm:ffhq64": EDM | {
        "data.batch_size": 256, "data.image_size": 64, "train.num_steps": 200_000_000 // 256,
        "optimizer.learning_rate": 2e-4, "optimizer.warmup_steps": 10_000_000 // 256,
        "ema.decay": 0.5 ** (256 / 500_000), "model.dropout": 0.05, "diffusion.augment_probability": 0.15,
        "diffusion.class_conditional": False, "sampler.num_steps": 40,
    },
    "edm:ffhq64_ncsnpp": EDM | {"optimizer.warmup_steps": 10_000_000 // 256, "model.dropout": 0.05},
    "edm:imagenet64": EDM | {
        "data.batch_size": 4_096, "train.num_steps": 610_352, "optimizer.learning_rate": 1e-4,
        "optimizer.warmup_steps": 10_000_000 // 4_096, "ema.decay": 0.5 ** (4_096 / 50_000_000), "model.dropout": 0.1,
        "diffusion.augment_probability": 0.0, "diffusion.class_conditional": True, "diffusion.label_dropout": 0.0,
        "sampler.name": "heun(churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)", "sampler.num_steps": 256,
    },
    # Karras et al. 2024, presets of the official code.
    **{
        f"edm2:{size}": EDM2 | {
            "model.base_channels": width, "optimizer.learning_rate": rate, "model.dropout": dropout,
            "train.num_steps": images * 2**20 // 2_048,
        }
        for size, width, rate, dropout, images in (
            ("xs", 128, 0.0120, 0.0, 2_048), ("s", 192, 0.0100, 0.0, 2_048), ("m", 256, 0.0090, 0.1, 2_048),
            ("l", 320, 0.0080, 0.1, 1_792), ("xl", 384, 0.0070, 0.1, 1_280), ("xxl", 448, 0.0065, 0.1, 896),
        )
    },
    # Peebles and Xie 2023, the official training; Ma et al. 2024, which is trained likewise.
    "dit:xl2": LATENTS | {
        "diffusion.learned_variance": True, "diffusion.schedule": "linear", "sampler.name": "ancestral_learned",
        "sampler.num_steps": 250,
    },
    "sit:xl2": LATENTS | {
        "diffusion.path": "linear", "diffusion.parameterization": "velocity", "diffusion.times": "uniform",
        "sampler.name": "heun(path='flow')", "sampler.num_steps": 125,
    },
    "latent:imagenet256": LATENTS | {"diffusion.path": "linear", "sampler.guidance_scale": 1.5},
    # Li and He 2025, the official training, in which t is that of the image: mean and sign of ours are the other way.
    "sit:jit_b16": JIT,
    "sit:jit_l16": JIT,
    "sit:jit_h16": JIT | {"model.dropout": 0.2},
    # Song and Dhariwal 2024, with the network of the official configs of Song et al. 2023; Geng et al. 2025, script
    # cifar10_v0 of the official code.
    "consistency:cifar10": {
        "data.batch_size": 1_024, "train.num_steps": 400_000, "optimizer.name": "radam",
        "optimizer.learning_rate": 1e-4, "ema.decay": 0.99993, "model.dropout": 0.3,
        "consistency.sigma_min": 0.002, "consistency.sigma_max": 80.0, "consistency.sigma_data": 0.5,
        "consistency.curriculum": "ict(start=10, end=1280, mean=-1.1, std=2.0)",
        "consistency.weighting": "inverse_step", "consistency.huber": 0.00054, "sampler.sigmas": (0.821,),
        "consistency.noise_label": "log_sigma", "data.flip": True, **NCSNPP, "model.frequency_std": 0.02,
    },
    "meanflow:cifar10": {
        "data.batch_size": 1_024, "train.num_steps": 800_000, "optimizer.name": "adam", "optimizer.learning_rate": 6e-4,
        "optimizer.b1": 0.9, "optimizer.b2": 0.999, "optimizer.weight_decay": 0.0, "optimizer.warmup_steps": 10_000,
        "ema.decay": 0.99995, "model.dropout": 0.2, "meanflow.times": "logit_normal(mean=-2.0, std=2.0)",
        "meanflow.interval_share": 0.75, "meanflow.adaptive_power": 0.75, "meanflow.class_conditional": False,
        "meanflow.adaptive_floor": 1e-3, "meanflow.time_scale": 1.0, "sampler.num_steps": 1, "data.flip": True,
        **DDPMPP, "model.noise_channel_multiplier": 2, "model.resample_filter": (1, 3, 3, 1),
    },
    # Rombach et al. 2022, configs of the official code, whose rate is that of each image of a batch.
    "autoencoder_kl:kl_f8": {
        "data.batch_size": 96, "autoencoder.kl_weight": 1e-6, "autoencoder.likelihood": "laplace",
        "autoencoder.scale": 1.0, "gan.weight": 0.0,
        **{f"optimizer.{name}": value for name, value in AUTOENCODER.items()},
    },
    "autoencoder_kl:kl_f8_gan": {
        "data.batch_size": 96, "autoencoder.kl_weight": 1e-6, "gan.start_steps": 50_001, "discriminator.width": 64,
        "discriminator.num_halvings": 3,
        **{f"optimizer.generator.{name}": value for name, value in AUTOENCODER.items()},
        **{f"optimizer.discriminator.{name}": value for name, value in AUTOENCODER.items()},
    },
}  # fmt: skip
PUBLISHED |= DIFFUSION


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name):
    config = config_of(name)
    for path, published in PUBLISHED[name].items():
        assert setting(config, path) == (pytest.approx(published) if isinstance(published, float) else published), path


def test_the_rate_of_pixelcnnpp_falls_by_five_millionths_a_step():
    rate = Curve.of(pixelcnnpp.get_config("cifar10").optimizer.learning_rate, where="optimizer.learning_rate")
    for step in (0, 1_000, 400_000):
        np.testing.assert_allclose(rate(step), 1e-3 * 0.999995**step, rtol=1e-5)
