"""SiT (Ma et al. 2024): DiT's transformers, trained by flow matching on the linear path."""

import functools

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, shapes, jit_b16, jit_l16, jit_h16, and s2, s4, s8, b2 ... xl8: ImageNet-256 latents."""
    variants = {"digits": digits, "tiny": tiny, "shapes": shapes}
    for size in networks.TRANSFORMERS:
        variants |= {f"{size}{patch}": functools.partial(imagenet256, size, patch) for patch in (2, 4, 8)}
    variants |= {f"jit_{size}16": functools.partial(jit, size) for size in JIT}
    return common.choose(variants, variant)


# Depth, width, heads, rank of the patch embedding, block at which class tokens join, dropout: Li and He 2025.
JIT = {
    "b": (12, 768, 12, 128, 4, 0.0),
    "l": (24, 1024, 16, 128, 8, 0.0),
    "h": (32, 1280, 16, 256, 10, 0.2),
}


def imagenet256(size: str, patch_size: int) -> ConfigDict:
    """On 32x32x4 latents, batch 256, 7M steps."""
    return sit(common.transformer_on_latents(common.base(), size, patch_size))


def sit(config: ConfigDict) -> ConfigDict:
    """The linear path and its velocity."""
    common.diffusion(config)
    config.diffusion.path = "linear"
    config.diffusion.parameterization = "velocity"
    config.diffusion.schedule = "flow"
    config.diffusion.noise_label = "flow_time(scale=1.0)"
    config.diffusion.class_conditional = True
    config.sampler.name = "heun(path='flow')"
    config.sampler.levels = "uniform_time"
    config.sampler.num_steps = 125
    config.sampler.clip = False
    return config


def jit(size: str) -> ConfigDict:
    """JiT: ImageNet at 256x256 in pixels, the clean image predicted, the error that of the velocity.

    The weighting cuts t off at 0.05, as the official code does. That also cuts velocities off in sampling, so its last
    steps go only a part of the way to the estimate; ours go all of it.
    """
    depth, width, heads, bottleneck, context_start, dropout = JIT[size]
    config = sit(common.base())
    config.data.name = "imagenet2012"
    config.data.image_size = 256
    config.data.batch_size = 1_024
    config.data.flip = True
    config.train.num_steps = 750_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.train.compute_dtype = "bfloat16"
    config.optimizer.warmup_steps = 6_250
    config.optimizer.b2 = 0.95
    config.sample.batch_size = 64
    config.model = ConfigDict()
    config.model.name = "just_image_transformer.JiT"
    config.model.patch_size = 16
    config.model.hidden_size = width
    config.model.depth = depth
    config.model.num_heads = heads
    config.model.bottleneck = bottleneck
    config.model.context_start = context_start
    config.model.dropout = dropout
    config.diffusion.parameterization = "x0"
    config.diffusion.weighting = "velocity"
    config.diffusion.times = "logit_normal(mean=0.8, std=0.8)"
    config.sampler.num_steps = 50
    config.sampler.clip = False
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the pixels of the procedural 32x32 shapes."""
    config = common.shapes(sit(common.base()))
    config.model = networks.transformer("s", 4)
    config.sampler.clip = True
    config.sampler.num_steps = 25
    return config


def digits() -> ConfigDict:
    """Class-conditional on the pixels of the 8x8 digits."""
    config = common.digits(sit(common.base()))
    config.optimizer.learning_rate = 1e-3
    config.model = networks.digits_transformer()
    config.sampler.num_steps = 10
    config.sampler.clip = True
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.hidden_size = 16
    config.model.depth = 2
    config.model.num_heads = 2
    config.sampler.num_steps = 2
    return config
