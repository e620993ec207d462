"""PixelCNN (van den Oord et al. 2016a), and the sections that all autoregressive configs share."""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, mnist, cifar10."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion, "mnist": mnist, "cifar10": cifar10}
    return common.choose(variants, variant)


def autoregressive(config: ConfigDict) -> ConfigDict:
    """Adds the sections of method autoregressive.autoregressive."""
    config.method = "autoregressive.autoregressive"
    config.autoregressive = ConfigDict()
    config.autoregressive.distribution = "categorical"  # or "logistic_mixture(mixtures=10)"
    config.autoregressive.class_conditional = False
    config.autoregressive.label_dropout = 0.0  # probability of label dropout, for classifier-free guidance

    config.sampler = ConfigDict()
    config.sampler.temperature = 1.0
    config.sampler.top_k = config_dict.placeholder(int)  # the most probable levels, of which one is drawn
    config.sampler.top_p = 1.0  # the probability of those together, of which one is drawn
    config.sampler.guidance_scale = 1.0
    config.sampler.cached = True  # False computes everything anew for each element of an image
    return config


def digits_training(config: ConfigDict) -> ConfigDict:
    """Sets the training of the digits, of which there are few: weight decay and dropout against overfitting."""
    common.digits_training(config)
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.train.num_steps = 2_400
    config.train.sample_every_steps = 1_200
    return config


def fashion_training(config: ConfigDict) -> ConfigDict:
    """Sets the training on Fashion-MNIST, 28x28, but for the number of steps."""
    config.data.name = "fashion"
    config.data.batch_size = 32
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.b2 = 0.99
    config.ema.decay = 0.998
    config.train.sample_every_steps = 1_000
    config.train.checkpoint_every_steps = 500
    config.train.sample_num_images = 20
    return config


def cifar10() -> ConfigDict:
    """Table 1 and section 5.2 of the paper: 15 blocks, h = 128, with a 256-way softmax; for several GPUs."""
    config = autoregressive(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 16
    config.train.num_steps = 600_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.optimizer.name = "rmsprop"
    config.optimizer.b1 = 0.9
    config.optimizer.learning_rate = 1e-4
    config.sample.batch_size = 100

    config.model = ConfigDict()
    config.model.name = "pixelcnn.PixelCNN"
    config.model.hidden = 126  # 128 in the paper; a multiple of the three channels
    config.model.num_blocks = 15
    config.model.kernel_size = 3
    config.model.first_kernel_size = 7
    config.model.head_features = 1_023  # 1,024 in the paper
    config.model.level_features = 0  # if positive, levels are learned vectors, as codes of a tokenizer must be
    config.model.dropout = 0.0
    return config


def mnist() -> ConfigDict:
    """28x28 handwritten digits, 256 levels, with table 1's sizes of MNIST: 7 blocks, h = 32, a head of 32 features."""
    config = cifar10()
    config.data.name = "mnist"
    config.train.num_steps = 100_000
    config.model.hidden = 32
    config.model.num_blocks = 7
    config.model.head_features = 32
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, with PixelCNN++'s likelihood, which learns levels faster: 20 minutes of CPU time."""
    config = fashion_training(mnist())
    config.train.num_steps = 1_800
    config.optimizer.name = "adam"
    config.autoregressive.distribution = "logistic_mixture(mixtures=5)"
    config.model.num_blocks = 5
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: minutes on two CPU cores."""
    config = digits_training(mnist())
    config.autoregressive.class_conditional = True
    config.model.hidden = 48
    config.model.num_blocks = 5
    config.model.first_kernel_size = 5
    config.model.head_features = 96
    config.model.level_features = 8
    config.model.dropout = 0.3
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.autoregressive.label_dropout = 0.1
    config.sampler.guidance_scale = 1.5
    config.model.hidden = 4
    config.model.num_blocks = 1
    config.model.first_kernel_size = 3
    config.model.head_features = 8
    config.model.level_features = 2
    return config
