"""Consistency functions: the boundary, the loss's limits, and sampling a known Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import keys
from jaxgen.diffusion.few_step import consistency
from jaxgen.diffusion.process import algebra, parameterizations, paths

multistep = jax.jit(consistency.multistep, static_argnums=(1, 2), static_argnames="sigma_min")
SHAPE = (3, 4, 4, 2)


def images(seed):
    return jax.random.normal(jax.random.key(seed), SHAPE)


def test_at_sigma_min_the_function_is_the_identity_whatever_the_network_says():
    c_skip, c_out = consistency.boundary_scalings(jnp.array([0.002, 0.3]), sigma_min=0.002, sigma_data=0.5)
    assert (c_skip[0], c_out[0]) == (1.0, 0.0)
    assert c_skip[1] < 1.0
    assert c_out[1] > 0.0


def test_scalings_are_those_of_appendix_c():
    sigma = np.array([0.2, 0.5, 7.0])
    c_skip, c_out = consistency.boundary_scalings(jnp.float32(sigma), sigma_min=0.2, sigma_data=0.7)
    np.testing.assert_allclose(c_skip, 0.49 / ((sigma - 0.2) ** 2 + 0.49), rtol=1e-5)
    np.testing.assert_allclose(c_out, 0.7 * (sigma - 0.2) / np.sqrt(sigma**2 + 0.49), rtol=1e-5)


def test_sampling_is_algorithm_1():
    image_keys = keys.per_example(jax.random.key(3), jnp.arange(2))
    sigmas = np.array([9.0, 3.0, 1.5])
    noises = [np.asarray(keys.normal(keys.fold_each(image_keys, name), (2, 3, 1))) for name in ("initial_noise", 1, 2)]

    def function(x, sigma):
        return 0.3 * x + 0.1 * sigma[:, None, None, None] ** 2

    x = function(9.0 * noises[0], np.full(2, 9.0))
    for sigma, noise in zip(sigmas[1:], noises[1:], strict=True):
        x = function(x + np.sqrt(sigma**2 - 0.5**2) * noise, np.full(2, sigma))
    drawn = multistep(image_keys, function, (2, 3, 1), jnp.float32(sigmas), sigma_min=0.5)
    np.testing.assert_allclose(drawn, x, rtol=1e-5)


def test_paths_that_start_at_0_have_the_scalings_of_edm():
    sigma, x, prediction = jnp.array([0.1, 1.0, 30.0]), images(0), images(1)
    c_skip, c_out = consistency.boundary_scalings(sigma, sigma_min=0.0, sigma_data=0.7)
    path, edm = paths.normalized(sigma_data=0.7), parameterizations.edm(sigma_data=0.7)
    expected = algebra.clean(algebra.mixture(path, edm, sigma), algebra.per_image(path(sigma)) * x, prediction)
    actual = algebra.per_image(c_skip) * x + algebra.per_image(c_out) * prediction
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_pseudo_huber_is_quadratic_near_0_and_linear_far_away():
    d = images(0)
    norm = np.sqrt((np.asarray(d) ** 2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(consistency.pseudo_huber(d, c=1.0), np.sqrt(norm**2 + 1.0) - 1.0, rtol=1e-5)
    np.testing.assert_allclose(consistency.pseudo_huber(1e-3 * d, c=10.0), 1e-6 * norm**2 / 20.0, rtol=1e-4)
    np.testing.assert_allclose(consistency.pseudo_huber(1e3 * d, c=0.1), 1e3 * norm - 0.1, rtol=1e-5)


def gaussian_start(x, sigma, *, mean=0.3, tau=0.2, sigma_min=0.002):
    """The exact consistency function of N(mean, tau^2)."""
    return mean + (x - mean) * algebra.per_image(jnp.sqrt((sigma_min**2 + tau**2) / (sigma**2 + tau**2)))


def test_sampling_by_the_exact_function_of_a_gaussian_gives_the_gaussian():
    image_keys = keys.per_example(jax.random.key(0), jnp.arange(64))
    for sigmas in ([80.0], [80.0, 1.0, 0.3, 0.1]):
        drawn = multistep(image_keys, gaussian_start, (16, 16, 1), jnp.array(sigmas), sigma_min=0.002)
        np.testing.assert_allclose((drawn.mean(), drawn.std()), (0.3, 0.2), rtol=0.02)


def test_every_image_and_every_step_has_noise_of_its_own():
    image_keys = keys.per_example(jax.random.key(0), jnp.arange(4))

    def draw(image_keys, function):
        return multistep(image_keys, function, (8, 8, 1), jnp.array([9.0, 3.0, 3.0]), sigma_min=2.0)

    whole = draw(image_keys, gaussian_start)
    np.testing.assert_allclose(whole[2:], draw(image_keys[2:], gaussian_start), atol=1e-6)
    # A function that keeps its input adds all noise up: 9^2 + 2 (3^2 - 2^2), if the noises are independent.
    summed = draw(keys.per_example(jax.random.key(1), jnp.arange(200)), lambda x, sigma: x)
    np.testing.assert_allclose(summed.var(), 81.0 + 2.0 * 5.0, rtol=0.05)
