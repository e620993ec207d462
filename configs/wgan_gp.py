"""WGAN-GP (Gulrajani et al. 2017): a critic kept near Lipschitz by a penalty on its gradient, without normalization."""

from ml_collections import ConfigDict

from configs import common, dcgan, sngan


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, shapes, cifar10."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion, "shapes": shapes, "cifar10": cifar10}
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """The residual networks on CIFAR-10: SNGAN's without spectral norms, 5 updates of the critic, Adam at 2e-4."""
    return with_penalty(sngan.cifar10())


def with_penalty(config: ConfigDict) -> ConfigDict:
    """Puts the loss and the penalty of algorithm 1 on the residual networks."""
    config.gan.loss = "wasserstein"
    config.gan.terms = ("gradient_penalty(weight=10.0)",)
    config.discriminator.spectral_norm = False
    config.discriminator.pooling = "mean"
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download."""
    return with_penalty(sngan.shapes())


def small(config: ConfigDict) -> ConfigDict:
    """Puts the loss and the penalty on DCGAN's networks, the critic without batch normalization (section 4)."""
    config.gan.loss = "wasserstein"
    config.gan.n_critic = 3
    config.gan.class_conditional = True
    config.gan.terms = ("gradient_penalty(weight=10.0)",)
    config.discriminator.batch_norm = False
    for player in config.optimizer.values():
        player.learning_rate = 5e-4
        player.b1, player.b2 = 0.0, 0.9
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, class-conditional, with DCGAN's networks."""
    config = small(dcgan.small_fashion())
    config.train.num_steps = 2_000
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, class-conditional, with DCGAN's networks: minutes on two CPU cores."""
    config = small(dcgan.small_digits())
    config.train.num_steps = 4_000
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = small(dcgan.tiny())
    config.gan.n_critic = 2
    return config
