"""Classifier-free guidance between Gaussians, in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import guidance

MEANS, NULL_MEAN, TAU, SIGMA = (-0.5, 0.5), 0.1, 0.4, 0.8
LABEL = jnp.array([1, 0, 1])
X = jnp.linspace(-1.0, 1.0, 3 * 4).reshape(3, 2, 2, 1)


class CountingDenoiser:
    """The ideal denoiser of N(mean[label], tau^2), label 2 standing for no class; remembers its batch sizes."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, sigma, label):
        self.batches.append(len(x))
        mu, sigma = jnp.array([*MEANS, NULL_MEAN])[label][:, None, None, None], sigma[:, None, None, None]
        return mu + TAU**2 / (TAU**2 + sigma**2) * (x - mu)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 3.0])
def test_guidance_moves_the_mean_along_the_classes(scale):
    # Two Gaussians of equal variance extrapolate to a Gaussian of that variance about the extrapolated mean.
    guided = guidance.classifier_free(CountingDenoiser(), LABEL, null_label=2, scale=scale)
    mu = NULL_MEAN + scale * (jnp.array(MEANS)[LABEL] - NULL_MEAN)
    mu = mu[:, None, None, None]
    expected = mu + TAU**2 / (TAU**2 + SIGMA**2) * (X - mu)
    np.testing.assert_allclose(guided(X, jnp.full(3, SIGMA)), expected, atol=1e-6)


@pytest.mark.parametrize(("scale", "batches"), [(1.0, [3]), (2.0, [6])])
def test_guidance_costs_one_call_and_none_extra_at_scale_one(scale, batches):
    denoise = CountingDenoiser()
    guidance.classifier_free(denoise, LABEL, null_label=2, scale=scale)(X, jnp.full(3, SIGMA))
    assert denoise.batches == batches
