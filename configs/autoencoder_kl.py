"""Autoencoders for latent diffusion (Rombach et al. 2022): train one, `launch.py encode`, then `configs/latent.py`."""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, shapes (minutes on a CPU), tiny, kl_f8 (Stable Diffusion's), kl_f8_gan."""
    variants = {"digits": digits, "shapes": shapes, "tiny": tiny, "kl_f8": kl_f8, "kl_f8_gan": kl_f8_gan}
    return common.choose(variants, variant)


def kl_f8() -> ConfigDict:
    """256x256 pixels to 32x32x4 latents, 83,653,863 parameters, by reconstruction alone."""
    config = common.base()
    config.method = "vae.autoencoder_kl"
    config.data.name = "imagenet2012"
    config.data.image_size = 256
    config.data.flip = True
    config.data.batch_size = 96
    config.train.num_steps = 250_000
    config.train.compute_dtype = "bfloat16"
    config.train.sample_every_steps = 10_000
    config.train.checkpoint_every_steps = 10_000
    config.ema.decay = 0.999
    _rate(config.optimizer)
    config.sample.batch_size = 64

    config.model = ConfigDict()
    config.model.latent_channels = 4
    config.model.block_channels = (128, 256, 512, 512)
    config.model.num_res_blocks = 2
    config.model.num_groups = 32

    config.autoencoder = ConfigDict()
    config.autoencoder.likelihood = "laplace"  # or "gaussian"
    config.autoencoder.scale = 1.0
    config.autoencoder.learn_scale = False
    config.autoencoder.kl_weight = 1e-6

    config.gan = ConfigDict()
    config.gan.weight = 0.0  # above 0, the optimizer has the subsections generator and discriminator: see kl_f8_gan
    config.gan.feature_weight = 0.0
    config.gan.start_steps = 0

    config.discriminator = ConfigDict()
    config.discriminator.width = 64
    config.discriminator.num_halvings = 3
    config.discriminator.num_groups = 32
    return config


def kl_f8_gan() -> ConfigDict:
    """With a discriminator, whose features stand in for those of a pretrained network (LPIPS in the paper)."""
    config = kl_f8()
    config.ema.include = "params/generator/.*"
    config.optimizer = ConfigDict()
    config.optimizer.generator = common.optimizer()
    config.optimizer.discriminator = common.optimizer()
    for player in config.optimizer.values():
        _rate(player)
    config.gan.weight = 0.1
    config.gan.feature_weight = 0.5
    config.gan.start_steps = 50_001
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes to 8x8x4 latents: some minutes on two CPU cores."""
    config = kl_f8()
    config.data.name = "shapes"
    config.data.image_size = None
    config.data.flip = False
    config.data.batch_size = 32
    config.train.num_steps = 1_000
    config.train.compute_dtype = "float32"
    config.train.sample_every_steps = 500
    config.train.checkpoint_every_steps = 500
    config.ema.decay = 0.99
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.clip_norm = 1.0
    config.model.block_channels = (16, 32, 64)
    config.model.num_res_blocks = 1
    config.model.num_groups = 8
    config.autoencoder.scale = 0.2
    config.autoencoder.learn_scale = True
    config.autoencoder.kl_weight = 0.01
    config.discriminator.num_halvings = 2
    config.sample.batch_size = 100
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits to 4x4x2 latents: a minute on two CPU cores."""
    config = shapes()
    config.data.name = "digits"
    config.data.batch_size = 64
    config.model.block_channels = (16, 32)
    config.model.latent_channels = 2
    config.discriminator.num_halvings = 1
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests; with a discriminator."""
    config = common.tiny(digits())
    config.ema.include = "params/generator/.*"
    config.optimizer = ConfigDict()
    config.optimizer.generator = common.optimizer()
    config.optimizer.discriminator = common.optimizer()
    config.model.block_channels = (4, 8)
    config.model.num_groups = 2
    config.gan.weight = 0.1
    config.gan.feature_weight = 0.5
    config.gan.start_steps = 1
    config.discriminator.width = 4
    config.discriminator.num_groups = 2
    return config


def _rate(optimizer: ConfigDict) -> None:
    optimizer.learning_rate = 4.5e-6 * 96  # the official code's rate for each image of a batch
    optimizer.b1 = 0.5
    optimizer.b2 = 0.9
