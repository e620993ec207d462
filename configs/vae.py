"""Variational autoencoders (Kingma & Welling 2014)."""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants, of which those of digits take minutes on a CPU.

    digits, tiny, fashion, shapes, mnist, celeba; digits_likelihood, digits_iwae, digits_vamp, digits_info;
    fashion_likelihood; shapes_beta, shapes_capacity, shapes_tc.
    """
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "shapes": shapes,
        "mnist": mnist,
        "celeba": celeba,
        "digits_likelihood": digits_likelihood,
        "digits_iwae": digits_iwae,
        "digits_vamp": digits_vamp,
        "digits_info": digits_info,
        "fashion_likelihood": fashion_likelihood,
        "shapes_beta": shapes_beta,
        "shapes_capacity": shapes_capacity,
        "shapes_tc": shapes_tc,
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
    config.vae.likelihood = "bernoulli"  # or gaussian, optimal_gaussian, logistic, logistic_mixture
    config.vae.sigma = 0.2  # of the Gaussian, for pixels in [-1, 1]
    config.vae.learn_sigma = True  # starting from sigma
    config.vae.mixtures = 5  # of likelihood "logistic_mixture"
    config.vae.levels = config_dict.placeholder(int)  # to which images are rounded; None: those of the data
    config.vae.prior = "standard_normal"  # or "vamp(components=100)"
    config.vae.beta = common.scheduled(1.0)  # or "linear(start=0.0, end=1.0, steps=2_000)"
    config.vae.free_bits = 0.0  # nats of each latent dimension
    config.vae.capacity = config_dict.placeholder(object)  # nats, or "linear(start=0.0, end=25.0, steps=100_000)"
    config.vae.terms = ()  # such as "mmd(weight=10.0)"
    config.vae.importance_samples = 1  # latents an image in the bound that is maximized
    config.vae.evaluation_samples = 1  # latents an image in likelihoods
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


def digits_likelihood() -> ConfigDict:
    """Digits for likelihood: a mixture of logistics for each pixel, and a bound by 64 latents to evaluate."""
    config = digits()
    config.train.num_steps = 2_000  # more of them fit the training images only
    config.optimizer.weight_decay = 0.1
    config.vae.likelihood = "logistic_mixture"
    config.vae.sigma = 0.2
    config.vae.learn_sigma = True
    config.vae.class_conditional = False
    config.vae.evaluation_samples = 64
    return config


def digits_iwae() -> ConfigDict:
    """Digits by the importance-weighted bound of 8 latents (Burda et al. 2016)."""
    config = digits_likelihood()
    config.vae.importance_samples = 8
    return config


def digits_vamp() -> ConfigDict:
    """Digits with a prior of 100 pseudo-inputs (Tomczak and Welling 2018)."""
    config = digits_likelihood()
    config.vae.prior = "vamp(components=100)"
    return config


def digits_info() -> ConfigDict:
    """Digits by InfoVAE with alpha 1 (Zhao et al. 2019): no divergence, but a discrepancy of all latents."""
    config = digits()
    config.vae.class_conditional = False
    config.vae.beta = 0.0
    config.vae.terms = ("mmd(weight=100.0)",)
    return config


def fashion_likelihood() -> ConfigDict:
    """Fashion-MNIST for likelihood, by a mixture of logistics for each pixel: 20 minutes of CPU time.

    It is evaluated by the bound of 64 latents.
    """
    config = mnist()
    config.data.name = "fashion"
    config.train.num_steps = 3_200
    config.sample.batch_size = 50  # of 64 latents each
    config.vae.latent_dim = 32
    config.vae.likelihood = "logistic_mixture"
    config.vae.evaluation_samples = 64
    return config


def shapes_disentangled() -> ConfigDict:
    """Returns what the variants of shapes that aim at one factor a dimension share: 10 dimensions, a fixed sigma."""
    config = shapes()
    config.train.num_steps = 20_000
    config.vae.latent_dim = 10
    config.vae.sigma = 0.1
    config.vae.learn_sigma = False
    return config


def shapes_beta() -> ConfigDict:
    """Shapes with a beta of 8 (Higgins et al. 2017)."""
    config = shapes_disentangled()
    config.vae.beta = "linear(start=0.0, end=8.0, steps=5_000)"
    return config


def shapes_capacity() -> ConfigDict:
    """Shapes with a capacity that grows to 25 nats (Burgess et al. 2018)."""
    config = shapes_disentangled()
    config.vae.beta = 100.0
    config.vae.capacity = "linear(start=0.0, end=25.0, steps=15_000)"
    return config


def shapes_tc() -> ConfigDict:
    """Shapes by beta-TCVAE with a beta of 8 (Chen et al. 2018)."""
    config = shapes_disentangled()
    config.vae.terms = ("total_correlation(weight=7.0, dataset_size=1_000_000)",)
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.model.width = 4
    config.model.hidden = 8
    config.vae.latent_dim = 4
    config.vae.sigma = 1.0
    return config
