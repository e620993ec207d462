"""SAGAN (Zhang et al. 2019): `imagenet128` is the setting of the PyTorch code of BigGAN's first author."""

from ml_collections import ConfigDict

from configs import biggan, common


def get_config(variant: str = "shapes") -> ConfigDict:
    """Variants: shapes, tiny, imagenet128."""
    return common.choose({"shapes": shapes, "tiny": tiny, "imagenet128": imagenet128}, variant)


def imagenet128() -> ConfigDict:
    """ImageNet at 128x128: 42,017,412 + 39,448,258 parameters, batch 256, rates of 1e-4 and 4e-4, EMA from 2,000."""
    config = _without_embedding(biggan.imagenet128())
    config.data.batch_size = 256
    config.train.num_steps = 1_000_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 10_000
    config.ema.decay = biggan.average_from(2_000)
    config.gan.latent_dim = 128
    config.generator.channels = biggan.scaled(64, (16, 16, 8, 4, 2, 1))
    config.discriminator.channels = biggan.scaled(64, (1, 2, 4, 8, 16, 16))
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download."""
    config = _without_embedding(biggan.shapes())
    config.gan.n_critic = 1
    config.optimizer.generator.learning_rate = 1e-4
    config.optimizer.discriminator.learning_rate = 4e-4
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    return _without_embedding(biggan.tiny())


def _without_embedding(config: ConfigDict) -> ConfigDict:
    """Has tables of classes in batch normalization, latents that enter at the bottom alone, and Glorot's weights."""
    config.generator.shared_dim = 0
    config.generator.hierarchical = False
    for network in (config.generator, config.discriminator):
        network.kernel_init = "glorot"
    return config
