"""DDPM (Ho et al. 2020). `digits` is the default run of the project; the others are the paper's settings."""

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (the default, minutes on a CPU), tiny, fashion, shapes, mnist, cifar10, celebahq256, lsun256."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "mnist": mnist,
        "cifar10": cifar10,
        "celebahq256": celebahq256,
        "lsun256": lsun256,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """Appendix B of the paper: 35,746,307 parameters, 800k steps."""
    config = common.diffusion(common.base())
    config.data.name = "cifar10"
    config.data.flip = True
    config.train.num_steps = 800_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.optimizer.warmup_steps = 5_000
    config.optimizer.clip_norm = 1.0
    config.model = networks.unet()
    config.sampler.name = "ancestral(variance='large')"
    return config


def celebahq256() -> ConfigDict:
    """Appendix B, 256x256: 113,673,219 parameters, batch 64, 0.5M steps."""
    config = cifar10()
    config.data.name = "celeb_a_hq/256"
    config.data.batch_size = 64
    config.train.num_steps = 500_000
    config.optimizer.learning_rate = 2e-5
    config.model.channel_multipliers = (1, 1, 2, 2, 4, 4)
    config.model.dropout = 0.0
    config.model.remat = True
    config.sample.batch_size = 64
    return config


def lsun256() -> ConfigDict:
    """Appendix B, LSUN bedrooms at 256x256: 2.4M steps; `--config.data.name=lsun/cat` and others likewise."""
    config = celebahq256()
    config.data.name = "lsun/bedroom"
    config.data.image_size = 256
    config.train.num_steps = 2_400_000
    return config


def mnist() -> ConfigDict:
    """Class-conditional, 28x28: for one GPU, or a patient CPU."""
    config = common.shapes(cifar10())
    config.data.name = "mnist"
    config.optimizer.warmup_steps = 1_000
    config.model.base_channels = 64
    config.model.channel_multipliers = (1, 2, 2)
    config.model.attention_resolutions = (7,)
    config.diffusion.schedule = "cosine"
    config.sampler.num_steps = 250
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes, which need no download."""
    config = mnist()
    config.data.name = "shapes"
    config.model.attention_resolutions = (8,)
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, in patches of 2x2: 16 minutes of CPU time."""
    config = fashion_training(common.diffusion(common.base()))
    config.diffusion.parameterization = "v"
    config.diffusion.schedule = "cosine"
    config.sampler.name = "dpmpp_2m"
    config.sampler.levels = "timesteps(spacing='leading')"
    config.sampler.num_steps = 20
    return config


def fashion_training(config: ConfigDict) -> ConfigDict:
    """Sets data, training and network of a class-conditional diffusion model of Fashion-MNIST, 0.7M parameters."""
    config.diffusion.class_conditional = True
    config.diffusion.label_dropout = 0.1
    config.data.name = "fashion"
    config.data.flip = False
    config.data.batch_size = 64
    config.optimizer = common.optimizer()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.b2 = 0.99
    config.ema.decay = 0.995
    config.train.num_steps = 2_200
    config.train.sample_every_steps = 1_100
    config.train.checkpoint_every_steps = 250
    config.model = networks.digits_unet()
    config.model.patch_size = 2
    config.model.channel_multipliers = (1, 2)
    config.model.attention_resolutions = (7,)
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: three minutes on two CPU cores."""
    config = common.digits(cifar10())
    config.model = networks.digits_unet()
    config.diffusion.schedule = "cosine"
    config.sampler.name = "dpmpp_2m"
    config.sampler.levels = "timesteps(spacing='leading')"
    config.sampler.num_steps = 25
    config.sampler.guidance_scale = 1.1
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.base_channels = 8
    config.model.dropout = 0.1
    config.model.num_groups = 4
    config.sampler.num_steps = 4
    return config
