"""DiT (Peebles and Xie 2023): transformers on latents, with improved DDPM's process."""

import functools

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, shapes, and s2, s4, s8, b2 ... xl8: ImageNet-256 latents at sizes S, B, L and XL."""
    variants = {"digits": digits, "tiny": tiny, "shapes": shapes}
    for size in networks.TRANSFORMERS:
        variants |= {f"{size}{patch}": functools.partial(imagenet256, size, patch) for patch in (2, 4, 8)}
    return common.choose(variants, variant)


def imagenet256(size: str, patch_size: int) -> ConfigDict:
    """On 32x32x4 latents, batch 256, 7M steps: with patch 2 S 32.9M, B 130.3M, L 457.8M, XL 674.8M parameters."""
    return dit(common.transformer_on_latents(common.base(), size, patch_size))


def dit(config: ConfigDict) -> ConfigDict:
    """Section 4: the linear schedule, a learned variance, the noise predicted."""
    common.diffusion(config)
    config.diffusion.class_conditional = True
    config.diffusion.learned_variance = True
    config.sampler.name = "ancestral_learned"
    config.sampler.levels = "timesteps(spacing='linspace')"
    config.sampler.num_steps = 250
    config.sampler.clip = False
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the pixels of the procedural 32x32 shapes."""
    config = common.shapes(dit(common.base()))
    config.model = networks.transformer("s", 4)
    config.sampler.clip = True
    return config


def digits() -> ConfigDict:
    """Class-conditional on the pixels of the 8x8 digits."""
    config = common.digits(dit(common.base()))
    config.optimizer.learning_rate = 1e-3
    config.model = networks.digits_transformer()
    config.diffusion.schedule = "cosine"
    config.sampler.num_steps = 50
    config.sampler.clip = True
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.hidden_size = 16
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.scan_layers = True
    config.diffusion.self_conditioning = True
    config.sampler.num_steps = 2
    return config
