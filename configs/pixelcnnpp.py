"""PixelCNN++ (Salimans et al. 2017)."""

from ml_collections import ConfigDict

from configs import common, pixelcnn


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, mnist, cifar10, cifar10_cond, imagenet32, imagenet64."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "mnist": mnist,
        "cifar10": cifar10,
        "cifar10_cond": cifar10_cond,
        "imagenet32": imagenet32,
        "imagenet64": imagenet64,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """Section 3 and the official code: 53,659,080 parameters, batch 8 x 16, a rate that decays by 5e-6 a step."""
    config = pixelcnn.autoregressive(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 128
    config.train.num_steps = 400_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.optimizer.learning_rate = "exponential(start=1e-3, end=1.35335e-4, steps=400_000)"
    config.optimizer.b1 = 0.95
    config.optimizer.b2 = 0.9995
    config.ema.decay = 0.9995
    config.autoregressive.distribution = "logistic_mixture(mixtures=10)"
    config.sample.batch_size = 100

    config.model = ConfigDict()
    config.model.name = "pixelcnnpp.PixelCNNpp"
    config.model.filters = 160
    config.model.num_blocks = 5
    config.model.resolutions = 3
    config.model.dropout = 0.5
    config.model.transposed_norm = "output"  # "input" as in the PyTorch port, whose weights can be imported
    return config


def cifar10_cond() -> ConfigDict:
    """Section 3.2: class-conditional on CIFAR-10."""
    config = cifar10()
    config.autoregressive.class_conditional = True
    return config


def imagenet32() -> ConfigDict:
    """The network of CIFAR-10 on van den Oord's ImageNet at 32x32 (not Chrabaszcz's), without dropout."""
    config = cifar10()
    config.data.name = "downsampled_imagenet/32x32"
    config.model.dropout = 0.0
    return config


def imagenet64() -> ConfigDict:
    """As imagenet32, van den Oord's ImageNet at 64x64 (not Chrabaszcz's)."""
    config = imagenet32()
    config.data.name = "downsampled_imagenet/64x64"
    return config


def mnist() -> ConfigDict:
    """28x28 handwritten digits, 256 levels: for one GPU, or a patient CPU."""
    config = cifar10()
    config.data.name = "mnist"
    config.optimizer = common.optimizer()
    config.optimizer.learning_rate = 1e-3
    config.train.num_steps = 100_000
    config.model.filters = 32
    config.model.num_blocks = 2
    config.model.dropout = 0.2
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, five mixtures: 20 minutes of CPU time."""
    config = pixelcnn.fashion_training(mnist())
    config.train.num_steps = 830
    config.autoregressive.distribution = "logistic_mixture(mixtures=5)"
    config.model.filters = 24
    config.model.num_blocks = 1
    config.model.dropout = 0.0
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits, whose 17 levels are classes: minutes on two CPU cores."""
    config = pixelcnn.digits_training(mnist())
    config.train.num_steps = 1_500
    config.train.sample_every_steps = 500
    config.autoregressive.distribution = "categorical"
    config.autoregressive.class_conditional = True
    config.model.filters = 40
    config.model.num_blocks = 1
    config.model.dropout = 0.4
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.autoregressive.distribution = "logistic_mixture(mixtures=2)"
    config.model.filters = 4
    config.model.num_blocks = 1
    config.model.resolutions = 2
    return config
