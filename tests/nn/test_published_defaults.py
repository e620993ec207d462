"""Defaults of networks, and of quantizers, are those of the published models that their docstrings name."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxgen.nn import r3gan, stylegan2_discriminator, stylegan2_generator, stylegan3_generator
from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.autoencoder_kl import AutoencoderKL
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.dit import DiT
from jaxgen.nn.edm2_unet import EDM2UNet
from jaxgen.nn.glow import Glow
from jaxgen.nn.just_image_transformer import JiT
from jaxgen.nn.masked_autoencoder import MaskedAutoencoder
from jaxgen.nn.masked_transformer import MaskedTransformer
from jaxgen.nn.pixel_transformer import PixelTransformer
from jaxgen.nn.pixelcnn import PixelCNN
from jaxgen.nn.pixelcnnpp import PixelCNNpp
from jaxgen.nn.quantizers.finite_scalar import FiniteScalarQuantizer
from jaxgen.nn.quantizers.vector_quantizer import VectorQuantizer
from jaxgen.nn.realnvp import RealNVP
from jaxgen.nn.residual_energy import ResidualEnergy
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.spline_flow import SplineFlow
from jaxgen.nn.token_denoiser import TokenDenoiser
from jaxgen.nn.tokenizers import AttentionAutoencoder, StridedAutoencoder
from jaxgen.nn.unet import UNet
from jaxgen.nn.vdvae import VeryDeepNetwork

R3GAN = {"widths": (768,) * 4, "groups": (96,) * 4, "blocks": (2,) * 4, "expansion": 2, "float32_stages": 1}
PUBLISHED = {
    # CIFAR-10, table 1 of van den Oord et al. 2016a.
    PixelCNN: {"hidden": 128, "num_blocks": 15, "kernel_size": 3, "first_kernel_size": 7, "head_features": 1024},
    # CIFAR-10, the official code.
    PixelCNNpp: {"filters": 160, "num_blocks": 5, "resolutions": 3, "dropout": 0.5, "transposed_norm": "output"},
    # LlamaGen-B; MaskGIT; MAR-B.
    PixelTransformer: {"hidden_size": 768, "depth": 12, "num_heads": 12, "multiple_of": 256},
    MaskedTransformer: {"hidden_size": 768, "depth": 24, "num_heads": 8, "mlp_ratio": 4.0, "dropout": 0.1},
    MaskedAutoencoder: {
        "buffer_size": 64, "hidden_size": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0,
        "attention_dropout": 0.1, "dropout": 0.1,
    },
    TokenDenoiser: {"hidden_size": 1024, "depth": 6},
    # LlamaGen's VQ-16; VQ-VAE.
    AttentionAutoencoder: {
        "code_dim": 8, "latent_channels": 256, "block_channels": (128, 128, 256, 256, 512), "num_res_blocks": 2,
        "num_groups": 32, "stem_channels": None, "decoder_channels": None,
    },
    StridedAutoencoder: {"code_dim": 64, "width": 256, "num_halvings": 2, "num_res_blocks": 2},
    VectorQuantizer: {"num_codes": 512, "unit_norm": False, "decay": None, "epsilon": 1e-5, "revive_below": 0.0},
    FiniteScalarQuantizer: {"levels": (8, 5, 5, 5)},
    # Flows of CIFAR-10.
    Glow: {"levels": 3, "steps": 32, "width": 512, "lu": False, "learn_prior": True, "dropout": 0.0, "plain": False},
    RealNVP: {"levels": 2, "couplings": 3, "width": 64, "blocks": 8, "dropout": 0.0},
    SplineFlow: {
        "levels": 3, "steps": 7, "width": 96, "blocks": 3, "bins": 4, "bound": 3.0, "split_prior": True, "dropout": 0.0,
    },
    VeryDeepNetwork: {"width": 384, "latent_channels": 16, "bottleneck": 0.25, "bias_up_to": 64},
    # The U-Nets of CIFAR-10: DDPM, improved DDPM, DDPM++; of ImageNet: ADM in EDM's code, EDM2-S.
    UNet: {
        "base_channels": 128, "channel_multipliers": (1, 2, 2, 2), "num_res_blocks": 2, "attention_resolutions": (16,),
        "dropout": 0.1, "num_groups": 32, "num_heads": 1, "patch_size": 1,
    },
    ADMUNet: {
        "base_channels": 128, "channel_multipliers": (1, 2, 2, 2), "num_res_blocks": 3,
        "attention_resolutions": (16, 8), "num_heads": 4, "head_channels": 0, "use_scale_shift_norm": True,
        "resblock_updown": False, "use_new_attention_order": False, "dropout": 0.0,
    },
    SongUNet: {
        "base_channels": 128, "channel_multipliers": (2, 2, 2), "num_res_blocks": 4, "attention_resolutions": (16,),
        "embedding": "positional", "noise_channel_multiplier": 1, "encoder": "standard", "resample_filter": (1, 1),
        "dropout": 0.13,
    },
    DhariwalUNet: {
        "base_channels": 192, "channel_multipliers": (1, 2, 3, 4), "num_res_blocks": 3,
        "attention_resolutions": (32, 16, 8), "head_channels": 64, "dropout": 0.1,
    },
    EDM2UNet: {
        "base_channels": 192, "channel_multipliers": (1, 2, 3, 4), "num_res_blocks": 3,
        "attention_resolutions": (16, 8), "channels_per_head": 64, "dropout": 0.0, "label_balance": 0.5,
        "concat_balance": 0.5, "res_balance": 0.3, "attn_balance": 0.3,
    },
    AutoencoderKL: {
        "latent_channels": 4, "block_channels": (128, 256, 512, 512), "num_res_blocks": 2, "num_groups": 32,
    },
    # DiT-S/2; JiT-B/16.
    DiT: {
        "patch_size": 2, "hidden_size": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0, "qk_norm": False,
        "dropout": 0.0,
    },
    JiT: {
        "patch_size": 16, "hidden_size": 768, "depth": 12, "num_heads": 12, "bottleneck": 128, "mlp_ratio": 4.0,
        "context_tokens": 32, "context_start": 4, "dropout": 0.0,
    },
    # R3GAN of CIFAR-10; StyleGAN2 and StyleGAN3-T of FFHQ.
    r3gan.Generator: R3GAN | {"latent_dim": 64},
    r3gan.Discriminator: R3GAN,
    stylegan2_generator.Generator: {
        "latent_dim": 512, "w_dim": 512, "num_mapping_layers": 8, "channel_base": 32_768, "channel_max": 512,
        "style_mixing": 0.9, "w_avg_decay": 0.995,
    },
    stylegan2_discriminator.Discriminator: {
        "architecture": "resnet", "channel_base": 32_768, "channel_max": 512, "group_size": 4, "num_mapping_layers": 8,
    },
    stylegan3_generator.Generator: {
        "latent_dim": 512, "w_dim": 512, "num_mapping_layers": 2, "channel_base": 32_768, "channel_max": 512,
        "num_layers": 14, "num_critical": 2, "margin": 10, "kernel_size": 3, "radial_filters": False,
        "output_scale": 0.25, "clamp": 256.0, "style_mixing": 0.0, "w_avg_decay": 0.998, "magnitude_decay": 0.999,
    },
    ResidualEnergy: {"num_blocks": 3, "num_downsampling": 3, "activation": "swish", "pooling": "sum"},
}  # fmt: skip


@pytest.mark.parametrize("network", PUBLISHED, ids=lambda network: f"{network.__module__}.{network.__name__}")
def test_defaults_are_the_published_ones(network):
    defaults = {field.name: field.default for field in dataclasses.fields(network)}
    assert {name: defaults[name] for name in PUBLISHED[network]} == PUBLISHED[network]


SMALL = {"base_channels": 8, "channel_multipliers": (1, 1), "num_res_blocks": 1, "attention_resolutions": (8,)}
EPSILONS = {
    "ddpm": (UNet(3, **SMALL, num_groups=4), 1e-6),
    "adm": (ADMUNet(3, **SMALL), 1e-5),
    "song": (SongUNet(3, **SMALL), 1e-6),
    "dhariwal": (DhariwalUNet(3, **SMALL, head_channels=8), 1e-5),
    "dit": (DiT(3, hidden_size=12, depth=1), 1e-6),
    "jit": (JiT(3, patch_size=4, hidden_size=12, depth=2, num_heads=1, context_start=1, bottleneck=3), 1e-6),
    "autoencoder": (AutoencoderKL(block_channels=(8, 8), num_groups=4), 1e-6),
}


@pytest.mark.parametrize("name", EPSILONS)
def test_epsilons_of_normalizations_are_the_official_ones(name):
    network, expected = EPSILONS[name]
    options = {} if name == "autoencoder" else {"noise_label": jnp.zeros(1), "train": False}
    found = set()

    def record(method, args, kwargs, context):
        if hasattr(context.module, "epsilon"):
            found.add(context.module.epsilon)
        return method(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), **options))
    assert found == {expected}
