"""EDM (Karras et al. 2022): preconditioning, log-normal noise levels, augmentation with labels, Heun's method."""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from configs import common, ddpm, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, fashion, shapes, cifar10[_uncond][_ncsnpp], ffhq64[_ncsnpp], imagenet64, vp, ve."""
    variants: dict[str, Callable[[], ConfigDict]] = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "cifar10": cifar10,
        "cifar10_uncond": cifar10_uncond,
        "cifar10_ncsnpp": functools.partial(with_ncsnpp, cifar10),
        "cifar10_uncond_ncsnpp": functools.partial(with_ncsnpp, cifar10_uncond),
        "ffhq64": ffhq64,
        "ffhq64_ncsnpp": functools.partial(with_ncsnpp, ffhq64),
        "imagenet64": imagenet64,
        "vp": vp,
        "ve": ve,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """Table 7, class-conditional DDPM++: 55,735,299 parameters, batch 512, 200M images; 35 evaluations a sample."""
    config = edm(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 512
    config.train.num_steps = 390_625
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 25_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 19_531  # 10M images
    config.ema.decay = 0.5 ** (512 / 500_000)  # half-life of 0.5M images
    config.model = networks.song_unet()
    config.diffusion.class_conditional = True
    config.diffusion.label_dropout = 0.0
    config.diffusion.augment_probability = 0.12
    return config


def cifar10_uncond() -> ConfigDict:
    """Unconditional: 55,733,891 parameters."""
    config = cifar10()
    config.diffusion.class_conditional = False
    return config


def ffhq64() -> ConfigDict:
    """Table 7, unconditional at 64x64 (data.path is the directory of images): 61,805,571 parameters, batch 256."""
    config = cifar10_uncond()
    config.data.name = "folder"
    config.data.image_size = 64
    config.data.batch_size = 256
    config.train.num_steps = 781_250
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 39_062  # 10M images
    config.ema.decay = 0.5 ** (256 / 500_000)
    config.model.channel_multipliers = (1, 2, 2, 2)
    config.model.dropout = 0.05
    config.diffusion.augment_probability = 0.15
    config.sampler.num_steps = 40
    return config


def with_ncsnpp(variant: Callable[[], ConfigDict]) -> ConfigDict:
    """The same with NCSN++: 56,400,643 (CIFAR-10), 56,397,827 (unconditional), 62,761,091 (64x64) parameters."""
    config = variant()
    config.model.update(networks.ncsnpp())
    return config


def imagenet64() -> ConfigDict:
    """Table 7, class-conditional ADM: 295,899,267 parameters, batch 4,096, 2,500M images; 511 evaluations a sample."""
    config = cifar10()
    config.data.name = "imagenet_resized/64x64"
    config.data.batch_size = 4_096
    config.train.num_steps = 610_352
    config.train.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 2_441
    config.ema.decay = 0.5 ** (4_096 / 50_000_000)
    config.model = ConfigDict()
    config.model.name = "dhariwal_unet.DhariwalUNet"
    config.model.base_channels = 192
    config.model.channel_multipliers = (1, 2, 3, 4)
    config.model.num_res_blocks = 3
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.dropout = 0.1
    config.model.remat = False
    config.diffusion.augment_probability = 0.0
    config.sampler.name = "heun(churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)"
    config.sampler.num_steps = 256
    return config


def vp() -> ConfigDict:
    """Song et al. 2021's variance-preserving SDE, in EDM's notation (table 1), with DDPM++ on CIFAR-10."""
    config = cifar10_uncond()
    config.diffusion.path = "variance_preserving"
    config.diffusion.parameterization = "eps"
    config.diffusion.schedule = "vp"
    config.diffusion.noise_label = "vp_time"
    config.diffusion.times = "uniform"
    config.diffusion.weighting = "snr"
    return config


def ve() -> ConfigDict:
    """Song et al. 2021's variance-exploding SDE, in EDM's notation (table 1), with NCSN++ on CIFAR-10."""
    config = with_ncsnpp(cifar10_uncond)
    config.diffusion.path = "variance_exploding"
    config.diffusion.parameterization = "scaled_score"
    config.diffusion.schedule = "log_linear"
    config.diffusion.noise_label = "log_sigma(scale=1.0, divisor=2.0)"
    config.diffusion.times = "uniform"
    config.diffusion.weighting = "snr"
    return config


def edm(config: ConfigDict) -> ConfigDict:
    """The pieces of the last column of table 1."""
    common.diffusion(config)
    config.diffusion.path = "normalized"
    config.diffusion.parameterization = "edm"
    config.diffusion.schedule = "karras"
    config.diffusion.noise_label = "log_sigma"
    config.diffusion.times = "log_normal"
    config.sampler.name = "heun"
    config.sampler.levels = "karras"
    config.sampler.num_steps = 18
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes."""
    config = common.shapes(edm(common.base()))
    config.optimizer.warmup_steps = 1_000
    config.model = networks.song_unet()
    config.model.base_channels = 64
    config.model.channel_multipliers = (1, 2, 2)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (8,)
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, small enough for a CPU; 35 evaluations a sample."""
    config = ddpm.fashion_training(edm(common.base()))
    config.diffusion.path = "normalized(sigma_data=0.7)"
    config.diffusion.parameterization = "edm(sigma_data=0.7)"
    return config


def digits() -> ConfigDict:
    """Class-conditional on the 8x8 digits: three minutes on two CPU cores, 19 evaluations a sample."""
    config = common.digits(edm(common.base()))
    config.model = networks.digits_unet()
    config.diffusion.path = "normalized(sigma_data=0.75)"
    config.diffusion.parameterization = "edm(sigma_data=0.75)"
    config.diffusion.times = "log_normal(mean=-0.8, std=1.2)"
    config.sampler.num_steps = 10
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model = networks.song_unet()
    config.model.base_channels = 8
    config.model.channel_multipliers = (1,)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (8,)
    config.diffusion.augment_probability = 0.1
    config.diffusion.likelihood = "ode"
    config.diffusion.likelihood_steps = 2
    # From the usual 80 to 0.002 in one step, Heun's method would multiply the rounding of float32 by thousands.
    config.sampler.levels = "karras(sigma_min=0.5, sigma_max=8.0)"
    config.sampler.num_steps = 2
    config.evaluate.num_likelihood = 8
    return config
