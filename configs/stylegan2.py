"""StyleGAN2 (Karras et al. 2020) in the settings of its official PyTorch code, and on smaller images.

Adaptive augmentation (Karras et al. 2020, "Training GANs with limited data") is no part of it: the CIFAR-10 variants
have the networks and regularization of that paper.
"""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, shapes, cifar10, cifar10_cond, ffhq256, paper256, ffhq1024."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "shapes": shapes,
        "cifar10": cifar10,
        "cifar10_cond": cifar10_cond,
        "ffhq256": ffhq256,
        "paper256": paper256,
        "ffhq1024": ffhq1024,
    }
    return common.choose(variants, variant)


def ffhq1024() -> ConfigDict:
    """Faces at 1024x1024 (configuration F, the official `stylegan2`): 30,370,060 + 29,012,513 parameters, batch 32."""
    config = common.base()
    config.method = "gan.stylegan2"
    config.data.name = "folder"
    config.data.image_size = 1024
    config.data.flip = True
    config.data.batch_size = 32
    config.train.num_steps = _steps_of(25_000, 32)
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.ema.decay = _half_life(10, 32)
    config.ema.include = "params/generator/.*"  # buffers are as they are
    config.sample.batch_size = 32
    config.evaluate.num_samples = 50_000

    config.optimizer = ConfigDict()
    config.optimizer.generator = common.optimizer()
    config.optimizer.discriminator = common.optimizer()
    for player in config.optimizer.values():  # before what lazy regularization makes of it
        player.learning_rate = 2e-3
        player.b1, player.b2 = 0.0, 0.99

    config.generator = ConfigDict()
    config.generator.z_dim = 512
    config.generator.w_dim = 512
    config.generator.num_mapping_layers = 8
    config.discriminator = ConfigDict()
    config.discriminator.architecture = "resnet"  # or "orig", without skip connections
    config.discriminator.group_size = 4  # of the minibatch standard deviation
    config.discriminator.num_mapping_layers = 8  # of classes
    for network in (config.generator, config.discriminator):
        network.channel_base = 32768  # channels times side of a feature map, up to channel_max
        network.channel_max = 512
        network.clamp = config_dict.placeholder(float)  # of activations; float16 would need it, bfloat16 does not

    config.gan = ConfigDict()
    config.gan.loss = "non_saturating"
    config.gan.class_conditional = False
    config.gan.style_mixing = 0.9
    config.gan.w_avg_decay = 0.995
    config.gan.r1_gamma = 10.0
    config.gan.r1_every_steps = 16
    config.gan.path_length_weight = 2.0
    config.gan.path_length_every_steps = 4
    config.gan.path_length_shrink = 2  # a half of the batch
    config.gan.path_length_decay = 0.01

    config.sampler = ConfigDict()
    config.sampler.truncation_psi = 1.0
    config.sampler.truncation_cutoff = config_dict.placeholder(int)  # layers that are truncated
    config.sampler.noise_mode = "random"  # or "const", "none"
    return config


def ffhq256() -> ConfigDict:
    """The same at 256x256: 30,034,338 + 28,864,129 parameters."""
    config = ffhq1024()
    config.data.image_size = 256
    config.sample.batch_size = 128
    return config


def paper256() -> ConfigDict:
    """Half the channels above 64x64 (the official `paper256`): 24,767,458 + 24,001,089 parameters, batch 64."""
    config = ffhq256()
    config.data.batch_size = 64
    config.train.num_steps = _steps_of(25_000, 64)
    config.ema.decay = _half_life(20, 64)
    for player in config.optimizer.values():
        player.learning_rate = 2.5e-3
    for network in (config.generator, config.discriminator):
        network.channel_base = 16384
    config.discriminator.group_size = 8
    config.gan.r1_gamma = 1.0
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10 (the official `cifar`): 19,947,539 + 20,720,641 parameters; without style mixing and path lengths."""
    config = ffhq1024()
    config.data.name = "cifar10"
    config.data.image_size = None
    config.data.batch_size = 64
    config.train.num_steps = _steps_of(100_000, 64)
    config.ema.decay = _half_life(500, 64)
    config.sample.batch_size = 250
    for player in config.optimizer.values():
        player.learning_rate = 2.5e-3
    config.generator.num_mapping_layers = 2
    config.discriminator.architecture = "orig"
    config.discriminator.group_size = 32
    config.gan.r1_gamma = 0.01
    config.gan.style_mixing = 0.0
    config.gan.path_length_weight = 0.0
    return config


def cifar10_cond() -> ConfigDict:
    """The same with classes: 20,215,315 + 23,089,664 parameters."""
    config = cifar10()
    config.gan.class_conditional = True
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes, which need no download: for one GPU, or a patient CPU."""
    config = small(cifar10())
    config.data.name = "shapes"
    config.train.num_steps = 50_000
    config.train.checkpoint_every_steps = 5_000
    config.train.sample_every_steps = 5_000
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits without their classes: minutes on two CPU cores.

    With so few images of each class, a conditional generator makes one image a class of all latents.
    """
    config = small(cifar10())
    config.data.name = "digits"
    config.train.num_steps = 8_000
    config.train.checkpoint_every_steps = 500
    config.train.sample_every_steps = 500
    config.ema.decay = 0.998
    config.evaluate.num_samples = 1_000
    for network in (config.generator, config.discriminator):
        network.channel_base = 256
        network.channel_max = 64
    config.generator.z_dim = config.generator.w_dim = 64
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Narrow networks with a short memory; nothing is mirrored."""
    config.data.flip = False
    config.train.compute_dtype = "float32"
    config.ema.decay = 0.999
    config.evaluate.num_samples = 10_000
    for network in (config.generator, config.discriminator):
        network.channel_base = 2048
        network.channel_max = 128
        network.num_mapping_layers = 2
    config.generator.z_dim = config.generator.w_dim = 128
    config.discriminator.architecture = "resnet"
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests; with all that there is, in as few phases as show that there are several."""
    config = common.tiny(digits())
    for network in (config.generator, config.discriminator):
        network.channel_max = 4
        network.num_mapping_layers = 1
    config.generator.z_dim = config.generator.w_dim = 4
    config.discriminator.group_size = 4
    config.gan.class_conditional = True
    config.gan.style_mixing = 0.9
    config.gan.r1_gamma = 1.0
    config.gan.r1_every_steps = 2
    config.gan.path_length_weight = 2.0
    config.gan.path_length_every_steps = 1
    return config


def _steps_of(thousand_images: int, batch_size: int) -> int:
    return thousand_images * 1_000 // batch_size


def _half_life(thousand_images: float, batch_size: int) -> float:
    """Returns the decay of an average whose half-life is this many images."""
    return 0.5 ** (batch_size / (thousand_images * 1_000))
