"""Wasserstein GAN (Arjovsky et al. 2017): DCGAN's networks, a critic whose weights are clipped, five updates of it."""

from ml_collections import ConfigDict

from configs import common, dcgan


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (a minute on a CPU), tiny, lsun."""
    return common.choose({"digits": digits, "tiny": tiny, "lsun": lsun}, variant)


def lsun() -> ConfigDict:
    """Algorithm 1 on bedrooms at 64x64: RMSProp at 5e-5, weights clipped at 0.01, batch 64, no EMA."""
    config = wasserstein(dcgan.lsun())
    config.data.batch_size = 64
    config.train.num_steps = 200_000
    return config


def wasserstein(config: ConfigDict) -> ConfigDict:
    """Puts the loss, the clipping and the optimizers of algorithm 1 in the place of DCGAN's."""
    config.gan.loss = "wasserstein"
    config.gan.n_critic = 5
    for player in config.optimizer.values():
        player.name = "rmsprop"
        player.learning_rate = 5e-5
        player.b1, player.b2 = 0.9, 0.99  # b1 is of no use to RMSProp
    config.optimizer.discriminator.weight_limit = 0.01
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits: a minute on two CPU cores."""
    config = wasserstein(dcgan.small_digits())
    config.train.num_steps = 3_000
    for player in config.optimizer.values():
        player.learning_rate = 2e-4
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = wasserstein(dcgan.tiny())
    config.gan.n_critic = 2
    return config
