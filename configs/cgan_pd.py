"""cGANs with projection discriminator (Miyato and Koyama 2018): SNGAN's networks, conditional on classes.

Classes enter the generator by batch normalization, and the discriminator by a projection.
"""

from ml_collections import ConfigDict

from configs import common, sngan


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, shapes, cifar10."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "cifar10": cifar10,
    }
    return common.choose(variants, variant)


def conditional(config: ConfigDict) -> ConfigDict:
    """Makes both networks conditional on classes."""
    config.gan.class_conditional = True
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10: 4,304,387 + 1,055,105 parameters, trained as SNGAN."""
    return conditional(sngan.cifar10())


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download."""
    return conditional(sngan.shapes())


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, from a base of 7x7."""
    return conditional(sngan.fashion())


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, from a base of 4x4: minutes on two CPU cores."""
    return conditional(sngan.digits())


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    return conditional(sngan.tiny())
