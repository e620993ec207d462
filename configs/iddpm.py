"""Improved DDPM (Nichol and Dhariwal 2021): learned variance, cosine schedule, importance-sampled timesteps."""

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (class-conditional, minutes on a CPU), tiny, shapes, cifar10, imagenet64, imagenet64_cond."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "shapes": shapes,
        "cifar10": cifar10,
        "imagenet64": imagenet64,
        "imagenet64_cond": imagenet64_cond,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """Appendix A: 52,546,438 parameters, batch 128, 500k steps of L_hybrid."""
    config = common.diffusion(common.base())
    config.data.name = "cifar10"
    config.train.num_steps = 500_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.optimizer.learning_rate = 1e-4
    config.model = networks.adm_unet()
    config.model.dropout = 0.3
    config.diffusion.schedule = "cosine(num_timesteps=4000)"
    config.diffusion.learned_variance = True
    config.diffusion.likelihood = "bound"
    config.sampler.name = "ancestral_learned"
    config.sampler.levels = "timesteps(spacing='linspace')"
    config.sampler.num_steps = 250
    config.evaluate.num_likelihood = 1_000  # each takes all 4,000 timesteps
    return config


def imagenet64() -> ConfigDict:
    """Unconditional, 64x64: 121,063,942 parameters."""
    config = cifar10()
    config.data.name = "imagenet_resized/64x64"
    config.train.num_steps = 1_500_000
    config.model.channel_multipliers = (1, 2, 3, 4)
    config.model.dropout = 0.0
    return config


def imagenet64_cond() -> ConfigDict:
    """Class-conditional, 64x64: 273,049,350 parameters, batch 2,048."""
    config = imagenet64()
    config.data.batch_size = 2_048
    config.train.num_steps = 250_000
    config.optimizer.learning_rate = 3e-4
    config.model.base_channels = 192
    config.diffusion.class_conditional = True
    config.diffusion.label_dropout = 0.0
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes."""
    config = common.shapes(cifar10())
    config.model.base_channels = 64
    config.model.num_res_blocks = 2
    config.model.channel_multipliers = (1, 2, 2)
    config.model.attention_resolutions = (8,)
    config.diffusion.schedule = "cosine"
    return config


def digits() -> ConfigDict:
    """Class-conditional on the 8x8 digits."""
    config = common.digits(cifar10())
    config.model = networks.digits_adm_unet()
    config.diffusion.schedule = "cosine"
    config.sampler.num_steps = 50
    config.evaluate.num_likelihood = 360
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.base_channels = 8
    config.model.channel_multipliers = (1,)
    config.model.num_heads = 2
    config.diffusion.schedule = "cosine(num_timesteps=20)"
    config.diffusion.importance_buckets = 4
    config.sampler.num_steps = 2
    config.evaluate.num_likelihood = 8
    return config
