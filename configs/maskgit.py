"""MaskGIT (Chang et al. 2022): masked prediction, of pixels or of the codes of a tokenizer, decoded in few steps.

For codes, first train a tokenizer (`configs/vqvae.py`, `fsq.py` or `vqgan.py`), then `launch.py encode --workdir=RUN
--output=DIR`; DIR is `data.path` here.
"""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, fashion (pixels), shapes (codes; all minutes on a CPU), tiny, imagenet256 (the paper's)."""
    variants = {"digits": digits, "fashion": fashion, "shapes": shapes, "tiny": tiny, "imagenet256": imagenet256}
    return common.choose(variants, variant)


def imagenet256() -> ConfigDict:
    """The paper's: 16x16 codes of ImageNet at 256x256, 24 layers of width 768, 300 epochs, 8 steps of decoding."""
    config = common.base()
    config.method = "autoregressive.masked"
    config.data.name = "latents"
    config.data.path = "runs/imagenet256-codes"
    config.data.batch_size = 256
    config.train.num_steps = 1_500_000
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.96
    config.optimizer.warmup_steps = 5_000
    config.optimizer.weight_decay = 0.045
    config.sample.batch_size = 64
    config.evaluate.num_samples = 50_000

    config.model = ConfigDict()
    config.model.hidden_size = 768
    config.model.depth = 24
    config.model.num_heads = 8
    config.model.mlp_ratio = 4.0
    config.model.dropout = 0.1
    config.model.remat = False

    config.masked = ConfigDict()
    config.masked.schedule = "cosine"  # or "linear", whose loss is the bound on the likelihood
    config.masked.label_smoothing = 0.1
    config.masked.class_conditional = True
    config.masked.label_dropout = 0.1  # for guidance
    config.masked.likelihood_passes = 0  # of the network, for the bound; 0: none

    config.sampler = ConfigDict()
    config.sampler.num_steps = 8
    config.sampler.schedule = "cosine"
    config.sampler.order = "confidence"  # or "random"
    config.sampler.temperature = 1.0
    config.sampler.choice_temperature = 4.5
    config.sampler.guidance_scale = 1.0
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Sets a network and its training for some minutes on two CPU cores."""
    config.data.batch_size = 64
    config.train.num_steps = 2_000
    config.train.steps_per_dispatch = 10
    config.train.compute_dtype = "float32"
    config.train.checkpoint_every_steps = 1_000
    config.train.sample_every_steps = 1_000
    config.optimizer = common.optimizer()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.b2 = 0.99
    config.ema.decay = 0.998
    config.model.hidden_size = 96
    config.model.depth = 4
    config.model.num_heads = 4
    config.masked.label_smoothing = 0.0
    config.sample.batch_size = 100
    config.evaluate.num_samples = 1_000
    return config


def shapes() -> ConfigDict:
    """Cached codes of `vqvae.py:shapes`, or of another tokenizer in `data.path`: some minutes on two CPU cores."""
    config = small(imagenet256())
    config.data.path = "runs/shapes-codes"
    config.sampler.num_steps = 8
    return config


def digits() -> ConfigDict:
    """Pixels of scikit-learn's 8x8 digits, in any order, with a bound on their likelihood: minutes on two CPU cores."""
    config = small(imagenet256())
    config.data.name = "digits"
    config.data.path = config_dict.placeholder(str)
    config.masked.schedule = "linear"
    config.masked.likelihood_passes = 64
    config.sampler.num_steps = 32
    config.sampler.schedule = "linear"
    config.sampler.order = "random"
    config.sampler.choice_temperature = 4.5
    return config


def fashion() -> ConfigDict:
    """Pixels of Fashion-MNIST, 28x28, of 256 levels, in any order, with a bound on their likelihood: 20 CPU minutes."""
    config = digits()
    config.data.name = "fashion"
    config.data.batch_size = 8  # of 784 tokens each
    config.train.steps_per_dispatch = 1
    config.train.num_steps = 880
    config.train.checkpoint_every_steps = 500
    config.model.hidden_size = 64
    config.model.depth = 2
    config.model.num_heads = 2
    config.masked.likelihood_passes = 2  # each takes minutes for all held-out images, which average out what is random
    config.sampler.num_steps = 98
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.hidden_size = 8
    config.model.depth = 1
    config.model.num_heads = 2
    config.masked.likelihood_passes = 3
    config.sampler.num_steps = 4
    config.sampler.order = "confidence"
    config.sampler.guidance_scale = 1.5
    return config
