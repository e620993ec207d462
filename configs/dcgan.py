"""DCGAN (Radford et al. 2016): `celeba` and `lsun` are the paper's setting, the others follow it on smaller images."""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, shapes, mnist, celeba, lsun."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "mnist": mnist,
        "celeba": celeba,
        "lsun": lsun,
    }
    return common.choose(variants, variant)


def celeba() -> ConfigDict:
    """Faces at 64x64, 3,576,704 + 2,765,568 parameters: Adam at 2e-4 with b1 0.5, batch 128, a 100-d latent, no EMA."""
    config = common.gan(common.base())
    config.data.name = "celeb_a"
    config.data.image_size = 64
    config.data.batch_size = 128
    config.train.num_steps = 40_000  # 25 epochs
    config.ema.decay = 0.0  # the paper has none
    for player in config.optimizer.values():
        player.learning_rate = 2e-4
        player.b1 = 0.5

    config.generator = ConfigDict()
    config.generator.name = "dcgan.Generator"
    config.generator.width = 64
    config.generator.base_side = 4
    config.generator.momentum = 0.9

    config.discriminator = ConfigDict()
    config.discriminator.name = "dcgan.Discriminator"
    config.discriminator.width = 64
    config.discriminator.base_side = 4
    config.discriminator.momentum = 0.9
    config.discriminator.batch_norm = True
    config.discriminator.minibatch_kernels = 0  # if positive, the images of a batch are compared
    config.discriminator.conditioning = "projection"  # or "classifier", "cosine", "none"
    return config


def lsun() -> ConfigDict:
    """Bedrooms at 64x64, with the same setting."""
    config = celeba()
    config.data.name = "lsun/bedroom"
    config.train.num_steps = 120_000  # 5 epochs of 3.03M images
    return config


def mnist() -> ConfigDict:
    """28x28 handwritten digits, from a base of 7x7."""
    config = celeba()
    config.data.name = "mnist"
    config.data.image_size = None
    config.train.num_steps = 25_000
    config.ema.decay = 0.999
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download."""
    config = mnist()
    config.data.name = "shapes"
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, class-conditional, from a base of 7x7, with R1: minutes on a CPU."""
    config = small_fashion()
    config.gan.class_conditional = True
    config.gan.terms = ("r1(gamma=1.0)",)
    config.train.num_steps = 3_000
    return config


def small_fashion() -> ConfigDict:
    """Fashion-MNIST with the paper's loss alone, for configs that put others in its place."""
    config = mnist()
    config.data.name = "fashion"
    config.train.num_steps = 2_000
    config.train.steps_per_dispatch = 10
    for network in (config.generator, config.discriminator):
        network.width = 32
    return config


def regularized(config: ConfigDict) -> ConfigDict:
    """Makes both networks conditional on classes, and keeps them from making one image a class of all latents.

    Relativistic pairs with penalties on both gradients have no such collapse (Huang et al. 2024); latents that must
    show in the images (Zhao et al. 2021) have more of the variety within a class.
    """
    config.gan.class_conditional = True
    config.gan.loss = "relativistic_pairing"
    config.gan.terms = (
        "r1(gamma=0.5)",
        "r2(gamma=0.5)",
        "latent_consistency(generator_weight=2.0, deviation=0.2)",
    )
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, class-conditional, from a base of 2x2: three minutes on two CPU cores."""
    config = regularized(small_digits())
    config.train.num_steps = 7_000
    return config


def small_digits() -> ConfigDict:
    """The digits with the paper's loss alone, for configs that put others in its place."""
    config = mnist()
    config.data.name = "digits"
    config.train.num_steps = 6_000
    config.train.steps_per_dispatch = 10
    for network in (config.generator, config.discriminator):
        network.width = 32
        network.base_side = 2
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(small_digits())
    config.generator.width = 4
    config.discriminator.width = 4
    config.gan.latent_dim = 8
    return config
