"""TarFlow (Zhai et al. 2024): autoregressive flows over patches by transformers; and STARFlow's layout of them.

`imagenet64_cond` is ImageNet with its classes, resized; the others are van den Oord's downsampled ImageNet (2016),
which has none. Likelihoods of either, and of Chrabaszcz's (2017), are not comparable.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, fashion, imagenet64, imagenet64_likelihood, imagenet64_cond, imagenet64_patch4."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "imagenet64": imagenet64,
        "imagenet64_likelihood": imagenet64_likelihood,
        "imagenet64_cond": imagenet64_cond,
        "imagenet64_patch4": imagenet64_patch4,
    }
    return common.choose(variants, variant)


def imagenet64() -> ConfigDict:
    """Van den Oord's ImageNet-64 for samples, 2-768-8-8: 460,142,784 parameters, noise of deviation 0.05."""
    config = common.flow(common.base())
    config.data.name = "downsampled_imagenet/64x64"
    config.data.batch_size = 256
    config.train.num_steps = 1_000_000  # 200 epochs
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 5_000
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 1e-4
    config.ema.decay = 0.0  # the paper has no average
    config.flow.dequantization = "gaussian"
    config.flow.noise_std = 0.05
    config.model.name = "tarflow.TarFlow"
    config.model.patch_size = 2
    config.model.width = 768
    config.model.depths = (8,) * 8  # layers of each block, from the images to the latents
    config.model.head_dim = 64
    config.model.dropout = 0.0
    config.sample.batch_size = 64
    return config


def imagenet64_likelihood() -> ConfigDict:
    """Van den Oord's ImageNet-64, 2.99 bits/dim in the paper, with uniform noise, in float32: 100 epochs."""
    config = imagenet64()
    config.train.num_steps = 500_000
    config.train.compute_dtype = "float32"
    config.flow.dequantization = "uniform"
    return config


def imagenet64_cond() -> ConfigDict:
    """ImageNet at 64x64 with its classes, 2-768-8-8: 466,286,784 parameters, sampled with guidance."""
    config = imagenet64()
    config.data.name = "imagenet2012"
    config.data.image_size = 64
    config.data.flip = True
    config.flow.class_conditional = True
    config.flow.label_dropout = 0.1
    config.sampler.guidance_scale = 3.3  # the weight of the official command, 2.3, plus 1
    return config


def imagenet64_patch4() -> ConfigDict:
    """Van den Oord's ImageNet-64, 4-1024-8-8: 809,444,096 parameters."""
    config = imagenet64()
    config.model.patch_size = 4
    config.model.width = 1024
    return config


def fashion() -> ConfigDict:
    """Class-conditional on Fashion-MNIST, 28x28, in patches of 4x4: some 20 minutes of CPU time."""
    config = digits()
    common.flow_fashion(config)
    config.train.num_steps = 1_850
    config.model.patch_size = 4
    config.model.width = 96
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits, by learned dequantization, one deep block and three shallow ones.

    The deep block is the last one before the latents, as in STARFlow (Gu et al. 2025); minutes on two cores.
    """
    config = common.flow_digits(imagenet64())
    config.train.compute_dtype = "float32"
    config.flow.noise_std = 0.05
    config.flow.label_dropout = 0.1
    config.model.patch_size = 2
    config.model.width = 64
    config.model.depths = (1, 1, 1, 4)
    config.model.head_dim = 16
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny_flow(digits())
    config.flow.dequantization = "gaussian"
    config.flow.noise_std = 0.2
    config.flow.dequantizer_width = 32
    config.flow.dequantizer_couplings = 4
    config.model.patch_size = 4
    config.model.width = 16
    config.model.depths = (1, 1)
    config.model.head_dim = 8
    config.sampler.guidance_scale = 1.5
    return config
