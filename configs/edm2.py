"""EDM2 (Karras et al. 2024): a magnitude-preserving U-Net, forced weight normalization, power-function averages."""

import functools

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, shapes, and the ImageNet-512 latent models: xs, s, m, l, xl, xxl."""
    variants = {"digits": digits, "tiny": tiny, "shapes": shapes}
    variants |= {name: functools.partial(imagenet512, *settings) for name, settings in SIZES.items()}
    return common.choose(variants, variant)


# Width, learning rate, dropout, steps: table 6, and the published training configurations.
SIZES = {
    "xs": (128, 0.0120, 0.0, 1_048_576),
    "s": (192, 0.0100, 0.0, 1_048_576),
    "m": (256, 0.0090, 0.10, 1_048_576),
    "l": (320, 0.0080, 0.10, 917_504),
    "xl": (384, 0.0070, 0.10, 655_360),
    "xxl": (448, 0.0065, 0.10, 458_752),
}
FORCED = r".*kernel"


def imagenet512(width: int, learning_rate: float, dropout: float, num_steps: int) -> ConfigDict:
    """On 64x64x4 latents, batch 2,048: 124.7M (XS) to 1,523.2M (XXL) parameters, that of the uncertainty included."""
    config = edm2(common.base())
    config.data.name = "latents"  # of an 8x autoencoder, made by launch.py encode; data.path is where
    config.data.batch_size = 2_048
    config.train.num_steps = num_steps
    config.train.checkpoint_every_steps = 4_096
    config.train.snapshot_every_steps = 4_096  # for averages of other widths, by launch.py ema
    config.train.sample_every_steps = 50_000
    config.train.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.decay_steps = 70_000
    config.optimizer.warmup_steps = 4_883  # 10M images
    config.sample.batch_size = 16
    config.model.base_channels = width
    config.model.dropout = dropout
    config.model.remat = True
    config.diffusion.label_dropout = 0.0  # guidance is by a smaller model
    config.diffusion.path = "normalized(sigma_data=0.5)"  # the standard deviation that the latents are brought to
    config.diffusion.parameterization = "edm(sigma_data=0.5)"
    config.sampler.clip = False
    return config


def edm2(config: ConfigDict) -> ConfigDict:
    """Sets the settings that all sizes share."""
    common.diffusion(config)
    config.ema.kind = "power"
    config.optimizer.schedule = "inverse_sqrt"
    config.optimizer.b2 = 0.99
    config.optimizer.forced_normalization = FORCED
    config.model = ConfigDict()
    config.model.name = "edm2_unet.EDM2UNet"
    config.model.base_channels = 192
    config.model.channel_multipliers = (1, 2, 3, 4)
    config.model.num_res_blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.channels_per_head = 64
    config.model.dropout = 0.0
    config.model.remat = False
    config.diffusion.path = "normalized"
    config.diffusion.parameterization = "edm"
    config.diffusion.schedule = "karras"
    config.diffusion.noise_label = "log_sigma"
    config.diffusion.times = "log_normal(mean=-0.4, std=1.0)"
    config.diffusion.uncertainty_channels = 128
    config.diffusion.class_conditional = True
    config.sampler.name = "heun"
    config.sampler.levels = "karras"
    config.sampler.num_steps = 32
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes."""
    config = common.shapes(edm2(common.base()))
    config.optimizer.learning_rate = 0.01
    config.optimizer.decay_steps = 10_000
    config.optimizer.warmup_steps = 1_000
    config.model.base_channels = 64
    config.model.channel_multipliers = (1, 2, 2)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (8,)
    config.sampler.num_steps = 18
    return config


def digits() -> ConfigDict:
    """Class-conditional on the 8x8 digits."""
    config = common.digits(edm2(common.base()))
    config.optimizer.learning_rate = 0.01
    config.optimizer.forced_normalization = FORCED
    config.model.base_channels = 32
    config.model.channel_multipliers = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.channels_per_head = 32
    config.diffusion.path = "normalized(sigma_data=0.75)"
    config.diffusion.parameterization = "edm(sigma_data=0.75)"
    config.sampler.num_steps = 10
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.base_channels = 8
    config.model.channel_multipliers = (1,)
    config.model.channels_per_head = 4
    config.diffusion.uncertainty_channels = 4
    # From the usual 80 to 0.002 in one step, Heun's method would multiply the rounding of float32 by thousands.
    config.sampler.levels = "karras(sigma_min=0.5, sigma_max=8.0)"
    config.sampler.num_steps = 2
    return config
