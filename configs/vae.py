"""Variational autoencoders (Kingma & Welling 2014)."""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (a minute on a CPU), tiny, fashion, shapes, mnist, celeba."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "mnist": mnist,
        "celeba": celeba,
    }
    return common.choose(variants, variant)


def mnist() -> ConfigDict:
    """28x28 handwritten digits, as probabilities of binary pixels: minutes on a CPU."""
    config = common.base()
    config.method = "vae.vae"
    config.data.name = "mnist"
    config.data.batch_size = 128
    config.train.num_steps = 25_000
    config.train.steps_per_dispatch = 10
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.ema.decay = 0.999

    config.model = ConfigDict()  # of both networks
    config.model.width = 32
    config.model.max_width = 512
    config.model.hidden = 256
    config.model.base_side = 4

    config.vae = ConfigDict()
    config.vae.latent_dim = 16
    config.vae.likelihood = "bernoulli"  # or "gaussian"
    config.vae.sigma = 0.2  # of the Gaussian, for pixels in [-1, 1]
    config.vae.learn_sigma = True  # starting from sigma
    config.vae.beta = 1.0
    config.vae.class_conditional = False
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, with a Gaussian for its grays: 5 minutes of CPU time."""
    config = mnist()
    config.data.name = "fashion"
    config.train.num_steps = 2_400
    config.vae.likelihood = "gaussian"
    config.vae.class_conditional = True
    return config


def celeba() -> ConfigDict:
    """Faces at 64x64, with a learned sigma (Rybkin et al. 2021): for one GPU."""
    config = mnist()
    config.data.name = "celeb_a"
    config.data.image_size = 64
    config.data.flip = True
    config.train.num_steps = 150_000
    config.train.steps_per_dispatch = 1
    config.optimizer.learning_rate = 3e-4
    config.optimizer.clip_norm = 1_000.0
    config.ema.decay = 0.9999
    config.model.width = 64
    config.vae.latent_dim = 128
    config.vae.likelihood = "gaussian"
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download."""
    config = mnist()
    config.data.name = "shapes"
    config.vae.likelihood = "gaussian"
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: a minute on two CPU cores."""
    config = mnist()
    config.data.name = "digits"
    config.train.num_steps = 6_000
    config.train.steps_per_dispatch = 10
    config.model.base_side = 2
    config.vae.likelihood = "gaussian"
    # A learned sigma falls to 0.08, far below what the few images can teach; the latents then leave the prior.
    config.vae.sigma = 0.25
    config.vae.learn_sigma = False
    config.vae.class_conditional = True
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.model.width = 4
    config.model.hidden = 8
    config.vae.latent_dim = 4
    config.vae.sigma = 1.0
    return config
