"""A VAE whose encoder and decoder are linear, so that what it computes is known in closed form."""

import jax.numpy as jnp
import numpy as np
from by_hand import waves
from flax import linen as nn
from specs import data_spec

from configs import vae as vae_config
from jaxgen.nn.conv_autoencoder import ConvDecoder, ConvEncoder
from jaxgen.variational import autoencoder

LATENTS, PIXELS, LEVELS = 2, 4, 17
SPEC = data_spec((2, 2, 1), levels=LEVELS)
ENCODER = waves(PIXELS, 2 * LATENTS, phase=0.3)


def decoder_weights(outputs: int) -> np.ndarray:
    return waves(LATENTS, PIXELS * outputs, phase=2.0)


class LinearEncoder(ConvEncoder):
    """Mean and log-variance, linear in the image."""

    @nn.compact
    def __call__(self, x, label=None):
        return self.param("scale", nn.initializers.ones, ()) * (x.reshape(len(x), -1) @ jnp.float32(ENCODER))


class LinearDecoder(ConvDecoder):
    """Outputs, linear in the latent."""

    @nn.compact
    def __call__(self, z, label=None):
        outputs = z @ jnp.float32(decoder_weights(self.image_shape[-1]))
        return self.param("scale", nn.initializers.ones, ()) * outputs.reshape(-1, *self.image_shape)


def use(monkeypatch) -> None:
    """Puts the linear networks in the place of the convolutional ones."""
    monkeypatch.setattr(autoencoder, "ConvEncoder", LinearEncoder)
    monkeypatch.setattr(autoencoder, "ConvDecoder", LinearDecoder)


def config_of(**settings):
    """The config of the linear model, trained by SGD, without classes."""
    config = vae_config.get_config("tiny")
    config.vae.update({"latent_dim": LATENTS, "sigma": 0.2, "learn_sigma": True, "class_conditional": False})
    config.vae.update(settings)
    config.optimizer.update({"name": "sgd", "learning_rate": 0.05, "b1": 0.0, "b2": 0.999, "schedule": "constant"})
    config.optimizer.warmup_steps = 0
    return config


def encode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance of flat images."""
    mean, logvar = np.split(x @ ENCODER, 2, axis=-1)
    return mean, logvar
