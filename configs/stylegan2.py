"""StyleGAN2 (Karras et al. 2020) in the settings of its official PyTorch code, and on smaller images.

The CIFAR-10 variants and `auto256` have adaptive augmentation (Karras et al. 2020, "Training GANs with limited data");
`--config.gan.augment="ada()"` adds it to others.
"""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits (minutes on a CPU), tiny, shapes, cifar10[_cond], auto256, ffhq256, paper256, ffhq1024."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "shapes": shapes,
        "cifar10": cifar10,
        "cifar10_cond": cifar10_cond,
        "auto256": auto256,
        "ffhq256": ffhq256,
        "paper256": paper256,
        "ffhq1024": ffhq1024,
    }
    return common.choose(variants, variant)


def ffhq1024() -> ConfigDict:
    """Faces at 1024x1024 (configuration F, the official `stylegan2`): 30,370,060 + 29,012,513 parameters, batch 32."""
    config = common.style_gan(common.base())
    config.data.name = "folder"
    config.data.image_size = 1024
    config.data.flip = True
    config.data.batch_size = 32
    config.train.num_steps = _steps_of(25_000, 32)
    config.train.compute_dtype = "bfloat16"
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.ema.decay = _half_life(10, 32)
    config.sample.batch_size = 32
    config.evaluate.num_samples = 50_000
    for player in config.optimizer.values():  # before what lazy regularization makes of it
        player.learning_rate = 2e-3
        player.b1, player.b2 = 0.0, 0.99

    config.generator = ConfigDict()
    config.generator.name = "stylegan2_generator.Generator"
    config.generator.w_dim = 512
    config.generator.num_mapping_layers = 8
    config.generator.style_mixing = 0.9
    config.generator.w_avg_decay = 0.995
    config.discriminator = ConfigDict()
    config.discriminator.name = "stylegan2_discriminator.Discriminator"
    config.discriminator.architecture = "resnet"  # or "orig", without skip connections
    config.discriminator.group_size = 4  # of the minibatch standard deviation
    config.discriminator.num_mapping_layers = 8  # of classes
    for network in (config.generator, config.discriminator):
        network.channel_base = 32768  # channels times side of a feature map, up to channel_max
        network.channel_max = 512
        network.clamp = config_dict.placeholder(float)  # of activations; float16 would need it, bfloat16 does not

    config.gan.latent_dim = 512
    config.gan.terms = ("r1(gamma=10.0, every_steps=16)", PATH_LENGTH)
    return config


PATH_LENGTH = "path_length(weight=2.0, decay=0.01, shrink=2, every_steps=4)"


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
    config.gan.terms = ("r1(gamma=1.0, every_steps=16)", PATH_LENGTH)
    return config


def auto256() -> ConfigDict:
    """The official `auto` at 256x256 on eight devices: half the channels, R1 by resolution and batch, ADA."""
    config = paper256()
    config.ema.decay = common.scheduled(f"half_life(steps={20_000 / 64}, ramp=0.05)")
    config.generator.num_mapping_layers = config.discriminator.num_mapping_layers = 2
    config.discriminator.group_size = 4
    config.gan.terms = (f"r1(gamma={0.0002 * 256**2 / 64}, every_steps=16)", PATH_LENGTH)
    config.gan.augment = "ada(transforms='bgc', target=0.6)"
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10 (the official `cifar`): 19,947,539 + 20,720,641 parameters; without style mixing and path lengths."""
    config = ffhq1024()
    config.data.name = "cifar10"
    config.data.image_size = None
    config.data.batch_size = 64
    config.train.num_steps = _steps_of(100_000, 64)
    config.ema.decay = common.scheduled(f"half_life(steps={500_000 / 64}, ramp=0.05)")
    config.gan.augment = "ada(transforms='bgc', target=0.6)"
    config.sample.batch_size = 250
    for player in config.optimizer.values():
        player.learning_rate = 2.5e-3
    config.generator.num_mapping_layers = 2
    config.discriminator.architecture = "orig"
    config.discriminator.group_size = 32
    config.gan.terms = ("r1(gamma=0.01, every_steps=16)",)
    config.generator.style_mixing = 0.0
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
    """Scikit-learn's 8x8 digits, class-conditional: minutes on two CPU cores.

    With the weak R1 of CIFAR-10, a generator of so few images makes one image a class of all latents.
    """
    config = small(cifar10())
    config.data.name = "digits"
    config.train.num_steps = 5_000
    config.train.checkpoint_every_steps = 500
    config.train.sample_every_steps = 500
    config.ema.decay = 0.998
    config.gan.class_conditional = True
    config.gan.terms = ("r1(gamma=1.0, every_steps=4)",)
    config.evaluate.num_samples = 1_000
    for network in (config.generator, config.discriminator):
        network.channel_base = 256
        network.channel_max = 64
    config.gan.latent_dim = config.generator.w_dim = 64
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Narrow networks with a short memory; nothing is mirrored."""
    config.data.flip = False
    config.train.compute_dtype = "float32"
    config.ema.decay = 0.999
    config.gan.augment = ()
    config.evaluate.num_samples = 10_000
    for network in (config.generator, config.discriminator):
        network.channel_base = 2048
        network.channel_max = 128
        network.num_mapping_layers = 2
    config.gan.latent_dim = config.generator.w_dim = 128
    config.discriminator.architecture = "resnet"
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests; with all that there is, at each step: StyleGAN3's variant has lazy terms."""
    config = common.tiny(digits())
    for network in (config.generator, config.discriminator):
        network.channel_max = 4
        network.num_mapping_layers = 1
    config.gan.latent_dim = config.generator.w_dim = 4
    config.discriminator.group_size = 4
    config.gan.class_conditional = True
    config.generator.style_mixing = 0.9
    config.gan.terms = ("r1(gamma=1.0, every_steps=1)", "path_length(every_steps=1)")
    return config


def _steps_of(thousand_images: int, batch_size: int) -> int:
    return thousand_images * 1_000 // batch_size


def _half_life(thousand_images: float, batch_size: int) -> float:
    """Returns the decay of an average whose half-life is this many images."""
    return 0.5 ** (batch_size / (thousand_images * 1_000))
