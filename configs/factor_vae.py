"""FactorVAE (Kim and Mnih 2018): a VAE with a discriminator that estimates the total correlation of its latents."""

from ml_collections import ConfigDict

from configs import common, vae


def get_config(variant: str = "shapes") -> ConfigDict:
    """Variants: shapes, digits (minutes on a CPU), tiny."""
    variants = {"shapes": shapes, "digits": digits, "tiny": tiny}
    return common.choose(variants, variant)


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, with the paper's weight of 6 to 40 at its lower end."""
    return factor(vae.shapes_disentangled(), weight=6.0, hidden=(1000,) * 6)


def digits() -> ConfigDict:
    """scikit-learn's 8x8 digits: two minutes on two CPU cores."""
    config = vae.digits()
    config.vae.class_conditional = False
    return factor(config, weight=3.0, hidden=(256, 256))


def factor(config: ConfigDict, *, weight: float, hidden: tuple[int, ...]) -> ConfigDict:
    """Adds the discriminator to a config of method vae.vae."""
    config.method = "vae.factor_vae"
    config.ema.include = "(params/generator|model_state)/.*"
    config.factor = ConfigDict()
    config.factor.weight = common.scheduled(weight)
    config.factor.hidden = hidden
    autoencoder, discriminator = config.optimizer, common.optimizer()
    discriminator.learning_rate = 1e-4
    discriminator.b1 = 0.5
    discriminator.b2 = 0.9
    config.optimizer = ConfigDict({"generator": autoencoder, "discriminator": discriminator})
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    return factor(vae.tiny(), weight=2.0, hidden=(8, 8))
