"""Projection of images: searches that end at known latents, their schedules, the penalty on noise, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.applications.latents.projection import (
    ProjectionSettings,
    noise_penalty,
    pixel_distance,
    project,
    search,
)

KEYS = jax.random.split(jax.random.key(0), 2)
BASIS = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(12, 3)))[0].T, jnp.float32)
LATENTS = jnp.array([[0.5, -0.3, 0.8], [-1.0, 0.2, 0.1]])
QUICK = ProjectionSettings(steps=300, learning_rate=0.1)


def generate(variables, points, noise):
    images = (points @ variables).reshape(-1, 2, 3, 2)
    return images + 0.1 * noise[0][..., None] if noise else images


def test_the_search_ends_at_the_latents_of_the_targets_one_by_one():
    targets = generate(BASIS, LATENTS, ())

    @jax.jit
    def found(keys, targets, start):
        return project(keys, BASIS, targets, start, generate, QUICK, scale=2.0)

    state, distances = found(KEYS, targets, jnp.zeros((2, 3)))
    np.testing.assert_allclose(state.points, LATENTS, atol=1e-3)
    assert distances.shape == (300, 2)
    start = np.asarray(targets)
    np.testing.assert_allclose(distances[0], (start**2).mean((1, 2, 3)), rtol=0.5)
    alone, _ = found(KEYS[1:], targets[1:], jnp.zeros((1, 3)))
    np.testing.assert_allclose(alone.points[0], state.points[1], atol=1e-5)


def test_the_distance_is_that_of_the_given_function():
    targets = generate(BASIS, LATENTS, ())

    def of_the_first_channel(images, others):
        return jnp.sum((images - others)[..., 0] ** 2, axis=(1, 2))

    own = search(generate, QUICK._replace(exploration=0.0), distance=of_the_first_channel)
    start = own.init(jnp.zeros((2, 3)), ())
    _, distances = jax.jit(lambda: own.step(KEYS, BASIS, targets, 1.0, start, 0))()
    squares = np.asarray(targets) ** 2
    np.testing.assert_allclose(distances, squares[..., 0].sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(pixel_distance(targets, 0.0 * targets), squares.mean((1, 2, 3)), rtol=1e-5)


def steps_of(settings, steps, *, scale=1.0):
    """The changes of points of a generator whose gradient has constant sign, so that Adam moves by its rate alone."""
    downhill = search(
        lambda variables, points, noise: points[:, :, None, None], settings, distance=lambda x, _: x.sum((1, 2, 3))
    )
    targets = jnp.zeros((2, 1, 1, 1))
    state = downhill.init(jnp.zeros((2, 1)), ())
    step = jax.jit(lambda state, i: downhill.step(KEYS, (), targets, scale, state, i))
    points, seen = [state.points], []
    for i in range(steps):
        state, distances = step(state, i)
        points.append(state.points)
        seen.append(distances)
    return -np.diff(np.stack(points)[:, 0, 0]), np.stack(seen)


def test_the_rate_rises_stays_and_falls():
    settings = ProjectionSettings(steps=20, learning_rate=0.4, warmup=0.2, cooldown=0.5, exploration=0.0)
    rates, _ = steps_of(settings, 20)
    t = np.arange(20) / 20
    expected = 0.4 * np.minimum(1, t / 0.2) * (0.5 - 0.5 * np.cos(np.pi * np.minimum(1, (1 - t) / 0.5)))
    np.testing.assert_allclose(rates, expected, atol=1e-5)
    constant, _ = steps_of(settings._replace(warmup=0.0, cooldown=0.0), 3)
    np.testing.assert_allclose(constant, 0.4, rtol=1e-4)


def test_the_defaults_are_those_of_the_official_projector():
    assert ProjectionSettings() == (1000, 0.1, 0.05, 0.25, 0.05, 0.75, 1e5)


def test_exploration_falls_as_the_square_of_the_time_that_is_left():
    settings = ProjectionSettings(steps=10, learning_rate=0.0, exploration=0.5, exploration_end=0.5)
    _, seen = steps_of(settings, 7, scale=3.0)
    _, louder = steps_of(settings._replace(exploration=1.0), 7, scale=3.0)
    left = np.maximum(1.0 - np.arange(7) / 5.0, 0.0) ** 2
    noise = seen[:5] / (1.5 * left[:5, None])
    assert 0.3 < np.abs(noise).mean() < 2.0  # the standard normal draws
    np.testing.assert_allclose(louder, 2.0 * seen, rtol=1e-4)
    np.testing.assert_array_equal(seen[5:], np.zeros((2, 2)))
    assert len(np.unique(noise)) == 10


def test_noise_is_searched_stays_standard_and_is_penalized_where_it_is_an_image():
    maps = jax.random.normal(jax.random.key(5), (2, 2, 3))
    targets = generate(BASIS, LATENTS, ()) + 0.1 * maps[..., None]
    start = (jax.random.normal(jax.random.key(6), (2, 2, 3)),)

    def searched(weight):
        settings = QUICK._replace(noise_weight=weight, steps=100)
        return jax.jit(lambda: project(KEYS, BASIS, targets, LATENTS, generate, settings, noise=start, scale=0.0)[0])()

    free, strict = searched(0.0), searched(1e5)
    for one in free.noise[0]:
        np.testing.assert_allclose((one.mean(), jnp.mean(one**2)), (0.0, 1.0), atol=1e-5)
    correlation = np.corrcoef(np.ravel(free.noise[0]), np.ravel(maps))[0, 1]
    assert correlation > np.corrcoef(np.ravel(start[0]), np.ravel(maps))[0, 1] + 0.2
    assert jnp.all(noise_penalty(strict.noise) < noise_penalty(free.noise))


def test_the_penalty_is_of_neighbors_at_all_scales():
    x = np.random.default_rng(1).normal(size=(2, 16, 16)).astype(np.float32)

    def of_one_scale(x):
        return np.mean(x * np.roll(x, 1, 1), axis=(1, 2)) ** 2 + np.mean(x * np.roll(x, 1, 2), axis=(1, 2)) ** 2

    small = x.reshape(2, 8, 2, 8, 2).mean((2, 4))
    expected = of_one_scale(x) + of_one_scale(small) + of_one_scale(small)
    np.testing.assert_allclose(noise_penalty((x, small)), expected, rtol=1e-4)
    assert noise_penalty(()) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "number of steps is 0"),
        ({"warmup": 1.5}, r"warmup is 1\.5"),
        ({"cooldown": -0.1}, r"cooldown is -0\.1"),
        ({"exploration_end": 0.0}, r"exploration_end is 0\.0"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0"),
        ({"exploration": -1.0}, r"exploration is -1\.0"),
        ({"noise_weight": -1.0}, r"noise_weight is -1\.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        search(generate, ProjectionSettings(**settings))
