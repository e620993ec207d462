"""ADM (Dhariwal and Nichol 2021): improved DDPM's process, a larger U-Net, guidance."""

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, shapes, and the paper's ImageNet models: imagenet64, 128, 256, 256_uncond, 512."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "shapes": shapes,
        "imagenet64": imagenet64,
        "imagenet128": imagenet128,
        "imagenet256": imagenet256,
        "imagenet256_uncond": imagenet256_uncond,
        "imagenet512": imagenet512,
    }
    return common.choose(variants, variant)


def imagenet256() -> ConfigDict:
    """Table 11: 553,838,086 parameters, batch 256, 1.98M steps."""
    config = common.diffusion(common.base())
    config.data.name = "imagenet2012"
    config.data.image_size = 256
    config.data.batch_size = 256
    config.data.flip = True
    config.train.num_steps = 1_980_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.train.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = 1e-4
    config.sample.batch_size = 16
    config.model = networks.adm_unet()
    config.model.base_channels = 256
    config.model.channel_multipliers = (1, 1, 2, 2, 4, 4)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.resblock_updown = True
    config.model.remat = True
    config.diffusion.schedule = "linear"
    config.diffusion.class_conditional = True
    config.diffusion.label_dropout = 0.0
    config.diffusion.learned_variance = True
    config.sampler.name = "ancestral_learned"
    config.sampler.levels = "timesteps(spacing='linspace')"
    config.sampler.num_steps = 250
    return config


def imagenet256_uncond() -> ConfigDict:
    """Without classes: 552,814,086 parameters."""
    config = imagenet256()
    config.diffusion.class_conditional = False
    return config


def imagenet64() -> ConfigDict:
    """Table 11: 295,904,454 parameters, cosine schedule, batch 2,048, 540k steps."""
    config = imagenet256()
    config.data.name = "imagenet_resized/64x64"
    config.data.image_size = 64
    config.data.batch_size = 2_048
    config.train.num_steps = 540_000
    config.optimizer.learning_rate = 3e-4
    config.model.base_channels = 192
    config.model.channel_multipliers = (1, 2, 3, 4)
    config.model.num_res_blocks = 3
    config.model.dropout = 0.1
    config.model.use_new_attention_order = True
    config.diffusion.schedule = "cosine"
    return config


def imagenet128() -> ConfigDict:
    """Table 11: 421,529,606 parameters, batch 256, 4.36M steps."""
    config = imagenet256()
    config.data.image_size = 128
    config.train.num_steps = 4_360_000
    config.model.channel_multipliers = (1, 1, 2, 3, 4)
    config.model.num_heads = 4
    config.model.head_channels = 0
    return config


def imagenet512() -> ConfigDict:
    """Table 11: 558,997,638 parameters, batch 256, 1.94M steps."""
    config = imagenet256()
    config.data.image_size = 512
    config.train.num_steps = 1_940_000
    config.model.channel_multipliers = (0.5, 1, 1, 2, 2, 4, 4)
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes."""
    config = small(common.shapes(imagenet64()))
    config.data.batch_size = 128
    config.model.base_channels = 64
    config.model.channel_multipliers = (1, 2, 2)
    config.model.attention_resolutions = (8,)
    return config


def digits() -> ConfigDict:
    """Class-conditional on the 8x8 digits."""
    config = small(common.digits(imagenet64()))
    config.model = networks.digits_adm_unet()
    config.model.resblock_updown = True
    config.model.head_channels = 32
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Sets the settings that models of small images share."""
    config.data.image_size = None
    config.train.compute_dtype = "float32"
    config.sample.batch_size = 250
    config.model.num_res_blocks = 1
    config.model.remat = False
    config.diffusion.label_dropout = 0.1
    config.sampler.num_steps = 50
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.base_channels = 8
    config.model.head_channels = 4
    config.model.channel_multipliers = (1,)
    config.sampler.num_steps = 2
    return config
