"""Decoder-only transformers over pixels, or over codes of a tokenizer (LlamaGen, Sun et al. 2024)."""

import functools

from ml_collections import ConfigDict

from configs import common, pixelcnn


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, mnist, cifar10, llamagen_b, llamagen_l, llamagen_xl."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion, "mnist": mnist, "cifar10": cifar10}
    variants |= {f"llamagen_{size}": functools.partial(llamagen, size) for size in LLAMAGEN}
    return common.choose(variants, variant)


# Depth, width and heads of LlamaGen: Sun et al. 2024, table 1.
LLAMAGEN = {"b": (12, 768, 12), "l": (24, 1024, 16), "xl": (36, 1280, 20)}


def llamagen(size: str) -> ConfigDict:
    """On 16x16 codes of 16,384, ImageNet at 256x256: with B 110.9M, L 342.9M, XL 774.7M parameters; 300 epochs."""
    config = pixelcnn.autoregressive(common.base())
    config.model = ConfigDict()
    config.model.name = "pixel_transformer.PixelTransformer"
    config.model.depth, config.model.hidden_size, config.model.num_heads = LLAMAGEN[size]
    config.model.multiple_of = 256
    config.model.dropout = 0.1
    config.model.remat = size != "b"
    config.data.name = "latents"
    config.data.batch_size = 256
    config.train.num_steps = 1_500_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.train.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.autoregressive.class_conditional = True
    config.autoregressive.label_dropout = 0.1
    config.sampler.guidance_scale = 2.0
    config.sample.batch_size = 64
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10 as a sequence of 3,072 levels; for several GPUs."""
    config = llamagen("b")
    config.data.name = "cifar10"
    config.data.batch_size = 64
    config.autoregressive.label_dropout = 0.0
    config.sampler.guidance_scale = 1.0
    config.model.depth, config.model.hidden_size, config.model.num_heads = 16, 256, 8
    config.model.remat = True
    config.train.num_steps = 500_000
    config.optimizer.learning_rate = 3e-4
    return config


def mnist() -> ConfigDict:
    """28x28 handwritten digits, 256 levels: for one GPU."""
    config = cifar10()
    config.data.name = "mnist"
    config.model.depth, config.model.hidden_size, config.model.num_heads = 8, 128, 4
    config.model.multiple_of = 32
    config.model.remat = False
    config.train.num_steps = 100_000
    config.train.compute_dtype = "float32"
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, with PixelCNN++'s likelihood, whose elements are pixels: 20 minutes of CPU time."""
    config = pixelcnn.fashion_training(mnist())
    config.train.num_steps = 740
    config.autoregressive.distribution = "logistic_mixture(mixtures=5)"
    config.data.batch_size = 8  # of 784 elements each
    config.model.depth, config.model.hidden_size, config.model.num_heads = 3, 64, 2
    config.model.dropout = 0.0
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: minutes on two CPU cores."""
    config = pixelcnn.digits_training(mnist())
    config.train.num_steps = 1_800
    config.train.sample_every_steps = 900
    config.optimizer.clip_norm = 1.0
    config.model.depth, config.model.hidden_size, config.model.num_heads = 4, 64, 4
    config.model.dropout = 0.2
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.depth, config.model.hidden_size, config.model.num_heads = 1, 8, 2
    config.model.multiple_of = 4
    return config
