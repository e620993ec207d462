"""R3GAN (Huang et al. 2024): the five presets of the official code, and smaller images.

A relativistic loss, both penalties on gradients at every step, networks without normalization; learning rate, beta2,
penalties, the average's half-life and the probability of augmentation follow cosines over the first images of training.
Afterwards training goes on at the last values, officially until it is stopped: lengths of runs are ours.
"""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, shapes, cifar10, ffhq64, ffhq256, imagenet32, imagenet64."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "cifar10": cifar10,
        "ffhq64": ffhq64,
        "ffhq256": ffhq256,
        "imagenet32": imagenet32,
        "imagenet64": imagenet64,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """CIFAR-10, class-conditional: 20,781,952 + 21,280,512 parameters, batch 512, 100M images."""
    config = _base(widths=(768,) * 4, groups=(96,) * 4)
    config.data.name = "cifar10"
    config.data.batch_size = 512
    config.gan.class_conditional = True
    config.train.num_steps = 100_000_000 // 512
    return _schedules(config, images=20_000_000, gamma=(0.05, 0.005), half_life=5_000_000, augment=0.55)


def ffhq64() -> ConfigDict:
    """Faces at 64x64: 22,429,824 + 22,381,440 parameters, batch 256, 100M images."""
    config = _base(widths=(768,) * 4 + (384,), groups=(96,) * 4 + (48,))
    config.data.name = "folder"
    config.data.image_size = 64
    config.data.batch_size = 256
    config.train.num_steps = 100_000_000 // 256
    return _schedules(config, images=20_000_000, gamma=(2.0, 0.2), half_life=500_000, augment=0.3)


def ffhq256() -> ConfigDict:
    """Faces at 256x256: 23,057,952 + 23,009,568 parameters, batch 256, 100M images."""
    config = _base(widths=(768,) * 4 + (384, 192, 96), groups=(96,) * 4 + (48, 24, 12))
    config.data.name = "folder"
    config.data.image_size = 256
    config.data.batch_size = 256
    config.train.num_steps = 100_000_000 // 256
    config.sample.batch_size = 64
    for network in (config.generator, config.discriminator):
        network.float32_stages = 3
    return _schedules(config, images=20_000_000, gamma=(150.0, 15.0), half_life=500_000, augment=0.3)


def imagenet32() -> ConfigDict:
    """ImageNet at 32x32, class-conditional: 82,914,304 + 86,548,992 parameters, batch 4,096, 1,000M images."""
    config = _base(widths=(1536,) * 4, groups=(96,) * 4)
    config.data.name = "imagenet_resized/32x32"
    config.data.batch_size = 4_096
    config.gan.class_conditional = True
    config.train.num_steps = 1_000_000_000 // 4_096
    return _schedules(config, images=200_000_000, gamma=(0.5, 0.05), half_life=50_000_000, augment=0.5)


def imagenet64() -> ConfigDict:
    """ImageNet at 64x64, class-conditional: 103,570,432 + 107,205,120 parameters, batch 4,096, 1,000M images."""
    config = _base(widths=(1536,) * 5, groups=(96,) * 5)
    config.data.name = "imagenet_resized/64x64"
    config.data.batch_size = 4_096
    config.gan.class_conditional = True
    config.train.num_steps = 1_000_000_000 // 4_096
    return _schedules(config, images=200_000_000, gamma=(1.0, 0.1), half_life=50_000_000, augment=0.4)


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, class-conditional, which need no download; a fifth of CIFAR-10's widths."""
    config = _base(widths=(160, 160, 160, 128), groups=(20, 20, 20, 16))
    config.data.name = "shapes"
    config.data.flip = False
    config.data.batch_size = 256
    config.gan.class_conditional = True
    config.train.num_steps = 40_000
    config.train.compute_dtype = "float32"
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    return _schedules(config, images=5_000_000, gamma=(0.5, 0.05), half_life=250_000, augment=0.3)


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, class-conditional, from a base of 7x7; some 20 minutes of CPU time."""
    config = _small(widths=(64, 32, 16), groups=(8, 4, 2))
    config.data.name = "fashion"
    config.data.batch_size = 32
    config.train.num_steps = 1_500
    config.train.sample_every_steps = 500
    config.train.checkpoint_every_steps = 500
    for network in (config.generator, config.discriminator):
        network.blocks = (2, 1, 1)
    rate = (2e-3, 1e-4)  # ten times the official one, for a run this short
    return _schedules(config, images=48_000, gamma=(1.0, 0.1), half_life=2_500, augment=None, learning_rate=rate)


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, class-conditional, from a base of 4x4: minutes on two CPU cores."""
    config = _small(widths=(64, 32), groups=(4, 2))
    config.data.name = "digits"
    config.data.batch_size = 64
    config.train.num_steps = 3_800
    config.train.sample_every_steps = 1_000
    config.train.checkpoint_every_steps = 500
    for network in (config.generator, config.discriminator):
        network.blocks = (1, 1)
    rate = (4e-3, 1e-4)  # up to twenty times the official one, for a run this short
    return _schedules(config, images=243_200, gamma=(0.2, 0.02), half_life=5_000, augment=None, learning_rate=rate)


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(_small(widths=(8, 4), groups=(4, 2)))
    config.gan.latent_dim = 8
    config.train.sample_every_steps = 4
    for network in (config.generator, config.discriminator):
        network.blocks = (1, 1)
        network.label_features = 4
    return _schedules(config, images=48, gamma=(0.5, 0.05), half_life=32, augment=None)


def _base(*, widths: tuple[int, ...], groups: tuple[int, ...]) -> ConfigDict:
    config = common.gan(common.base())
    config.data.flip = True
    config.ema.warmup = False
    config.ema.include = "params/generator/.*"
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    config.evaluate.num_samples = 50_000
    config.gan.latent_dim = 64
    config.gan.loss = "relativistic_pairing"
    for name in ("generator", "discriminator"):
        config.optimizer[name].b1 = 0.0
        network = ConfigDict()
        network.name = f"r3gan.{name.capitalize()}"
        network.widths = widths  # channels of each stage, the coarsest first
        network.groups = groups  # of the 3x3 convolutions
        network.blocks = (2,) * len(widths)
        network.expansion = 2  # of channels within a block
        # Length of the embedded class; None for latent_dim and, of the discriminator, the coarsest width.
        network.label_features = config_dict.placeholder(int)
        network.float32_stages = 1  # the coarsest ones, whatever train.compute_dtype is
        config[name] = network
    return config


def _small(*, widths: tuple[int, ...], groups: tuple[int, ...]) -> ConfigDict:
    config = _base(widths=widths, groups=groups)
    config.data.flip = False
    config.gan.class_conditional = True
    config.train.compute_dtype = "float32"
    config.train.steps_per_dispatch = 10
    config.evaluate.num_samples = 1_000
    return config


def _schedules(
    config: ConfigDict,
    *,
    images: int,
    gamma: tuple[float, float],
    half_life: float,
    augment: float | None,
    learning_rate: tuple[float, float] = (2e-4, 5e-5),
) -> ConfigDict:
    """Sets all schedules, over the first so many images; `half_life` is in images, `augment` the last probability."""
    batch_size = config.data.batch_size
    steps = images / batch_size

    def cosine(start: float, end: float) -> str:
        return f"cosine(start={start}, end={end}, steps={steps})"

    for player in config.optimizer.values():
        player.learning_rate = cosine(*learning_rate)
        player.b2 = cosine(0.9, 0.99)
    weight = cosine(*gamma)
    config.gan.terms = (f"r1(gamma='{weight}')", f"r2(gamma='{weight}')")
    config.ema.decay = f"half_life(steps='{cosine(0.0, half_life / batch_size)}')"
    if augment is not None:
        transforms = {"blit": 1.0, "geom": 1.0, "color": 0.5, "cutout": 1.0}
        config.gan.augment = (f"pipe(p='{cosine(0.0, augment)}', transforms={transforms})",)
    return config
