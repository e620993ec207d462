"""Finite scalar quantization (Mentzer et al. 2024): the tokenizers of `vqvae.py` and `vqgan.py` without a codebook."""

from ml_collections import ConfigDict

from configs import common, vqgan, vqvae


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, shapes (minutes on a CPU), tiny, fashion, cifar10, imagenet256 (as in the paper, by VQ-GAN)."""
    variants = {
        "digits": digits,
        "shapes": shapes,
        "tiny": tiny,
        "fashion": fashion,
        "cifar10": cifar10,
        "imagenet256": imagenet256,
    }
    return common.choose(variants, variant)


def levels(config: ConfigDict, levels: tuple[int, ...]) -> ConfigDict:
    """Puts a quantizer of so many levels in the place of a codebook, whose losses it does not have."""
    config.quantizer = ConfigDict({"name": "finite_scalar", "levels": levels})
    config.tokenizer.codebook_weight = 0.0
    config.tokenizer.commitment_weight = 0.0
    config.ema.include = "params/.*"
    return config


def cifar10() -> ConfigDict:
    """The networks of VQ-VAE at 32x32, 8x8 codes of 1,000 (8 x 5 x 5 x 5)."""
    return levels(vqvae.cifar10(), (8, 5, 5, 5))


def imagenet256() -> ConfigDict:
    """256x256 pixels to 16x16 codes of 1,000 with the networks and losses of VQ-GAN; section 5.1 of the paper."""
    config = levels(vqgan.vq16(), (8, 5, 5, 5))
    config.ema.include = "params/generator/.*"
    return config


def shapes() -> ConfigDict:
    """The procedural 32x32 shapes to 8x8 codes of 240 (8 x 6 x 5): some minutes on two CPU cores."""
    return levels(vqvae.shapes(), (8, 6, 5))


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, to 7x7 codes of 240: some minutes on two CPU cores."""
    return levels(vqvae.fashion(), (8, 6, 5))


def digits() -> ConfigDict:
    """Scikit-learn's 8x8 digits to 4x4 codes of 60 (5 x 4 x 3): a minute on two CPU cores."""
    return levels(vqvae.digits(), (5, 4, 3))


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    return levels(vqvae.tiny(), (65, 64))  # so many that the codes of any two images differ
