"""MAR (Li et al. 2024): masked autoregressive generation of continuous tokens, each drawn by a diffusion of its own.

For latents, first train an autoencoder (`configs/autoencoder_kl.py`), then `launch.py encode --workdir=RUN
--output=DIR`; DIR is `data.path` here.
"""

import functools

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, fashion, imagenet256_b, imagenet256_l, imagenet256_h (the paper's)."""
    variants = {"digits": digits, "tiny": tiny, "fashion": fashion}
    variants |= {f"imagenet256_{size}": functools.partial(imagenet256, size) for size in SIZES}
    return common.choose(variants, variant)


# Depth of encoder and decoder, width, heads; depth and width of the denoiser; guidance scale: the official README.
SIZES = {
    "b": (12, 768, 12, 6, 1024, 2.9),
    "l": (16, 1024, 16, 8, 1280, 3.0),
    "h": (20, 1280, 16, 12, 1536, 3.2),
}


def imagenet256(size: str) -> ConfigDict:
    """On 16x16x16 latents of a 16x autoencoder, ImageNet at 256x256: B 207.9M, L 478.3M, H 942.4M; 800 epochs."""
    config = common.base()
    config.method = "autoregressive.masked_diffusion"
    config.data.name = "latents"
    config.data.path = "runs/imagenet256-latents16"
    config.data.batch_size = 2_048
    config.train.num_steps = 500_000
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 25_000
    config.optimizer.learning_rate = 8e-4  # 1e-4 for each 256 images of a batch
    config.optimizer.warmup_steps = 62_500  # 100 epochs
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 0.02
    config.optimizer.weight_decay_multipliers = (("denoiser/.*", 0.0), (".*(_positions|mask_token)", 1.0))
    config.optimizer.clip_norm = 3.0
    config.sample.batch_size = 64
    config.evaluate.num_samples = 50_000
    depth, width, heads, denoiser_depth, denoiser_width, guidance_scale = SIZES[size]

    config.model = ConfigDict()
    config.model.buffer_size = 64
    config.model.depth = depth  # of the encoder, and of the decoder
    config.model.hidden_size = width
    config.model.num_heads = heads
    config.model.mlp_ratio = 4.0
    config.model.attention_dropout = 0.1
    config.model.dropout = 0.1
    config.model.remat = size != "b"

    config.denoiser = ConfigDict()
    config.denoiser.depth = denoiser_depth
    config.denoiser.hidden_size = denoiser_width
    config.denoiser.remat = size != "b"

    config.masked = ConfigDict()
    config.masked.patch_size = 1
    config.masked.mask_ratio_mean = 1.0
    config.masked.mask_ratio_std = 0.25
    config.masked.mask_ratio_min = 0.7
    config.masked.class_conditional = True
    config.masked.label_dropout = 0.1

    config.diffusion = token_diffusion()

    config.sampler = ConfigDict()
    config.sampler.num_iterations = 256  # evaluations of the transformer; 64 are faster
    config.sampler.guidance_scale = guidance_scale
    config.sampler.guidance_schedule = "linear"  # or "constant"
    config.sampler.name = "ancestral_learned"  # "ancestral_learned(temperature=0.95)" without guidance
    config.sampler.levels = "timesteps(spacing='linspace')"
    config.sampler.num_steps = 100  # of the diffusion of a token
    config.sampler.clip = False
    return config


def token_diffusion() -> ConfigDict:
    """Returns the section of the diffusion of a token; docs/diffusion.md lists the pieces."""
    config = ConfigDict()
    config.path = "variance_preserving"
    config.parameterization = "eps"
    config.schedule = "cosine"
    config.noise_label = "timestep"
    config.times = "uniform"
    config.weighting = "uniform"
    config.learned_variance = True
    config.repeats = 4  # draws of noise for each token in a step
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Sets networks and their training for some minutes on two CPU cores, on images."""
    config.data.path = config_dict.placeholder(str)
    config.data.batch_size = 64
    config.train.num_steps = 3_000
    config.train.steps_per_dispatch = 10
    config.train.compute_dtype = "float32"
    config.train.checkpoint_every_steps = 1_000
    config.train.sample_every_steps = 1_500
    config.optimizer = common.optimizer()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.b2 = 0.99
    config.ema.decay = 0.998
    config.model.buffer_size = 2
    config.model.depth = 2
    config.model.hidden_size = 128
    config.model.num_heads = 4
    config.model.attention_dropout = 0.0
    config.denoiser.depth = 3
    config.denoiser.hidden_size = 192
    config.masked.patch_size = 4
    config.masked.mask_ratio_std = 0.5  # of few tokens, those that are known may be most
    config.masked.mask_ratio_min = 0.05
    config.masked.label_dropout = 0.05
    config.sampler.num_steps = 50
    config.sampler.guidance_scale = 1.0
    config.sampler.clip = True
    config.sample.batch_size = 250
    config.evaluate.num_samples = 1_000
    return config


def digits() -> ConfigDict:
    """Patches of 4x4 pixels of scikit-learn's 8x8 digits, one after another: 7 minutes of CPU time."""
    config = small(imagenet256("b"))
    config.data.name = "digits"
    config.sampler.num_iterations = 4
    return config


def fashion() -> ConfigDict:
    """Patches of 4x4 pixels of Fashion-MNIST, 28x28, one after another; untimed on a CPU."""
    config = small(imagenet256("b"))
    config.data.name = "fashion"
    config.model.hidden_size = 96
    config.denoiser.depth = 2
    config.denoiser.hidden_size = 128
    config.diffusion.repeats = 1
    config.sampler.num_iterations = 49
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.buffer_size = 2
    config.model.depth = 1
    config.model.hidden_size = 8
    config.model.num_heads = 2
    config.denoiser.depth = 1
    config.denoiser.hidden_size = 8
    config.diffusion.repeats = 2
    config.masked.mask_ratio_min = 0.5
    config.sampler.num_iterations = 2
    config.sampler.num_steps = 3
    config.sampler.guidance_scale = 1.5
    return config
