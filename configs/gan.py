"""The first GAN (Goodfellow et al. 2014): `mnist` is the paper's setting."""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (a minute on a CPU), tiny, mnist."""
    variants = {"digits": digits, "tiny": tiny, "mnist": mnist}
    return common.choose(variants, variant)


def mnist() -> ConfigDict:
    """The official networks, ReLU units against maxout units with dropout; trained by Adam."""
    config = common.gan(common.base())
    config.data.name = "mnist"
    config.data.batch_size = 100
    config.train.num_steps = 100_000
    config.train.steps_per_dispatch = 10
    config.ema.decay = 0.999
    for player in config.optimizer.values():
        player.b1 = 0.5

    config.generator = ConfigDict()
    config.generator.name = "mlp.Generator"
    config.generator.hidden = (1200, 1200)
    config.generator.pieces = 1  # of a maxout unit; 1 for ReLU units

    config.discriminator = ConfigDict()
    config.discriminator.name = "mlp.Discriminator"
    config.discriminator.hidden = (240, 240)
    config.discriminator.pieces = 5
    config.discriminator.dropout = 0.5
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits: a minute on two CPU cores."""
    config = mnist()
    config.data.name = "digits"
    config.data.batch_size = 128
    config.train.num_steps = 10_000
    config.generator.hidden = (256, 256)
    config.discriminator.hidden = (128, 128)
    config.discriminator.dropout = 0.3
    config.gan.latent_dim = 32
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.generator.hidden = (8,)
    config.discriminator.hidden = (8,)
    config.gan.latent_dim = 4
    config.gan.n_critic = 2
    return config
