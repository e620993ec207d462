"""Consistency models (Song et al. 2023), trained from scratch with what Song and Dhariwal 2024 improved."""

from ml_collections import ConfigDict, config_dict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (class-conditional, minutes on a CPU), distilled, distilled_dit, tiny, shapes, cifar10."""
    variants = {
        "digits": digits,
        "distilled": distilled,
        "distilled_dit": distilled_dit,
        "tiny": tiny,
        "shapes": shapes,
        "cifar10": cifar10,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """Unconditional, iCT's settings (Song and Dhariwal 2024): batch 1,024, 400k steps; two evaluations.

    The network is EDM's NCSN++, as in Song et al. 2023, with 56,395,523 parameters and low frequencies of the noise
    level.
    """
    config = common.base()
    config.method = "denoising.consistency"
    config.data.name = "cifar10"
    config.data.flip = True
    config.data.batch_size = 1_024
    config.train.num_steps = 400_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.optimizer.name = "radam"
    config.optimizer.learning_rate = 1e-4
    config.ema.decay = 0.99993

    config.model = networks.song_unet()
    config.model.update(networks.ncsnpp())
    config.model.frequency_std = 0.02
    config.model.dropout = 0.3

    config.consistency = ConfigDict()
    config.consistency.sigma_min = 0.002
    config.consistency.sigma_max = 80.0
    config.consistency.sigma_data = 0.5
    config.consistency.curriculum = "ict(start=10, end=1280, mean=-1.1, std=2.0)"  # or "ct(...)", "ect(...)"
    config.consistency.weighting = "inverse_step"  # or "edm", "uniform"
    config.consistency.huber = 0.00054
    config.consistency.noise_label = "log_sigma"
    config.consistency.class_conditional = False
    config.consistency.label_dropout = 0.0
    config.frozen.teacher = config_dict.placeholder(str)  # work directory of a diffusion run, to distil it
    config.consistency.start_from_teacher = True
    config.consistency.teacher_guidance = 1.0

    config.sampler = ConfigDict()
    config.sampler.sigmas = (0.821,)  # () for one step
    config.sampler.clip = True
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes, which need no download."""
    config = common.shapes_training(cifar10())
    config.data.batch_size = 128
    config.optimizer.name = "adam"
    config.optimizer.warmup_steps = 1_000
    config.model = networks.shapes_unet()
    config.model.dropout = 0.0
    config.consistency.curriculum = "ect(stages=8)"
    config.consistency.noise_label = "log_sigma(scale=10.0)"
    config.consistency.class_conditional = True
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: three minutes on two CPU cores, samples in a few steps."""
    config = common.digits_training(shapes())
    config.train.num_steps = 3_200  # each as long as one and a half of DDPM's
    config.model = networks.digits_unet()
    config.consistency.sigma_max = 40.0
    config.consistency.sigma_data = 0.75
    config.consistency.curriculum = "ect(sigma_max=40.0, stages=5, mean=-0.2, std=1.4)"
    config.consistency.huber = 0.03
    config.consistency.label_dropout = 0.05
    config.sampler.sigmas = (4.0, 1.2, 0.4)
    return config


def distilled() -> ConfigDict:
    """The digits model of `configs/edm.py`, in `runs/edm`, distilled: the student starts with its weights."""
    config = digits()
    config.train.num_steps = 1_500
    config.optimizer.learning_rate = 1e-3
    config.consistency.noise_label = "log_sigma"
    config.frozen.teacher = "runs/edm"
    return config


def distilled_dit() -> ConfigDict:
    """DiT-B/2 on ImageNet-256 latents, in `runs/dit-b2`, distilled; settings to begin with, never trained."""
    config = common.transformer_on_latents(cifar10(), "b", 2)
    config.data.flip = False
    config.train.num_steps = 100_000
    config.consistency.sigma_data = 1.0
    config.consistency.curriculum = "ict(start=10, end=1280, mean=-1.1, std=2.0)"
    config.consistency.class_conditional = True
    config.consistency.label_dropout = 0.1
    config.frozen.teacher = "runs/dit-b2"
    config.consistency.start_from_teacher = False  # whose network predicts a variance, too
    config.consistency.teacher_guidance = 1.5
    config.sampler.sigmas = (1.0,)
    config.sampler.clip = False
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model = networks.tiny_unet()
    return config
