"""WaveNet (van den Oord et al. 2016c) over the pixels of images in raster order."""

from ml_collections import ConfigDict

from configs import common, pixelcnn


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, mnist, cifar10."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion, "mnist": mnist, "cifar10": cifar10}
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """CIFAR-10 as a sequence of 3,072 levels, seen from first to last; WaveNet's paper has no images."""
    config = pixelcnn.autoregressive(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 32
    config.train.num_steps = 500_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.sample.batch_size = 100

    config.model = ConfigDict()
    config.model.name = "wavenet.WaveNet"
    config.model.features = 64
    config.model.skip_features = 256
    config.model.dilations = tuple(2**i for i in range(10)) * 3
    config.model.level_features = 0  # if positive, levels are learned vectors, as codes of a tokenizer must be
    config.model.dropout = 0.0
    return config


def mnist() -> ConfigDict:
    """28x28 handwritten digits, 256 levels: for one GPU, or a patient CPU."""
    config = cifar10()
    config.data.name = "mnist"
    config.optimizer.learning_rate = 1e-3
    config.train.num_steps = 100_000
    config.model.features = 32
    config.model.skip_features = 64
    config.model.dilations = tuple(2**i for i in range(10))
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, with PixelCNN++'s likelihood, by dilations along rows and columns: some 20 CPU minutes."""
    config = pixelcnn.fashion_training(mnist())
    config.train.num_steps = 1_000
    config.autoregressive.distribution = "logistic_mixture(mixtures=5)"
    config.model.dilations = (1, 2, 28, 1, 4, 56, 1, 2, 28, 112)
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: minutes on two CPU cores."""
    config = pixelcnn.digits_training(mnist())
    config.train.num_steps = 1_800
    config.train.sample_every_steps = 900
    config.autoregressive.class_conditional = True
    config.model.features = 64
    config.model.skip_features = 128
    config.model.dilations = (1, 2, 4, 8, 1, 7, 16, 1, 2, 9)
    config.model.level_features = 8
    config.model.dropout = 0.3
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.features = 4
    config.model.skip_features = 8
    config.model.dilations = (1, 8)
    config.model.level_features = 2
    return config
