"""Latent diffusion: a diffusion transformer on the cached latents of an autoencoder (Rombach et al. 2022).

First train an autoencoder (`configs/autoencoder_kl.py`), then `launch.py encode --workdir=RUN --output=DIR`; DIR is
`data.path` here.
"""

from ml_collections import ConfigDict, config_dict

from configs import common, sit


def get_config(variant: str = "shapes") -> ConfigDict:
    """Variants: shapes (class-conditional, minutes on a CPU), tiny, imagenet256 (SiT-XL/2)."""
    return common.choose({"shapes": shapes, "tiny": tiny, "imagenet256": imagenet256}, variant)


def imagenet256() -> ConfigDict:
    """SiT-XL/2 (Ma et al. 2024) on 32x32x4 latents of `autoencoder_kl.py:kl_f8`: 674,816,272 parameters, 7M steps."""
    config = sit.imagenet256("xl", 2)
    config.data.path = "runs/imagenet256-latents"
    config.train.checkpoint_every_steps = 50_000
    config.sampler.guidance_scale = 1.5
    config.evaluate.num_samples = 50_000
    return config


def shapes() -> ConfigDict:
    """Latents of `autoencoder_kl.py:shapes`, 8x8x4: some minutes on two CPU cores."""
    config = imagenet256()
    config.data.path = "runs/shapes-latents"
    config.data.batch_size = 64
    config.train.num_steps = 2_000
    config.train.compute_dtype = "float32"
    config.train.checkpoint_every_steps = 500
    config.train.sample_every_steps = 1_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.b2 = 0.99
    config.ema.decay = 0.998
    config.model.hidden_size = 128
    config.model.depth = 6
    config.model.num_heads = 4
    config.model.scan_layers = False
    config.model.remat = False
    config.diffusion.noise_label = "flow_time"  # the embedding tells times apart better at 1000 times the scale
    config.diffusion.times = "logit_normal"
    config.diffusion.stratified = True
    config.sampler.num_steps = 20
    config.sampler.guidance_scale = 1.0
    config.sample.batch_size = 100
    config.evaluate.num_samples = 1_000
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests; `data.path` is theirs to give."""
    config = common.tiny(shapes())
    config.data.path = config_dict.placeholder(str)
    config.optimizer.warmup_steps = 0
    config.model.hidden_size = 8
    config.model.depth = 1
    config.model.num_heads = 2
    config.sampler.num_steps = 2
    return config
