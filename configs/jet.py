"""Jet (Kolesnikov et al. 2024): couplings of patches by vision transformers.

`imagenet64` is van den Oord's downsampled ImageNet (2016), whose likelihoods are not those of Chrabaszcz's (2017).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, cifar10, imagenet64."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion, "cifar10": cifar10, "imagenet64": imagenet64}
    return common.choose(variants, variant)


def imagenet64() -> ConfigDict:
    """Van den Oord's ImageNet-64, 3.66 bits/dim in the paper: 64 couplings of 5 layers, 200 epochs, batch 1,024."""
    config = common.flow(common.base())
    config.data.name = "downsampled_imagenet/64x64"
    config.data.batch_size = 1_024
    config.train.num_steps = 250_000
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 10_000
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 25_000
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 1e-5
    config.optimizer.clip_norm = 1.0
    config.model.name = "jet.Jet"
    config.model.patch_size = 4
    config.model.couplings = 64
    config.model.channel_couplings = 4  # between two couplings that split the patches
    config.model.width = 512
    config.model.depth = 5
    config.model.num_heads = 8
    config.model.dropout = 0.0
    return config


def cifar10() -> ConfigDict:
    """The same on CIFAR-10, which the paper trains longer, and regularizes by pretraining."""
    config = imagenet64()
    config.data.name = "cifar10"
    config.data.flip = True
    config.train.num_steps = 100_000
    config.optimizer.warmup_steps = 10_000
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, in patches of 14x14: some 20 minutes of CPU time.

    A coupling at most doubles a value, so it takes many to spread 256 levels, and a few large patches to pay for them.
    """
    config = digits()
    common.flow_fashion(config)
    config.train.num_steps = 4_800
    config.model.patch_size = 14
    config.model.couplings = 16
    config.model.width = 96
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits, by learned dequantization: minutes on two CPU cores."""
    config = common.flow_digits(imagenet64())
    config.train.num_steps = 2_500
    config.train.compute_dtype = "float32"
    config.model.patch_size = 2
    config.model.couplings = 10
    config.model.width = 64
    config.model.depth = 1
    config.model.num_heads = 4
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny_flow(digits())
    config.model.couplings = 2
    config.model.channel_couplings = 1
    config.model.width = 8
    config.model.num_heads = 2
    return config
