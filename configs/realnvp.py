"""RealNVP (Dinh et al. 2017): affine couplings at several scales, with masks of pixels and of channels.

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
    """The paper's 3.49 bits/dim, but for its batch normalization: 2 scales, 64 channels and 8 residual blocks first."""
    config = common.flow(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 64
    config.data.flip = True
    config.train.num_steps = 400_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 10_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 1_000
    config.optimizer.weight_decay = 5e-5  # of weights, in the paper of their lengths
    config.optimizer.clip_norm = 1.0
    config.flow.logit_alpha = 0.05
    config.model.name = "realnvp.RealNVP"
    config.model.levels = 2
    config.model.couplings = 3  # of either mask in a level
    config.model.width = 64
    config.model.blocks = 8
    config.model.actnorm = True  # in the place of batch normalization
    config.model.dropout = 0.0
    return config


def imagenet32() -> ConfigDict:
    """Van den Oord's ImageNet-32, 4.28 bits/dim in the paper: 32 channels and 4 residual blocks at first."""
    config = cifar10()
    config.data.name = "downsampled_imagenet/32x32"
    config.data.flip = False
    config.train.num_steps = 1_000_000
    config.model.levels = 4
    config.model.width = 32
    config.model.blocks = 4
    return config


def imagenet64() -> ConfigDict:
    """Van den Oord's ImageNet-64, 3.98 bits/dim in the paper: 5 scales, 32 channels and 2 residual blocks at first."""
    config = imagenet32()
    config.data.name = "downsampled_imagenet/64x64"
    config.model.levels = 5
    config.model.blocks = 2
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, of 2 scales: some 20 minutes of CPU time."""
    config = digits()
    common.flow_fashion(config)
    config.train.num_steps = 1_150
    config.model.width = 16
    config.model.blocks = 2
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits, by learned dequantization: minutes on two CPU cores."""
    config = common.flow_digits(cifar10())
    config.train.num_steps = 2_400
    config.model.levels = 2
    config.model.width = 32
    config.model.blocks = 2
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny_flow(digits())
    config.flow.dequantization = "uniform"
    config.flow.dequantizer_width = 32
    config.flow.dequantizer_couplings = 4
    config.flow.num_draws = 2
    config.model.couplings = 1
    config.model.width = 4
    config.model.blocks = 1
    return config
