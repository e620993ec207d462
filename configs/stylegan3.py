"""StyleGAN3 (Karras et al. 2021) in the settings of its official code, and on smaller images.

`t` is equivariant to translation, `r` to rotation as well. As the official recommendation for many mirrored images,
nothing is augmented: add `--config.gan.augment="('ada()',)"` for few (with `blur`, which `r` has, before it).
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from configs import common

BLUR = "blur(sigma='linear(start=10.0, end=0.0, steps=6250)')"
"""The fade of the first batch_size * 200 / 32 thousand images."""


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, shapes, t or r at 128, 256, 512 and 1024, t256_small, r256_small."""
    official: dict[str, Callable[[], ConfigDict]] = {
        f"{kind.__name__}{side}": functools.partial(kind, side) for kind in (t, r) for side in (128, 256, 512, 1024)
    }
    variants: dict[str, Callable[[], ConfigDict]] = {
        **official,
        "t256_small": functools.partial(half_width, t),
        "r256_small": functools.partial(half_width, r),
        "shapes": shapes,
        "digits": digits,
        "tiny": tiny,
    }
    return common.choose(variants, variant)


GAMMA = {128: 0.5, 256: 2.0, 512: 8.0, 1024: 32.0}
"""The weight of R1 by the side of the images."""


def t(side: int) -> ConfigDict:
    """StyleGAN3-T: 28,472,133 parameters of the generator at 256, 24,873,519 at 512, 22,313,167 at 1024; batch 32."""
    config = common.style_gan(common.base())
    del config.sampler.noise_mode  # there is none
    config.data.name = "folder"
    config.data.image_size = side
    config.data.flip = True
    config.data.batch_size = 32
    config.train.num_steps = 25_000_000 // 32
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.ema.decay = 0.5 ** (32 / 10_000)
    config.sample.batch_size = 32
    config.evaluate.num_samples = 50_000
    config.optimizer.generator.learning_rate = 2.5e-3
    config.optimizer.discriminator.learning_rate = 2e-3
    for player in config.optimizer.values():  # before what lazy regularization makes of it
        player.b1, player.b2 = 0.0, 0.99

    config.generator = ConfigDict()
    config.generator.name = "stylegan3_generator.Generator"
    config.generator.w_dim = 512
    config.generator.num_mapping_layers = 2
    config.generator.channel_base = 32768  # channels times twice the cutoff frequency, up to channel_max
    config.generator.channel_max = 512
    config.generator.num_layers = 14
    config.generator.num_critical = 2
    config.generator.margin = 10
    config.generator.kernel_size = 3
    config.generator.radial_filters = False
    config.generator.w_avg_decay = 0.998
    config.generator.magnitude_decay = 0.5 ** (32 / 20_000)
    config.generator.clamp = 256.0
    config.discriminator = ConfigDict()
    config.discriminator.name = "stylegan2_discriminator.Discriminator"
    config.discriminator.channel_base = 32768
    config.discriminator.channel_max = 512
    config.discriminator.num_mapping_layers = 8  # of classes
    config.discriminator.group_size = 4
    config.discriminator.clamp = 256.0

    config.gan.latent_dim = 512
    config.gan.terms = (f"r1(gamma={GAMMA[side]}, every_steps=16)",)
    return config


def r(side: int) -> ConfigDict:
    """StyleGAN3-R: 18,816,387 parameters of the generator at 256, 16,665,594 at 512, 15,093,151 at 1024."""
    config = t(side)
    config.generator.kernel_size = 1
    config.generator.channel_base *= 2
    config.generator.channel_max *= 2
    config.generator.radial_filters = True
    config.gan.augment = (BLUR,)
    return config


def half_width(kind: Callable[[int], ConfigDict]) -> ConfigDict:
    """Half the channels (the official `--cbase=16384`): 23,320,443 parameters of T and 15,779,565 of R at 256."""
    config = kind(256)
    config.generator.channel_base //= 2
    config.discriminator.channel_base //= 2
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download: for one GPU, or a patient CPU."""
    config = small(r(128))
    config.data.name = "shapes"
    config.train.num_steps = 50_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    config.gan.terms = ("r1(gamma=0.05, every_steps=16)",)
    config.gan.augment = ()
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits without their classes, by T: minutes on two CPU cores."""
    config = small(t(128))
    config.data.name = "digits"
    config.train.num_steps = 4_000
    config.train.checkpoint_every_steps = 500
    config.train.sample_every_steps = 500
    config.ema.decay = 0.998
    config.evaluate.num_samples = 1_000
    for network in (config.generator, config.discriminator):
        network.channel_base = 256
        network.channel_max = 64
    config.generator.num_layers = 4
    config.generator.num_critical = 1
    config.generator.margin = 3
    config.gan.latent_dim = config.generator.w_dim = 64
    config.gan.terms = ("r1(gamma=0.01, every_steps=16)",)
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Narrow networks with a short memory; nothing is mirrored."""
    config.data.image_size = None
    config.data.flip = False
    config.data.batch_size = 64
    config.train.compute_dtype = "float32"
    config.ema.decay = 0.999
    config.sample.batch_size = 250
    config.evaluate.num_samples = 10_000
    for network in (config.generator, config.discriminator):
        network.channel_base = 2048
        network.channel_max = 128
        network.num_mapping_layers = 2
    config.generator.num_layers = 6
    config.generator.margin = 4
    config.gan.latent_dim = config.generator.w_dim = 128
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests; with all that there is."""
    config = common.tiny(digits())
    for network in (config.generator, config.discriminator):
        network.channel_max = 4
        network.num_mapping_layers = 1
    config.generator.num_layers = 2
    config.generator.kernel_size = 1
    config.generator.radial_filters = True
    config.generator.margin = 1
    config.generator.style_mixing = 0.5
    config.gan.latent_dim = config.generator.w_dim = 4
    config.gan.class_conditional = True
    config.gan.terms = ("r1(gamma=1.0, every_steps=2)",)
    config.gan.augment = ("blur(sigma='linear(start=2.0, end=0.0, steps=4)')",)
    return config
