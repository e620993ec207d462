"""Bounds of a linear VAE, probabilistic PCA (Tipping and Bishop 1999), against its exact likelihood."""

import itertools

import jax
import jax.numpy as jnp
import linear_vae
import numpy as np
import pytest
from flax import linen as nn
from linear_vae import LATENTS, PIXELS, SPEC
from scipy import stats

from jaxgen.core import keys
from jaxgen.core.config import Section
from jaxgen.variational.autoencoder import make_autoencoder
from jaxgen.variational.inference import weigh

SIGMA = 0.6
# Orthogonal columns, so that the exact posterior has independent dimensions.
W = np.array([[0.9, 0.2], [0.9, -0.2], [-0.3, 0.6], [-0.3, -0.6]])
X = np.array([[0.5, -0.2, 0.1, 0.9], [-1.0, 0.7, 0.3, 0.0]])
PRECISION = 1 + (W**2).sum(0) / SIGMA**2  # of the exact posterior


class Encoder(linear_vae.LinearEncoder):
    """The exact posterior, moved and scaled by the parameters."""

    @nn.compact
    def __call__(self, x, label=None):
        shift = self.param("shift", nn.initializers.zeros, ())
        scale = self.param("scale", nn.initializers.ones, ())
        mean = x.reshape(len(x), -1) @ jnp.float32(W / SIGMA**2 / PRECISION) + shift
        logvar = jnp.broadcast_to(jnp.log(scale**2 / jnp.float32(PRECISION)), mean.shape)
        return jnp.concatenate([mean, logvar], axis=-1)


class Decoder(linear_vae.LinearDecoder):
    """W z."""

    @nn.compact
    def __call__(self, z, label=None):
        return (z @ jnp.float32(W.T)).reshape(-1, 2, 2, 1)


@pytest.fixture(scope="module")
def pca():
    config = Section(linear_vae.config_of(sigma=SIGMA, learn_sigma=False).to_dict())
    autoencoder = make_autoencoder(config, SPEC)
    return autoencoder._replace(encoder=Encoder(2 * LATENTS), decoder=Decoder((2, 2, 1)))


def bounds(autoencoder, count, repeats, *, shift, scale):
    params = {"encoder": {"shift": jnp.float32(shift), "scale": jnp.float32(scale)}, "decoder": {}}
    example_keys = jax.random.split(keys.root_key(count), 2 * repeats)
    images = jnp.repeat(jnp.float32(X).reshape(-1, 2, 2, 1), repeats, axis=0)

    @jax.jit
    def bound(example_keys, images):
        likelihood = autoencoder.likelihood.training
        return weigh(autoencoder, likelihood, example_keys, params, images, {}, count).bound()

    return np.float64(bound(example_keys, images)).reshape(2, repeats)


EXACT = stats.multivariate_normal(np.zeros(PIXELS), W @ W.T + SIGMA**2 * np.eye(PIXELS)).logpdf(X)


@pytest.mark.parametrize("count", [1, 3])
def test_with_the_exact_posterior_every_draw_gives_the_exact_likelihood(pca, count):
    found = bounds(pca, count, 5, shift=0.0, scale=1.0)
    np.testing.assert_allclose(found, np.broadcast_to(EXACT[:, None], (2, 5)), rtol=1e-4)


def test_evidence_lower_bound_then_importance_weighted_ones_then_the_likelihood(pca):
    shift, scale, repeats = 0.3, 1.3, 4_000
    found = {count: bounds(pca, count, repeats, shift=shift, scale=scale) for count in (1, 4, 32)}
    mean = X @ (W / SIGMA**2 / PRECISION) + shift
    variance = scale**2 / PRECISION
    # E_q[log p(x | z)] - KL(q || p) in closed form.
    error = ((X - mean @ W.T) ** 2).sum(1) + (variance * (W**2).sum(0)).sum()
    reconstruction = -0.5 * error / SIGMA**2 - 0.5 * PIXELS * np.log(2 * np.pi * SIGMA**2)
    elbo = reconstruction - 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1)
    averages = {count: values.mean(1) for count, values in found.items()}
    errors = {count: values.std(1) / np.sqrt(repeats) for count, values in found.items()}
    assert np.all(np.abs(averages[1] - elbo) < 5 * errors[1])
    chain = [elbo, averages[4], averages[32], EXACT]
    for lower, higher in itertools.pairwise(chain):
        assert np.all(higher - lower > 1e-3)
    assert np.all(EXACT - averages[32] < 0.1 * (EXACT - elbo))
