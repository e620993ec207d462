"""Glow (Kingma and Dhariwal 2018): flows with invertible 1x1 convolutions, by the settings of the official code.

`imagenet32` and `imagenet64` are van den Oord's downsampled ImageNet (2016), whose likelihoods are not those of
Chrabaszcz's (2017).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, cifar10, imagenet32, imagenet64."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "cifar10": cifar10,
        "imagenet32": imagenet32,
        "imagenet64": imagenet64,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """The paper's 3.35 bits/dim: K = 32, L = 3, affine couplings, a learned prior; 44,603,604 parameters."""
    config = common.flow(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 512  # 64 on each of 8 devices
    config.data.flip = True
    config.train.num_steps = 200_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    config.optimizer.learning_rate = 1e-3  # Adamax in the paper's code, which has no counterpart here
    config.optimizer.warmup_steps = 1_000  # 10 epochs
    config.model.name = "glow.Glow"
    config.model.levels = 3
    config.model.steps = 32
    config.model.width = 512
    config.model.lu = False
    config.model.learn_prior = True
    config.model.dropout = 0.0
    config.model.plain = False  # the port to PyTorch differs in its convolutions
    config.model.scan_layers = True
    config.model.remat = True
    return config


def imagenet32() -> ConfigDict:
    """Van den Oord's ImageNet-32, 4.09 bits/dim in the paper: K = 48, L = 3; 66,861,588 parameters."""
    config = cifar10()
    config.data.name = "downsampled_imagenet/32x32"
    config.data.flip = False
    config.train.num_steps = 500_000
    config.optimizer.warmup_steps = 2_500  # an epoch
    config.model.steps = 48
    return config


def imagenet64() -> ConfigDict:
    """Van den Oord's ImageNet-64, 3.81 bits/dim in the paper: K = 48, L = 4; 112,377,540 parameters."""
    config = imagenet32()
    config.data.name = "downsampled_imagenet/64x64"
    config.data.batch_size = 128
    config.optimizer.warmup_steps = 10_000
    config.model.levels = 4
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, K = 6, L = 2: some 20 minutes of CPU time."""
    config = digits()
    common.flow_fashion(config)
    config.train.num_steps = 2_400
    config.model.steps = 6
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits, by learned dequantization: minutes on two CPU cores."""
    config = common.flow_digits(cifar10())
    config.model.scan_layers = False
    config.model.remat = False
    config.model.levels = 2
    config.model.steps = 8
    config.model.width = 64
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny_flow(digits())
    config.model.steps = 1
    config.model.width = 4
    config.model.lu = True
    return config
