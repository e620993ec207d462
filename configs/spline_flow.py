"""Neural spline flows of images (Durkan et al. 2019): Glow's steps with rational-quadratic splines in the couplings.

`imagenet64` is van den Oord's downsampled ImageNet (2016), whose likelihoods are not those of Chrabaszcz's (2017).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, cifar10, imagenet64."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion, "cifar10": cifar10, "imagenet64": imagenet64}
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """RQ-NSF (C), 3.38 bits/dim in the paper: 3 levels of 7 steps, 96 channels, 3 residual blocks, 4 bins."""
    config = common.flow(common.base())
    config.data.name = "cifar10"
    config.data.batch_size = 512
    config.data.flip = True
    config.train.num_steps = 100_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule = "cosine"
    config.model.name = "spline_flow.SplineFlow"
    config.model.levels = 3
    config.model.steps = 7
    config.model.width = 96
    config.model.blocks = 3
    config.model.bins = 4
    config.model.bound = 3.0
    config.model.split_prior = True
    config.model.dropout = 0.2
    return config


def imagenet64() -> ConfigDict:
    """Van den Oord's ImageNet-64, 3.82 bits/dim in the paper: 4 levels, 8 bins."""
    config = cifar10()
    config.data.name = "downsampled_imagenet/64x64"
    config.data.batch_size = 256
    config.data.flip = False
    config.train.num_steps = 200_000
    config.model.levels = 4
    config.model.bins = 8
    config.model.dropout = 0.0
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, 2 levels of 4 steps: some 20 minutes of CPU time."""
    config = digits()
    common.flow_fashion(config)
    config.train.num_steps = 1_900
    config.model.steps = 4
    config.model.width = 32
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits, by learned dequantization: minutes on two CPU cores."""
    config = common.flow_digits(cifar10())
    config.model.levels = 2
    config.model.steps = 5
    config.model.width = 48
    config.model.blocks = 1
    config.model.bins = 8
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny_flow(digits())
    config.flow.logit_alpha = 0.05
    config.model.steps = 1
    config.model.width = 4
    config.model.bins = 3
    return config
