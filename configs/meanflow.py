"""MeanFlow (Geng et al. 2025): flows sampled in one to four steps, trained from scratch."""

from ml_collections import ConfigDict

from configs import common, networks


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (class-conditional, minutes on a CPU), tiny, shapes, cifar10."""
    return common.choose({"digits": digits, "tiny": tiny, "shapes": shapes, "cifar10": cifar10}, variant)


def cifar10() -> ConfigDict:
    """Unconditional, by the official settings for CIFAR-10: batch 1,024, 800k steps, one evaluation.

    Unlike there, the embedding of the interval is added to that of the time by a layer, rather than set beside it, and
    images are mirrored, but not augmented as in EDM.
    """
    config = common.base()
    config.method = "denoising.meanflow"
    config.data.name = "cifar10"
    config.data.flip = True
    config.data.batch_size = 1_024
    config.train.num_steps = 800_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 10_000
    config.ema.decay = 0.99995

    config.model = networks.song_unet()
    config.model.noise_channel_multiplier = 2
    config.model.resample_filter = (1, 3, 3, 1)
    config.model.dropout = 0.2

    config.meanflow = ConfigDict()
    config.meanflow.times = "logit_normal(mean=-2.0, std=2.0)"
    config.meanflow.interval_share = 0.75
    config.meanflow.adaptive_power = 0.75
    config.meanflow.adaptive_floor = 1e-3
    config.meanflow.time_scale = 1.0
    config.meanflow.interval_features = 256
    config.meanflow.class_conditional = False
    config.meanflow.label_dropout = 0.1
    config.meanflow.guidance_scale = 1.0
    config.meanflow.guidance_mix = 0.0

    config.sampler = ConfigDict()
    config.sampler.num_steps = 1
    config.sampler.clip = True
    return config


def shapes() -> ConfigDict:
    """Class-conditional on the procedural 32x32 shapes, which need no download."""
    config = common.shapes_training(cifar10())
    config.data.batch_size = 128
    config.optimizer.warmup_steps = 1_000
    config.model = networks.shapes_unet()
    config.model.dropout = 0.0
    config.meanflow.time_scale = 30.0
    config.meanflow.class_conditional = True
    config.sampler.num_steps = 4
    return config


def digits() -> ConfigDict:
    """Class-conditional on scikit-learn's 8x8 digits: three minutes on two CPU cores, samples in four steps."""
    config = common.digits_training(shapes())
    config.train.num_steps = 3_000  # each as long as one and a half of DDPM's
    config.model = networks.digits_unet()
    config.meanflow.times = "logit_normal(mean=-0.4, std=1.0)"
    config.meanflow.interval_share = 0.5
    config.meanflow.adaptive_power = 0.5
    config.meanflow.interval_features = 64
    config.meanflow.label_dropout = 0.05
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model = networks.tiny_unet()
    return config
