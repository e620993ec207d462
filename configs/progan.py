"""Progressive growing of GANs (Karras et al. 2018): `celebahq` is the official setting, others follow it."""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, shapes, cifar10, celebahq."""
    variants = {"digits": digits, "tiny": tiny, "shapes": shapes, "cifar10": cifar10, "celebahq": celebahq}
    return common.choose(variants, variant)


def celebahq() -> ConfigDict:
    """Faces at 1024x1024: 23,079,115 + 23,087,249 parameters, 12M images, batches of 512 at 4x4 to 32 from 64x64 on."""
    config = common.gan(common.base())
    config.method = "gan.progan"
    config.data.name = "folder"
    config.data.image_size = 1024
    config.data.flip = True
    config.ema.decay = 0.999
    config.ema.warmup = False
    config.ema.include = "params/generator/.*"
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    config.sample.batch_size = 32
    config.evaluate.num_samples = 50_000
    for player in config.optimizer.values():
        player.learning_rate = 1e-3
        player.b1, player.b2 = 0.0, 0.99

    config.gan.latent_dim = 512
    config.gan.loss = "wasserstein"
    config.gan.terms = ("gradient_penalty(weight=10.0)", "drift(weight=0.001)")
    del config.sampler

    config.growth = ConfigDict()
    config.generator = ConfigDict()
    config.discriminator = ConfigDict()
    config.discriminator.group_size = 4  # of the minibatch standard deviation
    for network in (config.generator, config.discriminator):
        network.channel_base = 16384  # channels times side of a feature map, up to channel_max
        network.channel_max = 512
    return _grown(config, levels=9, batch_sizes=(512, 256, 128, 64, 32), images=600_000, last_images=2_400_000)


def cifar10() -> ConfigDict:
    """CIFAR-10, unconditional: 20,719,628 + 20,726,785 parameters, 12M images."""
    config = celebahq()
    config.data.name = "cifar10"
    config.data.image_size = None
    config.sample.batch_size = 250
    return _grown(config, levels=4, batch_sizes=(512, 256, 128, 64), images=600_000, last_images=8_400_000)


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download."""
    config = cifar10()
    config.data.name = "shapes"
    config.data.flip = False
    config.gan.latent_dim = 128
    for network in (config.generator, config.discriminator):
        network.channel_base, network.channel_max = 2048, 128
    return _grown(config, levels=4, batch_sizes=(128, 128, 64, 64), images=100_000, last_images=1_500_000)


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, from 4x4, class-conditional by an auxiliary classifier as in the official code.

    The rate is three times the official one, for a run this short: minutes on two CPU cores.
    """
    config = cifar10()
    config.data.name = "digits"
    config.data.flip = False
    config.gan.latent_dim = 64
    config.gan.class_conditional = True
    config.gan.terms = (*config.gan.terms, "auxiliary_classifier()")
    config.train.checkpoint_every_steps = 500
    config.train.sample_every_steps = 1_000
    config.evaluate.num_samples = 1_000
    config.ema.decay = 0.998
    for player in config.optimizer.values():
        player.learning_rate = 3e-3
    for network in (config.generator, config.discriminator):
        network.channel_base, network.channel_max = 512, 64
    return _grown(config, levels=2, batch_sizes=(64, 64), images=40_000, last_images=100_000)


def tiny() -> ConfigDict:
    """Seconds, for the tests: two steps at 4x4, the third a fade, the others at 8x8."""
    config = common.tiny(digits())
    config.gan.latent_dim = 8
    config.train.sample_every_steps = 4
    for network in (config.generator, config.discriminator):
        network.channel_base, network.channel_max = 64, 8
    num_steps = config.train.num_steps
    config = _grown(config, levels=2, batch_sizes=(16, 8), images=16, last_images=16)
    config.growth.steady_images = 24
    config.train.num_steps = num_steps
    return config


def _grown(
    config: ConfigDict, *, levels: int, batch_sizes: tuple[int, ...], images: int, last_images: int
) -> ConfigDict:
    """Sets a plan that fades and keeps each level for so many images, and the last one for `last_images`."""
    config.growth.steady_images = images  # at each level
    config.growth.fading_images = images
    config.growth.batch_sizes = batch_sizes  # of the levels, the coarsest first; further levels have the last
    config.data.batch_size = max(batch_sizes)
    sizes = [batch_sizes[min(i, len(batch_sizes) - 1)] for i in range(levels)]
    fades, steadies = sizes[1:], sizes[:-1]
    lasting = [*((images, size) for size in (*fades, *steadies)), (last_images, sizes[-1])]
    config.train.num_steps = sum(-(-seen // size) for seen, size in lasting)
    return config
