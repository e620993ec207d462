"""The sections that all configs share, with their defaults. Each method's config starts from `base` and changes it."""

import functools
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict, config_dict

from configs import networks


def base() -> ConfigDict:
    """Returns all shared settings. Durations carry their unit; `None` means that the program finds the value itself."""
    config = ConfigDict()
    config.seed = 0
    config.method = config_dict.placeholder(str)  # a module under jaxgen/methods, such as "denoising.ddpm"

    config.data = data()
    config.optimizer = optimizer()
    config.frozen = ConfigDict()  # finished runs that this one reads, by role; methods add the roles that they know
    config.ema = ema()
    config.train = train()

    config.sample = ConfigDict({"batch_size": 250})  # images in one call of the sampler

    config.evaluate = ConfigDict()
    config.evaluate.num_samples = 1_000
    config.evaluate.k = 3  # neighbours in precision and recall
    config.evaluate.num_likelihood = 10_000  # held-out images whose likelihood is taken, at most
    config.evaluate.inception = config_dict.placeholder(str)  # for FID; a directory of import --format=inception

    config.health = health()
    config.parallel = parallel()

    config.log = ConfigDict()
    config.log.tensorboard = True
    config.log.wandb = False  # needs the extra: pip install "jaxgen[wandb]"
    config.log.norms_depth = 0  # levels of parameter names told apart in norms of gradients, updates, parameters
    return config


def scheduled(value: float | str) -> config_dict.FieldReference:
    """Returns a setting that holds a number, or the text of a schedule of `jaxgen/core/schedules.py`."""
    return config_dict.FieldReference(value, field_type=object)


def data() -> ConfigDict:
    """Returns the section of the dataset and its batches."""
    config = ConfigDict()
    config.name = "digits"  # a module under jaxgen/data/sources, or any TFDS image dataset
    config.path = config_dict.placeholder(str)  # where the data lies: a directory or a file, see docs/data.md
    config.data_dir = config_dict.placeholder(str)  # where prepared datasets are kept: digits, TFDS
    # Pictures are resized to this height and width: one number, or two such as (64, 96).
    config.image_size = config_dict.placeholder(object)
    # Cut out before resizing: "center", the largest part of the ratio of image_size, which is the default beside it;
    # "none", the default without it; or a number of pixels, or two such as (178, 178). Of encoded pictures, like the
    # three below.
    config.crop = config_dict.placeholder(object)
    config.channels = config_dict.placeholder(int)  # 3, 1 (gray), or those that the pictures have
    config.background = config_dict.placeholder(object)  # behind transparent parts: "white", "#ff8800" or a gray level
    config.max_megapixels = config_dict.placeholder(float)  # of the largest pictures that are read; not of TFDS
    config.split_seed = config_dict.placeholder(int)  # another one holds out other pictures, where no split is named
    config.seed = config_dict.placeholder(int)  # another one gives other pictures; shapes
    config.image_column = config_dict.placeholder(str)  # of the pictures; parquet
    config.label_column = config_dict.placeholder(str)  # of the classes, or "none"; parquet
    config.subset = config_dict.placeholder(str)  # one of several in a directory, "balanced"; idx, parquet
    config.label_kind = config_dict.placeholder(str)  # "fine" or "coarse", cifar; "none", arrays
    config.axes = config_dict.placeholder(str)  # "nhw", "nhwc" or "nchw", where the shape leaves it open; arrays
    config.window = config_dict.placeholder(tuple)  # lowest and highest value, which become the levels of 16 bits
    config.class_names = config_dict.placeholder(tuple)  # in the order of the labels, where the data do not name them
    config.batch_size = 128  # examples behind one gradient
    config.flip = False  # mirror half of the training images
    config.on_fault = "stop"  # at an example that cannot be read, or "skip" it: another one takes its place
    config.max_faults = 100  # faulty examples after which a run that skips them stops all the same
    return config


def ema() -> ConfigDict:
    """Returns the section of moving averages of the weights."""
    config = ConfigDict()
    config.kind = "constant"  # or "power": averages that widen with training
    config.decay = scheduled(0.9999)  # or "half_life(steps=1_000)", "cosine(...)"
    config.warmup = True  # a smaller decay in the first steps
    config.sigma_rel = (0.05, 0.10)  # widths of power averages, relative to the length of training
    config.include = ".*"  # regular expression over "params/..." and "model_state/..."
    return config


def train() -> ConfigDict:
    """Returns the section of the training loop, its log and its checkpoints."""
    config = ConfigDict()
    config.num_steps = 10_000
    config.steps_per_dispatch = 1  # updates in one call of the device; more for small models, see TrainSettings
    config.microbatches = 1  # slices of a batch whose gradients are accumulated
    config.compute_dtype = "float32"  # or "bfloat16"; parameters are float32 either way
    config.nonfinite = "stop"  # or "skip" the update and count it, or "rollback" to go on with other data
    config.log_every_steps = 100
    config.sample_every_steps = 2_000
    config.sample_num_images = 80  # in a grid of samples
    config.sample_share = 0.05  # of the time of training that grids may take: fewer images, or grids; None: no limit
    config.checkpoint_every_steps = 2_000
    config.keep_checkpoints = 2  # the newest ones; how many are kept may be changed when a run goes on
    config.keep_every_steps = config_dict.placeholder(int)  # those of these steps, for ever
    config.keep_best = config_dict.placeholder(str)  # a metric of the log, such as "loss": the best ones, too
    config.keep_best_count = 1
    config.keep_best_mode = "lower"  # or "higher"
    config.on_write_error = "stop"  # or "continue", when the disk is full
    config.snapshot_every_steps = config_dict.placeholder(int)  # of power averages, for launch.py ema
    config.init_from = config_dict.placeholder(str)  # work directory of a run whose weights this one starts from
    # regular expression, or a tuple of them, over the "params/..." and "model_state/..." that are taken; None: all
    config.init_include = config_dict.placeholder(object)
    return config


def health() -> ConfigDict:
    """Returns the section of reactions to faults, which may differ between a run and its continuation."""
    config = ConfigDict()
    config.max_rollbacks = 3  # in all, before the run stops after all
    config.spike_sigmas = 10.0  # standard deviations above its running mean at which a loss is a spike; None: off
    config.spike_policy = "warn"  # or "stop", or "rollback"
    config.hang_seconds = 1_800.0  # without progress, until all stacks are printed; None: no watchdog
    config.hang_exit = False  # end the process then
    config.profile_steps = 10  # in a profile; ask for one by: touch WORKDIR/profile_now
    config.profile_at_step = config_dict.placeholder(int)  # take one there in any case
    return config


def parallel() -> ConfigDict:
    """Returns the section of the devices, which may differ between a run and its continuation, like log."""
    config = ConfigDict()
    config.mode = "mesh"  # or "pmap"
    config.num_devices = config_dict.placeholder(int)  # all of them
    config.data = -1  # devices with copies of the state; -1: as many as the other two leave
    config.fsdp = 1  # devices that share the state
    config.tensor = 1  # devices that share single layers
    config.slices = config_dict.placeholder(int)  # groups of devices far from each other; None: as they say
    config.rules = ()  # ((pattern, axes), ...): where parameters are split; see jaxgen/parallel/sharding.py
    config.min_shard_elements = 4_096  # smaller arrays are copied to every device
    return config


def optimizer() -> ConfigDict:
    """Returns the section of Adam at a constant rate. GANs have one such section for each player."""
    config = ConfigDict()
    config.name = "adam"
    config.learning_rate = scheduled(2e-4)  # or "cosine(start=2e-4, end=5e-5, steps=40_000)", by the step
    config.schedule = "constant"  # or "cosine", "linear": down to zero at the last step; or "inverse_sqrt"
    config.warmup_steps = 0
    config.decay_steps = config_dict.placeholder(int)  # of schedule "inverse_sqrt"
    config.b1 = 0.9
    config.b2 = scheduled(0.999)
    config.eps = 1e-8
    config.weight_decay = 0.0
    # ((pattern, factor), ...): regular expressions over names, the first that matches counts; a rate of 0.0 freezes
    config.learning_rate_multipliers = ()
    config.weight_decay_multipliers = ()
    config.forced_normalization = config_dict.placeholder(str)  # regular expression over names; for EDM2
    config.weight_limit = config_dict.placeholder(float)  # largest magnitude of a parameter; for Wasserstein critics
    config.clip_norm = config_dict.placeholder(float)  # largest global norm of the gradient
    config.skip_norm = config_dict.placeholder(float)  # global norm from which on a gradient makes no update
    return config


def diffusion(config: ConfigDict) -> ConfigDict:
    """Adds the sections of method denoising.diffusion, with DDPM's pieces; docs/diffusion.md lists all the others."""
    config.method = "denoising.diffusion"
    config.diffusion = ConfigDict()
    config.diffusion.path = "variance_preserving"
    config.diffusion.parameterization = "eps"
    config.diffusion.schedule = "linear"
    config.diffusion.shift = 1.0  # factor on the noise levels, for the resolution
    config.diffusion.noise_label = "timestep"
    config.diffusion.times = "uniform"
    config.diffusion.stratified = False  # times spread evenly over a batch
    config.diffusion.importance_buckets = 0  # times drawn by the loss's second moment, if positive
    config.diffusion.weighting = "uniform"
    config.diffusion.class_conditional = False
    config.diffusion.label_dropout = 0.1  # probability of label dropout, for classifier-free guidance
    config.diffusion.self_conditioning = False
    config.diffusion.augment_probability = 0.0
    config.diffusion.augment = "edm"  # or "everything": the augmentations that the network is conditioned on
    config.diffusion.learned_variance = False
    config.diffusion.uncertainty_channels = 0
    config.diffusion.likelihood = "none"  # of evaluate: "bound" (discrete schedules) or "ode"
    config.diffusion.likelihood_steps = 100

    config.sampler = ConfigDict()
    config.sampler.name = "ancestral"
    config.sampler.levels = "timesteps"
    config.sampler.num_steps = 1_000
    config.sampler.guidance_scale = 1.0
    config.sampler.guidance_interval = config_dict.placeholder(tuple)  # noise levels, such as (0.2, 5.0)
    config.sampler.guidance_rescale = 0.0
    config.frozen.guide = config_dict.placeholder(str)  # work directory of a worse model, for autoguidance
    config.sampler.clip = True
    config.sampler.cache_interval = 1  # steps from one computation of deep features to the next
    return config


def flow(config: ConfigDict) -> ConfigDict:
    """Adds the sections of method flows.flow, but for the fields of the network."""
    config.method = "flows.flow"
    config.ema.include = "params/.*"  # constants are as they are
    config.flow = ConfigDict()
    config.flow.dequantization = "uniform"  # or "variational", learned; "gaussian", noise added to images
    config.flow.noise_std = 0.05  # of Gaussian noise
    config.flow.dequantizer_width = 32  # of learned noise
    config.flow.dequantizer_couplings = 4
    config.flow.logit_alpha = 0.0  # if positive, the network sees logits
    config.flow.num_draws = 1  # of noise, in the bound on the likelihood
    config.flow.class_conditional = False
    config.flow.label_dropout = 0.0

    config.model = ConfigDict()

    config.sampler = ConfigDict()
    config.sampler.temperature = 1.0
    config.sampler.guidance_scale = 1.0  # this and the next three: TarFlow
    config.sampler.guided = "ab"  # log-scales "a", shifts "b"
    config.sampler.guidance_annealed = False
    config.sampler.attention_temperature = 1.0
    config.sampler.denoise = True  # of Gaussian noise
    return config


def flow_digits(config: ConfigDict) -> ConfigDict:
    """Training of a class-conditional flow on the digits, by learned dequantization."""
    digits_training(config)
    config.optimizer.learning_rate = 1e-3
    config.train.num_steps = 3_000
    config.flow.dequantization = "variational"
    config.flow.class_conditional = True
    config.model.dropout = 0.2
    return config


def flow_fashion(config: ConfigDict) -> ConfigDict:
    """Sets the training of a class-conditional flow on Fashion-MNIST, 28x28, but for the number of steps.

    Noise is uniform: learned noise was still so after 1,000 steps of Glow, for a third to two thirds of a step's time.
    """
    config.data.name = "fashion"
    config.flow.dequantization = "uniform"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 10.0
    config.train.checkpoint_every_steps = 250
    config.train.sample_every_steps = 500
    config.model.dropout = 0.0
    config.sampler.temperature = 0.7  # Kingma and Dhariwal 2018; at 1 some latents leave the range of the couplings
    return config


def tiny_flow(config: ConfigDict) -> ConfigDict:
    """Sets everything but the network to values with which a run of a flow takes seconds."""
    config = tiny(config)
    config.optimizer.warmup_steps = 0
    config.flow.dequantizer_width = 4
    config.flow.dequantizer_couplings = 1
    return config


def gan(config: ConfigDict) -> ConfigDict:
    """Adds the sections of method gan.gan; docs/gan.md lists the losses, terms, augmentations and networks."""
    config.method = "gan.gan"
    config.ema.include = "(params|model_state)/generator/.*"
    config.optimizer = ConfigDict()
    config.optimizer.generator = optimizer()
    config.optimizer.discriminator = optimizer()

    config.gan = ConfigDict()
    config.gan.latent_dim = 100
    config.gan.loss = "non_saturating"
    config.gan.weight = scheduled(1.0)  # of the adversarial loss in the generator's
    config.gan.terms = ()
    config.gan.augment = config_dict.FieldReference((), field_type=object)  # a text, or several; docs/gan.md
    config.gan.n_critic = 1
    config.gan.class_conditional = False
    config.gan.top_share = scheduled(1.0)  # of generated images, that the generator learns from

    config.sampler = ConfigDict()
    config.sampler.truncation = config_dict.placeholder(float)  # largest number in a latent
    config.sampler.standing_batches = 0  # batches by which averaged weights move the running statistics before sampling
    config.sampler.standing_batch_size = 64
    return config


def style_gan(config: ConfigDict) -> ConfigDict:
    """Adds the sections of method gan.style_based."""
    gan(config)
    config.method = "gan.style_based"
    config.ema.include = "params/generator/.*"  # buffers are as they are
    config.sampler = ConfigDict()
    config.sampler.truncation_psi = 1.0
    config.sampler.truncation_cutoff = config_dict.placeholder(int)  # layers that are truncated
    config.sampler.noise_mode = "random"  # or "const", "none"
    return config


def transformer_on_latents(config: ConfigDict, size: str, patch_size: int) -> ConfigDict:
    """A transformer on ImageNet-256 latents of an 8x autoencoder, made by launch.py encode (data.path is where)."""
    config.model = networks.transformer(size, patch_size)
    config.model.scan_layers = True
    config.model.remat = size in ("l", "xl")
    config.data.name = "latents"
    config.data.batch_size = 256
    config.train.num_steps = 7_000_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 50_000
    config.train.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = 1e-4
    config.sample.batch_size = 64
    return config


def digits(config: ConfigDict) -> ConfigDict:
    """A diffusion model of the digits, trained for three minutes on two CPU cores."""
    config.diffusion.class_conditional = True
    config.diffusion.label_dropout = 0.05
    return digits_training(config)


def digits_training(config: ConfigDict) -> ConfigDict:
    """Sets the training of the digits, tuned for few steps."""
    config.data.name = "digits"
    config.data.flip = False
    config.data.batch_size = 64
    config.optimizer = optimizer()
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.b2 = 0.99
    if config.ema.kind == "constant":
        config.ema.decay = 0.998
    config.train.num_steps = 4_500
    config.train.sample_every_steps = 1_500
    config.train.checkpoint_every_steps = 500
    config.sample.batch_size = 250
    return config


def shapes(config: ConfigDict) -> ConfigDict:
    """A class-conditional diffusion model of the procedural shapes."""
    config.diffusion.class_conditional = True
    return shapes_training(config)


def shapes_training(config: ConfigDict) -> ConfigDict:
    """Training on the procedural 32x32 shapes, which need no download: for one GPU, or a patient CPU."""
    config.data.name = "shapes"
    config.data.flip = False
    config.train.num_steps = 50_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    if config.ema.kind == "constant":
        config.ema.decay = 0.999
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Sets everything but the networks to values with which a run takes seconds from end to end."""
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
      UnknownVariantError: if there is no such variant, with those that there are; a `ValueError`.
    """
    if variant not in variants:
        raise UnknownVariantError(variant, {name: _docstring(make) for name, make in variants.items()})
    return variants[variant]()


class UnknownVariantError(ValueError):
    """An unknown variant of a config; `variants` are those that exist, each with the docstring of its function."""

    def __init__(self, variant: str, variants: Mapping[str, str]) -> None:
        super().__init__(f"There is no variant {variant!r}; this config has {', '.join(variants)}.")
        self.variants = variants


def _docstring(make: Callable[[], ConfigDict]) -> str:
    while isinstance(make, functools.partial):
        make = make.func
    return make.__doc__ or ""
