"""Defaults of networks, and of quantizers, are those of the published models that their docstrings name."""

import dataclasses

import pytest

from jaxgen.nn.glow import Glow
from jaxgen.nn.masked_autoencoder import MaskedAutoencoder
from jaxgen.nn.masked_transformer import MaskedTransformer
from jaxgen.nn.pixel_transformer import PixelTransformer
from jaxgen.nn.pixelcnn import PixelCNN
from jaxgen.nn.pixelcnnpp import PixelCNNpp
from jaxgen.nn.quantizers.finite_scalar import FiniteScalarQuantizer
from jaxgen.nn.quantizers.vector_quantizer import VectorQuantizer
from jaxgen.nn.realnvp import RealNVP
from jaxgen.nn.residual_energy import ResidualEnergy
from jaxgen.nn.spline_flow import SplineFlow
from jaxgen.nn.token_denoiser import TokenDenoiser
from jaxgen.nn.tokenizers import AttentionAutoencoder, StridedAutoencoder
from jaxgen.nn.vdvae import VeryDeepNetwork

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
    ResidualEnergy: {"num_blocks": 3, "num_downsampling": 3, "activation": "swish", "pooling": "sum"},
}  # fmt: skip


@pytest.mark.parametrize("network", PUBLISHED, ids=lambda network: network.__name__)
def test_defaults_are_the_published_ones(network):
    defaults = {field.name: field.default for field in dataclasses.fields(network)}
    assert {name: defaults[name] for name in PUBLISHED[network]} == PUBLISHED[network]
