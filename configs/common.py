"""The sections that all configs share, with their defaults. Each method's config starts from `base` and changes it."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict, config_dict


def base() -> ConfigDict:
    """Every shared setting. Durations carry their unit; `None` means that the program finds the value itself."""
    config = ConfigDict()
    config.seed = 0
    config.method = config_dict.placeholder(str)  # a module under jaxgen/methods, such as "denoising.ddpm"

    config.data = ConfigDict()
    config.data.name = "digits"  # a module under jaxgen/data/sources, or any TFDS image dataset
    config.data.path = config_dict.placeholder(str)  # the directory of data.name=folder
    config.data.data_dir = config_dict.placeholder(str)  # where prepared datasets are kept
    config.data.image_size = config_dict.placeholder(int)  # resized to this height and width
    config.data.batch_size = 128  # examples behind one gradient
    config.data.flip = False  # mirror half of the training images

    config.optimizer = optimizer()

    config.ema = ConfigDict()
    config.ema.decay = 0.9999
    config.ema.warmup = True  # a smaller decay in the first steps
    config.ema.include = ".*"  # regular expression over "params/..." and "model_state/..."

    config.train = ConfigDict()
    config.train.num_steps = 10_000
    config.train.steps_per_dispatch = 1  # updates in one call of the device; more for small models, see TrainSettings
    config.train.microbatches = 1  # slices of a batch whose gradients are accumulated
    config.train.compute_dtype = "float32"  # or "bfloat16"; parameters are float32 either way
    config.train.nonfinite = "stop"  # or "skip" the update and count it
    config.train.log_every_steps = 100
    config.train.sample_every_steps = 2_000
    config.train.checkpoint_every_steps = 2_000
    config.train.keep_checkpoints = 2  # the newest ones

    config.sample = ConfigDict()
    config.sample.batch_size = 250  # images in one call of the sampler

    config.evaluate = ConfigDict()
    config.evaluate.num_samples = 1_000
    config.evaluate.k = 3  # neighbours in precision and recall

    config.parallel = ConfigDict()  # may differ between a run and its continuation, like log
    config.parallel.mode = "mesh"  # or "pmap"
    config.parallel.num_devices = config_dict.placeholder(int)  # all of them

    config.log = ConfigDict()
    config.log.tensorboard = True
    config.log.wandb = False  # needs the extra: pip install "jaxgen[wandb]"
    return config


def optimizer() -> ConfigDict:
    """Adam at a constant rate. GANs have one such section for each player."""
    config = ConfigDict()
    config.name = "adam"
    config.learning_rate = 2e-4
    config.schedule = "constant"  # or "cosine", "linear": down to zero at the last step
    config.warmup_steps = 0
    config.b1 = 0.9
    config.b2 = 0.999
    config.weight_decay = 0.0
    config.clip_norm = config_dict.placeholder(float)  # largest global norm of the gradient
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """A config made to run from end to end in seconds; its networks are left to the caller."""
    config.data.batch_size = 16
    config.train.num_steps = 4
    config.train.steps_per_dispatch = 2
    config.train.log_every_steps = 2
    config.train.sample_every_steps = 4
    config.train.checkpoint_every_steps = 2
    config.sample.batch_size = 8
    config.evaluate.num_samples = 32
    return config


def choose(variants: Mapping[str, Callable[[], ConfigDict]], variant: str) -> ConfigDict:
    """Calls the variant of a name.

    Raises:
      ValueError: if there is no such variant, with those that there are.
    """
    if variant not in variants:
        raise ValueError(f"There is no variant {variant!r}; this config has {', '.join(variants)}.")
    return variants[variant]()
