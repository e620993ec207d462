"""SNGAN (Miyato et al. 2018): residual networks, spectral normalization of the discriminator, the hinge loss.

`cifar10`, `stl10`, `celeba64` and `celeba128` are settings of mimicry (Lee and Town 2020), the others follow them on
smaller images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, shapes, cifar10, stl10, celeba64, celeba128."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "cifar10": cifar10,
        "stl10": stl10,
        "celeba64": celeba64,
        "celeba128": celeba128,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """CIFAR-10: 4,276,739 + 1,053,825 parameters, 5 updates of the discriminator, Adam at 2e-4 falling to 0, no EMA."""
    config = common.gan(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 64
    config.train.num_steps = 100_000
    config.train.sample_every_steps = 5_000
    config.train.checkpoint_every_steps = 5_000
    config.ema.decay = 0.0  # the official code has none
    config.evaluate.num_samples = 50_000
    for player in config.optimizer.values():
        player.learning_rate = 2e-4
        player.schedule = "linear"
        player.b1, player.b2 = 0.0, 0.9
    config.gan.latent_dim = 128
    config.gan.loss = "hinge"
    config.gan.n_critic = 5

    config.generator = ConfigDict()
    config.generator.name = "sngan.Generator"
    config.generator.channels = (256, 256, 256, 256)  # of the first feature map, and after each block
    config.generator.momentum = 0.9

    config.discriminator = ConfigDict()
    config.discriminator.name = "sngan.Discriminator"
    config.discriminator.channels = (128, 128, 128, 128)  # after each block
    config.discriminator.num_downsampling = 2  # the first of the blocks, which halve the feature map
    config.discriminator.pooling = "sum"  # or "mean"
    config.discriminator.spectral_norm = True
    config.discriminator.conditioning = "projection"  # or "classifier", "cosine", "none"; where there are classes
    return config


def stl10() -> ConfigDict:
    """STL-10 at 48x48: 4,878,083 + 10,141,441 parameters.

    The official run is on the 100,000 unlabeled images. TFDS has them in a split of their own, which is not read here:
    export them to a directory for `data.name="folder"`.
    """
    config = cifar10()
    config.data.name = "stl10"
    config.data.image_size = 48
    config.generator.channels = (512, 256, 128, 64)
    config.discriminator.channels = (64, 128, 256, 512, 1024)
    config.discriminator.num_downsampling = 4
    return config


def celeba64() -> ConfigDict:
    """Faces at 64x64: 12,220,675 + 10,141,441 parameters."""
    config = stl10()
    config.data.name = "celeb_a"
    config.data.image_size = 64
    config.generator.channels = (1024, 512, 256, 128, 64)
    config.discriminator.num_downsampling = 5
    return config


def celeba128() -> ConfigDict:
    """Faces at 128x128: 32,150,787 + 29,017,857 parameters, 2 updates of the discriminator, a constant rate."""
    config = celeba64()
    config.data.image_size = 128
    config.gan.n_critic = 2
    for player in config.optimizer.values():
        player.schedule = "constant"
    config.generator.channels = (1024, 1024, 512, 256, 128, 64)
    config.discriminator.channels = (64, 128, 256, 512, 1024, 1024)
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download; half of CIFAR-10's widths."""
    config = cifar10()
    config.data.name = "shapes"
    config.train.num_steps = 20_000
    config.ema.decay = 0.999
    config.evaluate.num_samples = 1_000
    config.generator.channels = (128,) * 4
    config.discriminator.channels = (64,) * 4
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, from a base of 7x7."""
    config = _small(cifar10())
    config.data.name = "fashion"
    config.train.num_steps = 3_000
    config.generator.channels = (64, 32, 16)
    config.discriminator.channels = (16, 32, 64)
    config.discriminator.num_downsampling = 2
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, from a base of 4x4: minutes on two CPU cores."""
    config = _small(cifar10())
    config.data.name = "digits"
    config.train.num_steps = 2_200
    config.generator.channels = (64, 64)
    config.discriminator.channels = (64, 64)
    config.discriminator.num_downsampling = 1
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.gan.latent_dim = 4
    config.gan.n_critic = 2
    config.generator.channels = (4, 4)
    config.discriminator.channels = (4,)
    return config


def _small(config: ConfigDict) -> ConfigDict:
    """Sets short training with an average, at a higher rate, on a CPU."""
    config.ema.decay = 0.998
    config.train.sample_every_steps = 1_000
    config.train.checkpoint_every_steps = 500
    config.evaluate.num_samples = 1_000
    config.gan.latent_dim = 64
    config.gan.n_critic = 1
    for player in config.optimizer.values():
        player.learning_rate = 1e-3
    return config
