"""Gated PixelCNN (van den Oord et al. 2016b)."""

from ml_collections import ConfigDict

from configs import common, pixelcnn


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, mnist, cifar10, imagenet32, imagenet64."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "mnist": mnist,
        "cifar10": cifar10,
        "imagenet32": imagenet32,
        "imagenet64": imagenet64,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """CIFAR-10 at the widths of PixelCNN; for several GPUs."""
    config = pixelcnn.cifar10()
    config.model = ConfigDict()
    config.model.name = "gated_pixelcnn.GatedPixelCNN"
    config.model.features = 126  # a multiple of the three channels
    config.model.num_layers = 14
    config.model.kernel_size = 5
    config.model.first_kernel_size = 7
    config.model.head_features = 1_023
    config.model.level_features = 0  # if positive, levels are learned vectors, as codes of a tokenizer must be
    config.model.dropout = 0.0
    return config


def imagenet32() -> ConfigDict:
    """Section 3.1, van den Oord's ImageNet at 32x32 (not Chrabaszcz's): 20 layers of 384 features, 5x5 kernels."""
    config = cifar10()
    config.data.name = "downsampled_imagenet/32x32"
    config.data.batch_size = 128
    config.train.num_steps = 200_000
    config.model.num_layers = 19
    config.model.features = 384
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
    config.model.features = 32
    config.model.num_layers = 7
    config.model.kernel_size = 3
    config.model.head_features = 32
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, with PixelCNN++'s likelihood: 20 minutes of CPU time."""
    config = pixelcnn.fashion_training(mnist())
    config.train.num_steps = 950
    config.autoregressive.distribution = "logistic_mixture(mixtures=5)"
    config.model.num_layers = 5
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: minutes on two CPU cores."""
    config = pixelcnn.digits_training(mnist())
    config.autoregressive.class_conditional = True
    config.model.features = 48
    config.model.num_layers = 4
    config.model.first_kernel_size = 5
    config.model.head_features = 96
    config.model.level_features = 8
    config.model.dropout = 0.3
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.features = 4
    config.model.num_layers = 1
    config.model.first_kernel_size = 3
    config.model.head_features = 8
    config.model.level_features = 2
    return config
