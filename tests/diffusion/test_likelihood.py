"""Likelihoods by the probability-flow ODE, against the densities of Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_targets import MU, TAU, ideal_denoiser, keys_of, ode_solution

from jaxgen.core.gaussians import bin_width
from jaxgen.diffusion.likelihood import ode
from jaxgen.diffusion.process import levels, schedules

BIN = bin_width(256)
LEVELS = levels.exponential(schedules.linear(), 40, sigma_min=0.01, sigma_max=80.0)
X = MU + TAU * jax.random.normal(jax.random.key(0), (5, 2, 2, 1))


def gaussian_log_density(x, mu, variance):
    return np.sum(-0.5 * (np.asarray(x) - mu) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance), axis=(1, 2, 3))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_density_of_a_gaussian(trace):
    # Its denoiser's Jacobian is a multiple of the identity, whose trace Hutchinson's estimate gets exactly.
    ours = jax.jit(lambda x: ode.log_density(keys_of(5), ideal_denoiser(), x, LEVELS, trace=trace))(X)
    # The prior N(0, sigma_max^2) through the exact flow, which is affine; and the target, whose mean it neglects.
    end = ode_solution(X, 0.01, 80.0)
    stretch = 4 * np.log(np.sqrt((TAU**2 + 80.0**2) / (TAU**2 + 0.01**2)))
    np.testing.assert_allclose(ours, gaussian_log_density(end, 0.0, 80.0**2) + stretch, atol=1e-3)
    np.testing.assert_allclose(ours, gaussian_log_density(X, MU, TAU**2 + 0.01**2), atol=0.05)


def test_the_prior_of_a_variance_preserving_process():
    # For x_0 ~ N(0, I), N(0, 1 + sigma^2) is exact at any noise level, even a low one.
    sigmas = levels.exponential(schedules.linear(), 20, sigma_min=0.1, sigma_max=2.0)

    def log_density(variance_preserving):
        return ode.log_density(keys_of(5), ideal_denoiser(0.0, 1.0), X, sigmas, variance_preserving=variance_preserving)

    expected = gaussian_log_density(X, 0.0, 1.0 + 0.1**2)
    np.testing.assert_allclose(log_density(True), expected, atol=1e-3)
    assert np.abs(log_density(False) - expected).max() > 0.1


def correlated_denoiser(covariance):
    """The ideal denoiser of N(0, covariance) over the 4 pixels of an image."""

    def denoise(x, sigma):
        gain = jax.vmap(lambda s: covariance @ jnp.linalg.inv(covariance + s**2 * jnp.eye(4)))(sigma)
        return jnp.einsum("nij,nj->ni", gain, x.reshape(len(x), 4)).reshape(x.shape)

    return denoise


def test_traces_of_correlated_pixels():
    root = np.random.default_rng(1).normal(size=(4, 4)) * 0.4
    covariance = root @ root.T + 0.05 * np.eye(4)
    denoise, sigmas = correlated_denoiser(jnp.asarray(covariance, jnp.float32)), LEVELS[::2]
    x = jnp.broadcast_to(X[:1], (256, 2, 2, 1))

    @jax.jit
    def both(keys):
        exact = ode.log_density(keys[:1], denoise, x[:1], sigmas, trace="exact")
        return exact, ode.log_density(keys, denoise, x, sigmas)

    exact, estimates = both(keys_of(256))
    noisy = covariance + 0.01**2 * np.eye(4)
    pixels = np.asarray(X[0]).ravel()
    expected = -0.5 * pixels @ np.linalg.solve(noisy, pixels) - 0.5 * np.linalg.slogdet(2 * np.pi * noisy)[1]
    np.testing.assert_allclose(exact[0], expected, atol=0.02)
    assert estimates.std() > 0.05
    np.testing.assert_allclose(estimates.mean(), exact[0], atol=4.0 * float(estimates.std()) / 16.0)


def test_dequantization_spreads_images_over_their_levels():
    images = jnp.full((4, 16, 16, 1), 3.0 * BIN - 1.0)
    offsets = (ode.dequantize(keys_of(4), images, 256) - images) / BIN
    assert np.abs(offsets).max() <= 0.5 + 1e-4
    np.testing.assert_allclose([offsets.mean(), offsets.var()], [0.0, 1.0 / 12.0], atol=0.03)


def test_the_probability_of_a_level_is_its_bins():
    # A density that is nearly constant over a bin gives the level a probability of density times width.
    images = jnp.round((X + 1.0) / BIN) * BIN - 1.0
    ours = jax.jit(lambda x: ode.log_prob(keys_of(5), ideal_denoiser(), x, LEVELS, levels=256))(images)
    expected = gaussian_log_density(images, MU, TAU**2 + 0.01**2) + 4 * np.log(2.0 / 255.0)
    np.testing.assert_allclose(ours, expected, atol=0.08)
