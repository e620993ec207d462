"""Langevin dynamics against closed forms: a step in NumPy, and the variance of a Gaussian after many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import keys
from jaxgen.energy import langevin
from jaxgen.energy.langevin import Dynamics

SHAPE = (2, 1, 2)


def keys_of(count, seed=3):
    return keys.per_example(keys.root_key(seed), jnp.arange(count))


def quadratic(precision, mean):
    """The gradient of half the squared distance from the mean, times the precision."""
    return langevin.gradient_of(lambda x: 0.5 * precision * jnp.sum((x - mean) ** 2, axis=(1, 2, 3)))


@pytest.mark.parametrize(
    "dynamics",
    [
        Dynamics(step_size=0.2, temperature=0.5, max_gradient=None, clip=False),
        Dynamics(step_size=0.3, temperature=0.0, max_gradient=0.7, clip=False),
        Dynamics(step_size=0.2, temperature=2.0, max_gradient=None, clip=True),
    ],
)
def test_steps_by_hand(dynamics):
    """At two noise levels, by the noise of each image's key and step."""
    chain_keys, sigmas = keys_of(3), np.array([1.5, 0.4])
    start = np.linspace(-0.9, 1.4, 12).reshape(3, *SHAPE)
    x = np.array(start)
    for number, sigma in enumerate(sigmas):
        g = 1.7 * (x - 0.1)
        if dynamics.max_gradient is not None:
            assert np.abs(g).max() > dynamics.max_gradient > np.abs(g).min()
            g = np.clip(g, -dynamics.max_gradient, dynamics.max_gradient)
        z = [jax.random.normal(jax.random.fold_in(key, number), SHAPE) for key in chain_keys]
        noise = np.sqrt(2 * dynamics.step_size * sigma**2 * dynamics.temperature) * np.stack(z)
        x = x - dynamics.step_size * sigma**2 * g / sigma + noise
        if dynamics.clip:
            assert np.abs(x).max() > 1.0
            x = np.clip(x, -1.0, 1.0)
    run = jax.jit(lambda x: langevin.run(chain_keys, quadratic(1.7, 0.1), x, jnp.asarray(sigmas), dynamics))
    np.testing.assert_allclose(run(jnp.float32(start)), x, rtol=1e-4, atol=1e-5)


def test_the_variance_of_a_gaussian_follows_its_recursion_to_the_stationary_one():
    """One step has variance (1 - a k)^2 v + 2 a T; it ends at T / (k (1 - a k / 2)), near T / k."""
    a, k, temperature, mean, start = 0.15, 2.5, 0.6, 0.4, 1.3
    dynamics = Dynamics(a, temperature, clip=False)
    count = 6000
    x = jnp.broadcast_to(jnp.float32(start), (count, *SHAPE))

    @jax.jit
    def after(x):
        gradient = quadratic(k, mean)
        few = langevin.run(keys_of(count), gradient, x, jnp.ones(2), dynamics)
        return few, langevin.run(keys_of(count, 4), gradient, few, jnp.ones(60), dynamics)

    few, many = (np.asarray(y, np.float64) for y in after(x))
    variance = (1 - a * k) ** 2 * 2 * a * temperature + 2 * a * temperature
    stationary = temperature / (k * (1 - a * k / 2))
    error = np.sqrt(2 / few.size)  # of a variance, relative
    np.testing.assert_allclose(few.var(), variance, rtol=5 * error)
    np.testing.assert_allclose(many.var(), stationary, rtol=5 * error)
    np.testing.assert_allclose(
        few.mean(), mean + (1 - a * k) ** 2 * (start - mean), atol=5 * np.sqrt(variance / few.size)
    )
    np.testing.assert_allclose(many.mean(), mean, atol=5 * np.sqrt(stationary / few.size))
    neighbors = np.corrcoef(many.reshape(count, -1), rowvar=False) - np.eye(4)
    assert np.abs(neighbors).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"step_size": 0.0}, r"langevin\.step_size is 0\.0, but must be positive"),
        ({"temperature": -0.1}, r"langevin\.temperature is -0\.1, but must be at least 0"),
        ({"max_gradient": 0.0}, r"langevin\.max_gradient is 0\.0, but must be positive, or None"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Dynamics(**settings).check("langevin")


def test_numbers_at_the_ends_of_their_ranges_are_taken():
    Dynamics(step_size=1e-9, temperature=0.0, max_gradient=1e-9).check("langevin")
    Dynamics().check("langevin")
    assert Dynamics() == (0.01, 1.0, None, False)
