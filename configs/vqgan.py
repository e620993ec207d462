"""VQ-GAN (Esser et al. 2021), with the networks of LlamaGen's tokenizers (Sun et al. 2024)."""

from ml_collections import ConfigDict, config_dict

from configs import common, vqvae


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, shapes (minutes on a CPU), tiny, fashion, vq16, vq8 (LlamaGen's), taming."""
    variants = {
        "digits": digits,
        "shapes": shapes,
        "tiny": tiny,
        "fashion": fashion,
        "vq16": vq16,
        "vq8": vq8,
        "taming": taming,
    }
    return common.choose(variants, variant)


def vq16() -> ConfigDict:
    """LlamaGen's VQ-16: 256x256 pixels to 16x16 codes of 16,384 of unit length 8; 71,883,403 parameters, 40 epochs.

    The discriminator's features stand in for LPIPS, which needs a pretrained network.
    """
    config = common.base()
    config.method = "vae.vector_quantized"
    config.data.name = "imagenet2012"
    config.data.image_size = 256
    config.data.flip = True
    config.data.batch_size = 128
    config.train.num_steps = 400_000
    config.train.compute_dtype = "bfloat16"
    config.train.sample_every_steps = 10_000
    config.train.checkpoint_every_steps = 10_000
    config.ema.include = "params/generator/.*"
    config.sample.batch_size = 64
    two_optimizers(config, learning_rate=1e-4, b1=0.9, b2=0.95)

    config.model = ConfigDict()
    config.model.name = "tokenizers.AttentionAutoencoder"
    config.model.latent_channels = 256
    config.model.block_channels = (128, 128, 256, 256, 512)
    config.model.stem_channels = config_dict.placeholder(int)  # of the first convolution; None: as the first level
    config.model.decoder_channels = config_dict.placeholder(tuple)  # None: as the encoder's
    config.model.num_res_blocks = 2
    config.model.num_groups = 32

    config.quantizer = learned_codebook(num_codes=16_384, code_dim=8, unit_norm=True)
    vqvae.tokenizer(config)
    config.tokenizer.codebook_weight = 1.0
    config.tokenizer.commitment_weight = 0.25
    config.gan.weight = 0.5
    config.gan.feature_weight = 1.0
    config.gan.start_steps = 20_000
    return config


def two_optimizers(config: ConfigDict, **settings: float) -> ConfigDict:
    """Gives each player an optimizer with these settings."""
    config.optimizer = ConfigDict()
    config.optimizer.generator = common.optimizer()
    config.optimizer.discriminator = common.optimizer()
    for player in config.optimizer.values():
        player.update(settings)
    return config


def learned_codebook(*, num_codes: int, code_dim: int, unit_norm: bool) -> ConfigDict:
    """Returns the section of a codebook that is a parameter."""
    config = vqvae.averaged_codebook(num_codes=num_codes, code_dim=code_dim)
    config.unit_norm = unit_norm
    config.decay = None
    return config


def vq8() -> ConfigDict:
    """LlamaGen's VQ-8: 256x256 pixels to 32x32 codes of 16,384; 70,109,835 parameters."""
    config = vq16()
    config.model.block_channels = (128, 256, 256, 512)
    return config


def taming() -> ConfigDict:
    """Esser et al. 2021, ImageNet: 16x16 codes of 1,024, 256 numbers long, the adversarial loss weighted by gradients.

    The networks are LlamaGen's, which are theirs but for attention.
    """
    config = vq16()
    config.data.batch_size = 12
    config.train.num_steps = 1_000_000
    two_optimizers(config, learning_rate=4.5e-6 * 12, b1=0.5, b2=0.9)
    config.quantizer = learned_codebook(num_codes=1_024, code_dim=256, unit_norm=False)
    config.tokenizer.error = "absolute"
    config.gan.weight = 0.8
    config.gan.start_steps = 250_001
    config.gan.adaptive = True
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes to 8x8 codes of 128: some minutes on two CPU cores."""
    config = vq16()
    config.data.name = "shapes"
    config.data.image_size = None
    config.data.flip = False
    config.data.batch_size = 32
    config.train.num_steps = 1_000
    config.train.compute_dtype = "float32"
    config.train.sample_every_steps = 500
    config.train.checkpoint_every_steps = 500
    config.ema.decay = 0.99
    two_optimizers(config, learning_rate=1e-3, b1=0.9, b2=0.99)
    for player in config.optimizer.values():
        player.schedule = "cosine"
        player.warmup_steps = 50
        player.clip_norm = 1.0
    config.model.latent_channels = 32
    config.model.block_channels = (16, 32, 64)
    config.model.num_res_blocks = 1
    config.model.num_groups = 8
    config.quantizer.num_codes = 128
    config.gan.weight = 0.05
    config.gan.feature_weight = 0.1
    config.gan.start_steps = 300
    config.discriminator.width = 32
    config.discriminator.num_halvings = 2
    config.discriminator.num_groups = 8
    config.sample.batch_size = 100
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, to 7x7 codes of 128: some minutes on two CPU cores."""
    config = shapes()
    config.data.name = "fashion"
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits to 4x4 codes of 64: a minute on two CPU cores."""
    config = shapes()
    config.data.name = "digits"
    config.data.batch_size = 64
    config.model.block_channels = (16, 32)
    config.quantizer.num_codes = 64
    config.quantizer.code_dim = 4
    config.discriminator.num_halvings = 1
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests; with every loss."""
    config = common.tiny(digits())
    for player in config.optimizer.values():
        player.warmup_steps = 0
    config.model.latent_channels = 4
    config.model.block_channels = (4, 8)
    config.model.num_groups = 2
    config.quantizer.num_codes = 12
    config.tokenizer.entropy_weight = 0.1
    config.tokenizer.entropy_temperature = 1.0
    config.gan.start_steps = 1
    config.gan.adaptive = True
    config.discriminator.width = 4
    config.discriminator.num_groups = 2
    return config
