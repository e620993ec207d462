"""BigGAN and BigGAN-deep (Brock et al. 2019): settings of its first author's PyTorch code, and smaller ones.

Lengths of runs on ImageNet are ours: officially training goes on until it collapses.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, shapes, cifar10, imagenet128, imagenet256, imagenet128_deep."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "shapes": shapes,
        "cifar10": cifar10,
        "imagenet128": imagenet128,
        "imagenet256": imagenet256,
        "imagenet128_deep": imagenet128_deep,
    }
    return common.choose(variants, variant)


def imagenet128() -> ConfigDict:
    """ImageNet at 128x128: 70,433,988 + 87,982,370 parameters, batch 2,048, rates of 1e-4 and 4e-4, EMA from 20,000."""
    config = common.gan(common.base())
    config.data.name = "imagenet2012"
    config.data.image_size = 128
    config.data.batch_size = 2_048
    config.train.num_steps = 150_000
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 1_000
    config.train.sample_every_steps = 2_000
    config.ema.decay = average_from(20_000)
    config.ema.warmup = False
    config.evaluate.num_samples = 50_000
    config.sample.batch_size = 64
    config.optimizer.generator.learning_rate = 1e-4
    config.optimizer.discriminator.learning_rate = 4e-4
    for player in config.optimizer.values():
        player.b1, player.b2, player.eps = 0.0, 0.999, 1e-6
    config.gan.loss = "hinge"
    config.gan.latent_dim = 120  # 20 for the first layer, and 20 for each block
    config.gan.class_conditional = True

    config.generator = ConfigDict()
    config.generator.name = "biggan.Generator"
    config.generator.channels = scaled(96, (16, 16, 8, 4, 2, 1))  # of the first feature map, and after each block
    config.generator.attention = (64,)  # heights of feature maps
    config.generator.shared_dim = 128  # of the embedding of a class; 0: tables in each batch normalization
    config.generator.hierarchical = True  # a part of the latent for each block
    config.generator.momentum = 0.9

    config.discriminator = ConfigDict()
    config.discriminator.name = "biggan.Discriminator"
    config.discriminator.channels = scaled(96, (1, 2, 4, 8, 16, 16))  # after each block
    config.discriminator.num_downsampling = 5  # the first of the blocks, which halve the feature map
    config.discriminator.attention = (64,)
    config.discriminator.wide = True
    config.discriminator.conditioning = "projection"  # or "classifier", "cosine", "none"
    for network in (config.generator, config.discriminator):
        network.kernel_init = "orthogonal"  # or "normal", "glorot"
        network.power_iterations = 1  # of spectral normalization, with each batch
    return config


def imagenet256() -> ConfigDict:
    """ImageNet at 256x256: 82,235,844 + 99,225,890 parameters."""
    config = imagenet128()
    config.data.image_size = 256
    config.sample.batch_size = 16
    config.gan.latent_dim = 140
    config.generator.channels = scaled(96, (16, 16, 8, 8, 4, 2, 1))
    config.discriminator.channels = scaled(96, (1, 2, 4, 8, 8, 16, 16))
    config.discriminator.num_downsampling = 6
    return config


def imagenet128_deep() -> ConfigDict:
    """BigGAN-deep on ImageNet at 128x128: 50,244,484 + 34,590,210 parameters."""
    config = imagenet128()
    config.gan.latent_dim = 128
    config.generator.name = "biggan_deep.Generator"
    config.generator.channels = scaled(128, (16, 16, 8, 4, 2, 1))  # of the first feature map, and after each stage
    config.discriminator.name = "biggan_deep.Discriminator"
    config.discriminator.channels = scaled(128, (1, 2, 4, 8, 16, 16))
    del config.generator.hierarchical, config.discriminator.wide
    for network in (config.generator, config.discriminator):
        network.depth = 2  # blocks of a stage
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10: 4,304,387 + 4,207,361 parameters, batch 50, 4 updates of the discriminator, EMA from 1,000, 500 epochs.

    There is no attention, no shared embedding and no hierarchy of latents.
    """
    config = imagenet128()
    config.data.name = "cifar10"
    config.data.image_size = None
    config.data.batch_size = 50
    config.train.num_steps = 125_000
    config.train.compute_dtype = "float32"
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    config.sample.batch_size = 250
    config.ema.decay = average_from(1_000)
    for player in config.optimizer.values():
        player.learning_rate = 2e-4
        player.eps = 1e-8
    config.gan.latent_dim = 128
    config.gan.n_critic = 4
    config.generator.channels = scaled(64, (4, 4, 4, 4))
    config.generator.shared_dim = 0
    config.generator.hierarchical = False
    config.discriminator.channels = scaled(64, (4, 4, 4, 4))
    config.discriminator.num_downsampling = 2
    for network in (config.generator, config.discriminator):
        network.attention = ()
        network.kernel_init = "normal"
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download, with attention and all that ImageNet's has."""
    config = cifar10()
    config.data.name = "shapes"
    config.train.num_steps = 20_000
    config.ema.decay = 0.999
    config.evaluate.num_samples = 1_000
    config.gan.n_critic = 2
    config.generator.channels = scaled(32, (4, 4, 4, 2))
    config.generator.shared_dim = 32
    config.generator.hierarchical = True
    config.discriminator.channels = scaled(32, (2, 4, 4, 4))
    for network in (config.generator, config.discriminator):
        network.attention = (16,)
        network.kernel_init = "orthogonal"
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, from a base of 4x4: minutes on two CPU cores."""
    config = shapes()
    config.data.name = "digits"
    config.data.batch_size = 64
    config.train.num_steps = 3_000
    config.train.sample_every_steps = 1_000
    config.train.checkpoint_every_steps = 500
    config.ema.decay = 0.998
    config.gan.latent_dim = 32
    config.generator.channels = (64, 64)
    config.discriminator.channels = (64, 64)
    config.discriminator.num_downsampling = 1
    for network in (config.generator, config.discriminator):
        network.attention = ()
    for player in config.optimizer.values():
        player.learning_rate = 5e-4
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.gan.latent_dim = 4
    config.generator.channels = (8, 8)
    config.generator.shared_dim = 3
    config.discriminator.channels = (8,)
    config.discriminator.attention = (4,)
    return config


def average_from(step: int) -> str:
    """Returns the decay of the official average, which begins at a step."""
    return f"piecewise(boundaries=({step},), values=(0.0, 0.9999))"


def scaled(width: int, factors: tuple[int, ...]) -> tuple[int, ...]:
    """Returns numbers of channels in units of a width."""
    return tuple(width * factor for factor in factors)
