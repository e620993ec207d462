"""Flow matching on the linear path (Lipman et al. 2023; Liu et al. 2023; Esser et al. 2024), with a U-Net."""

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (class-conditional, minutes on a CPU), tiny, shapes, cifar10."""
    return common.choose({"digits": digits, "tiny": tiny, "shapes": shapes, "cifar10": cifar10}, variant)


def cifar10() -> ConfigDict:
    """The DDPM U-Net, trained to predict the velocity."""
    config = common.diffusion(common.base())
    config.data.name = "cifar10"
    config.data.flip = True
    config.train.num_steps = 400_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.optimizer.warmup_steps = 5_000
    config.optimizer.clip_norm = 1.0
    config.model = networks.unet()
    config.diffusion.path = "linear"
    config.diffusion.parameterization = "velocity"
    config.diffusion.schedule = "flow"
    config.diffusion.noise_label = "flow_time"
    config.diffusion.times = "logit_normal"
    config.sampler.name = "heun(path='flow')"
    config.sampler.levels = "uniform_time"
    config.sampler.num_steps = 50
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes."""
    config = common.shapes(cifar10())
    config.optimizer.warmup_steps = 1_000
    config.model = networks.shapes_unet()
    return config


def digits() -> ConfigDict:
    """Class-conditional on the 8x8 digits: three minutes on two CPU cores, sampled with at most 20 evaluations."""
    config = common.digits(cifar10())
    config.model = networks.digits_unet()
    config.sampler.num_steps = 10
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model = networks.tiny_unet()
    config.sampler.num_steps = 2
    config.diffusion.stratified = True
    config.diffusion.importance_buckets = 4
    return config
