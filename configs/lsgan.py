"""Least squares GAN (Mao et al. 2017): DCGAN's networks with squared distances to targets."""

from ml_collections import ConfigDict

from configs import common, dcgan


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (a minute on a CPU), tiny, lsun."""
    return common.choose({"digits": digits, "tiny": tiny, "lsun": lsun}, variant)


def lsun() -> ConfigDict:
    """Bedrooms, with the targets of eq. 9 and the paper's Adam at 1e-3, batch 64; at 64x64, where the paper has 112."""
    config = least_squares(dcgan.lsun())
    config.data.batch_size = 64
    for player in config.optimizer.values():
        player.learning_rate = 1e-3
    return config


def least_squares(config: ConfigDict) -> ConfigDict:
    """Puts the loss of eq. 9 in the place of DCGAN's."""
    config.gan.loss = "least_squares(real_target=1.0, fake_target=0.0, generator_target=1.0)"
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits: a minute on two CPU cores."""
    return least_squares(dcgan.small_digits())


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    return least_squares(dcgan.tiny())
