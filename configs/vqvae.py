"""VQ-VAE (van den Oord et al. 2017): images to codes; then `launch.py encode`, and a prior such as `maskgit.py`."""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, shapes (minutes on a CPU), tiny, fashion, cifar10, imagenet128 (the paper's), residual."""
    variants = {
        "digits": digits,
        "shapes": shapes,
        "tiny": tiny,
        "fashion": fashion,
        "cifar10": cifar10,
        "imagenet128": imagenet128,
        "residual": residual,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """Section 4.1 of the paper at 32x32: 8x8 codes of 512, by moving averages (appendix A.1), 250k steps."""
    config = common.base()
    config.method = "vae.vector_quantized"
    config.data.name = "cifar10"
    config.data.flip = True
    config.train.num_steps = 250_000
    config.ema.decay = 0.999
    config.ema.include = "params/.*|model_state/codebooks/.*"

    config.model = ConfigDict()
    config.model.name = "tokenizers.StridedAutoencoder"
    config.model.width = 256
    config.model.num_halvings = 2
    config.model.num_res_blocks = 2

    config.quantizer = averaged_codebook(num_codes=512, code_dim=64)
    tokenizer(config)
    config.tokenizer.commitment_weight = 0.25
    return config


def averaged_codebook(*, num_codes: int, code_dim: int) -> ConfigDict:
    """Returns the section of a codebook of moving averages."""
    config = ConfigDict()
    config.name = "vector_quantizer"
    config.num_codes = num_codes
    config.code_dim = code_dim
    config.unit_norm = False
    config.decay = config_dict.FieldReference(0.99, field_type=float)  # None: a parameter, by tokenizer.codebook_weight
    config.epsilon = 1e-5
    config.revive_below = 0.0  # above 0: codes that are chosen less often than this become vectors of the batch
    return config


def tokenizer(config: ConfigDict) -> ConfigDict:
    """Adds the sections of the losses: of codebooks, and of a discriminator, which is off; see vqgan.py."""
    config.tokenizer = ConfigDict()
    config.tokenizer.error = "squared"  # or "absolute"
    config.tokenizer.codebook_weight = 0.0
    config.tokenizer.commitment_weight = 0.0
    config.tokenizer.entropy_weight = 0.0
    config.tokenizer.entropy_temperature = 0.01

    config.gan = ConfigDict()
    config.gan.weight = 0.0  # above 0, the optimizer has the subsections generator and discriminator
    config.gan.feature_weight = 0.0
    config.gan.start_steps = 0
    config.gan.adaptive = False

    config.discriminator = ConfigDict()
    config.discriminator.width = 64
    config.discriminator.num_halvings = 3
    config.discriminator.num_groups = 32
    return config


def imagenet128() -> ConfigDict:
    """Section 4.2 of the paper: 128x128 pixels to 32x32 codes of 512."""
    config = cifar10()
    config.data.name = "imagenet2012"
    config.data.image_size = 128
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes to 8x8 codes of 128: some minutes on two CPU cores."""
    config = cifar10()
    config.data.name = "shapes"
    config.data.flip = False
    config.data.batch_size = 64
    config.train.num_steps = 1_500
    config.train.sample_every_steps = 500
    config.train.checkpoint_every_steps = 500
    config.ema.decay = 0.99
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.model.width = 64
    config.quantizer.num_codes = 128
    config.quantizer.code_dim = 16
    config.quantizer.decay = 0.95
    config.quantizer.revive_below = 0.1
    config.sample.batch_size = 100
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, to 7x7 codes of 256: some minutes on two CPU cores."""
    config = shapes()
    config.data.name = "fashion"
    config.quantizer.num_codes = 256
    return config


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits to 4x4 codes of 64: a minute on two CPU cores."""
    config = shapes()
    config.data.name = "digits"
    config.model.num_halvings = 1
    config.model.width = 32
    config.quantizer.num_codes = 64
    config.quantizer.code_dim = 8
    config.discriminator.num_halvings = 1
    return config


def residual() -> ConfigDict:
    """The digits by residual quantization (Lee et al. 2022): 4x4 places with 4 codes of 16 each."""
    config = digits()
    config.quantizer.name = "residual"
    del config.quantizer.unit_norm
    config.quantizer.num_codebooks = 4
    config.quantizer.num_codes = 16
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.optimizer.warmup_steps = 0
    config.model.width = 4
    config.model.num_res_blocks = 1
    config.quantizer.num_codes = 12
    config.quantizer.code_dim = 3
    config.quantizer.decay = 0.8
    config.quantizer.revive_below = 0.9
    return config
