"""Energy-based models: `cifar10` is the setting of Du and Mordatch 2019, the others follow it on smaller images."""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, digits_denoising (minutes on a CPU), tiny, fashion, cifar10, cifar10_cond."""
    variants = {
        "digits": digits,
        "digits_denoising": digits_denoising,
        "tiny": tiny,
        "fashion": fashion,
        "cifar10": cifar10,
        "cifar10_cond": cifar10_cond,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """CIFAR-10, unconditional: 60 steps of 10,000 chains, of which 5% start again; Adam at 3e-4 with b1 0.

    Steps, noise and the largest gradient of the official code are for pixels in [0, 1]; here they lie in [-1, 1]. The
    activation is smooth, and the paper has no moving average.
    """
    config = common.base()
    config.method = "energy.energy_based"
    config.data.name = "cifar10"
    config.data.batch_size = 128
    config.train.num_steps = 100_000
    config.train.sample_every_steps = 5_000
    config.train.checkpoint_every_steps = 5_000
    config.optimizer.learning_rate = 3e-4
    config.optimizer.b1 = 0.0
    config.ema.decay = 0.0
    config.ema.include = "params/.*"  # chains are never averaged
    config.evaluate.num_samples = 50_000

    config.energy = ConfigDict()
    config.energy.objective = "contrastive"  # or "denoising": denoising score matching
    config.energy.class_conditional = False
    config.energy.alpha = 1.0  # weight of squared energies
    config.energy.data_noise = 0.0
    config.energy.num_chains = 10_000
    config.energy.restart_probability = 0.05
    config.energy.num_steps = 60  # of a chain in an update
    config.energy.sigma_max = 1.0  # this and the next two: noise levels of "denoising"
    config.energy.sigma_min = 0.01
    config.energy.num_levels = 10

    config.langevin = ConfigDict()  # of chains and of samples
    config.langevin.step_size = 40.0
    config.langevin.temperature = 1.25e-6  # noise of deviation 0.01
    config.langevin.max_gradient = config_dict.placeholder(float)  # of an element; None for no limit
    config.langevin.max_gradient = 0.005
    config.langevin.clip = True  # to [-1, 1], in "contrastive"

    config.sampler = ConfigDict()
    config.sampler.num_steps = 60 * 20  # as many as a chain lives on average
    config.sampler.denoise = False  # remove the noise of the data, or of the last level, in the end

    config.model = ConfigDict()
    config.model.name = "residual_energy.ResidualEnergy"
    config.model.channels = (128, 256, 512)  # of each stage
    config.model.num_blocks = 3  # of a stage
    config.model.num_downsampling = 3  # stages, from the first on, that halve height and width
    config.model.activation = "swish"  # or "gelu", "softplus"
    config.model.pooling = "sum"  # or "mean"
    config.model.spectral_norm = True
    return config


def cifar10_cond() -> ConfigDict:
    """CIFAR-10, class-conditional; the official code has a gain and a bias of every layer for each class."""
    config = cifar10()
    config.energy.class_conditional = True
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, class-conditional, with the settings of the digits; untimed on a CPU."""
    config = _small(cifar10())
    config.data.name = "fashion"
    config.train.num_steps = 4_000
    config.model.base_side = 7
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits, class-conditional: 7 minutes of CPU time."""
    config = _small(cifar10())
    config.data.name = "digits"
    config.train.num_steps = 6_000
    return config


def digits_denoising() -> ConfigDict:
    """The digits by denoising score matching, sampled by annealed Langevin dynamics: 3 minutes of CPU time.

    At a temperature of 1 samples vary more, and have more noise.
    """
    config = digits()
    config.train.num_steps = 10_000
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.b1 = 0.9
    config.energy = ConfigDict()
    config.energy.objective = "denoising"
    config.energy.class_conditional = True
    config.energy.sigma_max = 2.0
    config.energy.sigma_min = 0.05
    config.energy.num_levels = 12
    config.langevin.step_size = 0.05
    config.langevin.temperature = 0.7
    config.sampler.num_steps = 20  # at each noise level
    config.model.hidden = 512
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.energy.num_chains = 20
    config.energy.restart_probability = 0.3
    config.energy.num_steps = 2
    config.sampler.num_steps = 3
    config.model.width = 4
    config.model.hidden = 8
    return config


def _small(config: ConfigDict) -> ConfigDict:
    """Sets short training of a small class-conditional energy, whose chains are at the temperature of the data.

    Steps are as long as the noise of the data allows; the noise is removed from samples in the end.
    """
    config.data.batch_size = 64
    config.train.steps_per_dispatch = 10
    config.train.sample_every_steps = 1_000
    config.train.checkpoint_every_steps = 500
    config.evaluate.num_samples = 1_000
    config.ema.decay = 0.998
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule = "cosine"
    config.energy.class_conditional = True
    config.energy.alpha = 1e-4
    config.energy.data_noise = 0.15
    config.energy.num_chains = 1_024
    config.energy.num_steps = 20
    config.langevin.step_size = 5e-3
    config.langevin.temperature = 1.0
    config.langevin.max_gradient = None
    config.langevin.clip = False
    config.sampler.num_steps = 300
    config.sampler.denoise = True
    config.model = ConfigDict()
    config.model.name = "conv_energy.ConvEnergy"
    config.model.width = 64
    config.model.max_width = 512
    config.model.hidden = 256
    config.model.base_side = 2
    return config
