"""A few-step model with adversarial training of its samples (Kim et al. 2024; Sauer et al. 2023)."""

from ml_collections import ConfigDict

from configs import common, consistency, dcgan


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (a one-step consistency model, minutes on a CPU), tiny."""
    return common.choose({"digits": digits, "tiny": tiny}, variant)


def digits() -> ConfigDict:
    """The consistency model of the digits, sampled in one step, with adversarial training in the last third."""
    config = with_discriminator(consistency.digits(), dcgan.small_digits())
    config.sampler.sigmas = ()
    config.gan.weight = "piecewise(boundaries=(2_200,), values=(0.0, 3.0))"
    return config


def with_discriminator(config: ConfigDict, adversarial: ConfigDict) -> ConfigDict:
    """Puts the discriminator of another config beside the method of a config."""
    optimizer = config.optimizer
    config.optimizer = ConfigDict()
    config.optimizer.generator = optimizer
    config.optimizer.discriminator = adversarial.optimizer.discriminator
    config.discriminator = adversarial.discriminator
    config.gan = adversarial.gan
    del config.gan["latent_dim"], config.gan["class_conditional"]
    config.gan.beside = config.method
    config.gan.terms = ("r1(gamma=1.0)",)
    config.method = "gan.post_training"
    config.ema.include = "params/generator/.*"
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = with_discriminator(consistency.tiny(), dcgan.tiny())
    config.sampler.sigmas = ()
    config.discriminator = ConfigDict({"name": "mlp.Discriminator", "hidden": (4,)})
    return config
