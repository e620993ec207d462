"""Callbacks and trajectories of every sampler, with a denoiser that acts on each pixel alone.

Samplers run operation by operation: the program of each operation is compiled once for all samplers.
"""

import functools
import importlib
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loops
from gaussian_targets import MU, TAU, ideal_denoiser, keys_of

from jaxgen.core.config import module_names
from jaxgen.core.keys import normal
from jaxgen.diffusion.process.schedules import karras
from jaxgen.diffusion.sampling import stepping
from jaxgen.diffusion.sampling.sampler import Sampler, make_sampler
from jaxgen.diffusion.sampling.samplers.dpmpp_2m import dpmpp_2m
from jaxgen.diffusion.sampling.samplers.heun import heun
from jaxgen.diffusion.sampling.samplers.rk45 import rk45
from jaxgen.diffusion.sampling.samplers.unipc import unipc

PACKAGE = "jaxgen.diffusion.sampling.samplers"
NAMES = [name for name in module_names(PACKAGE) if name != "rk45"]
SIGMAS = np.array([6.0, 2.5, 1.1, 0.4, 0.15, 0.0], np.float32)
KEYS = keys_of(3, seed=2)
X = jnp.asarray(6.0 * np.random.default_rng(7).standard_normal((3, 2, 3, 2)), jnp.float32)
INTERPOLATION = 0.3


def estimate(xp, x, sigma):
    return xp.tanh(1.5 * x / (1.0 + sigma)) + 0.1 * xp.cos(x)


def denoise(x, sigma):
    return estimate(jnp, x, sigma[:, None, None, None])


def sampler_of(name: str):
    """The sampler with its denoiser, a function of keys, x and sigmas."""
    sampler = getattr(importlib.import_module(f"{PACKAGE}.{name}"), name)
    if name != "ancestral_learned":
        return partial(sampler, denoise=denoise)
    return partial(sampler, denoise=lambda x, sigma: (denoise(x, sigma), jnp.full_like(x, INTERPOLATION)))


@pytest.fixture(autouse=True)
def operation_by_operation():
    with jax.disable_jit():
        yield


@functools.cache
def plain(name: str):
    """The images of the sampler without anything else."""
    return sampler_of(name)(KEYS, x=X, sigmas=SIGMAS)


@functools.cache
def with_trajectory(name: str):
    return sampler_of(name)(KEYS, x=X, sigmas=SIGMAS, trajectory=True)


def loop_states(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The x at all levels, and the estimates there: those that the loop asks for last at each level."""
    x, levels, seen = np.asarray(X, np.float64), SIGMAS.astype(np.float64), {}

    def observed(x, sigma):
        out = estimate(np, x, sigma)
        seen[round(float(sigma), 5)] = (x, out)
        return out

    def noise(k):
        return np.asarray(stepping.noise(KEYS, jnp.int32(k), X), np.float64)

    options = {"interpolation": lambda x, sigma: INTERPOLATION} if name == "ancestral_learned" else {}
    loop = getattr(sampler_loops, name.removesuffix("_learned"))
    images = loop(observed, x, levels, noise, **options)
    states = [seen[round(float(level), 5)] for level in levels[:-1]]
    return np.stack([*(x for x, _ in states), images]), np.stack([out for _, out in states])


@pytest.mark.parametrize("name", NAMES)
def test_trajectories_are_the_states_of_the_loop(name):
    images, trajectory = with_trajectory(name)
    x, denoised = loop_states(name)
    np.testing.assert_array_equal(trajectory.sigmas, SIGMAS)
    np.testing.assert_allclose(trajectory.x, x, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(trajectory.denoised, denoised, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(trajectory.x[0], X)
    np.testing.assert_array_equal(trajectory.x[-1], images)
    np.testing.assert_allclose(images, plain(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_are_told_of_every_step_in_order(name):
    steps = []

    def callback(step):
        steps.append(step)
        return step.x

    images = sampler_of(name)(KEYS, x=X, sigmas=SIGMAS, callback=callback)
    expected, trajectory = with_trajectory(name)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)
    assert [int(step.k) for step in steps] == list(range(len(SIGMAS) - 1))
    np.testing.assert_array_equal([step.sigma for step in steps], SIGMAS[:-1])
    np.testing.assert_array_equal([step.next_sigma for step in steps], SIGMAS[1:])
    np.testing.assert_allclose([step.x for step in steps], trajectory.x[1:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([step.denoised for step in steps], trajectory.denoised, rtol=1e-5, atol=1e-5)


def noise_of_callback(keys, sampler=heun):
    """The noise that a callback draws in each step."""

    def callback(step):
        return normal(step.keys, step.x.shape[1:])

    return sampler(keys, denoise, X[: len(keys)], SIGMAS, callback=callback, trajectory=True)[1].x[1:]


@functools.cache
def noise_of_all():
    return np.asarray(noise_of_callback(KEYS))


def test_keys_of_callbacks_are_of_the_step_and_the_image_and_not_the_samplers():
    drawn = noise_of_all()
    np.testing.assert_array_equal(noise_of_callback(KEYS[1:2])[:, 0], drawn[:, 1])
    np.testing.assert_array_equal(noise_of_callback(KEYS, sampler=dpmpp_2m), drawn)
    samplers = [stepping.noise(KEYS, jnp.int32(k), X) for k in range(len(drawn))] + [normal(KEYS, X.shape[1:])]
    every = np.concatenate([drawn, np.stack(samplers)]).reshape(-1, X[0].size)
    assert len(np.unique(every.round(5), axis=0)) == len(every)


MASK = np.array([[1, 0, 0], [1, 1, 0]], bool)[None, :, :, None]
KNOWN = jnp.asarray(np.linspace(-0.9, 0.8, X.size).reshape(X.shape), jnp.float32)


def repair(step):
    """Puts the known pixels in, with the noise of the level."""
    noisy = KNOWN + step.next_sigma * normal(step.keys, step.x.shape[1:])
    return jnp.where(MASK, noisy, step.x)


@pytest.mark.parametrize("name", NAMES)
def test_a_callback_can_replace_pixels_at_every_level(name):
    images, trajectory = sampler_of(name)(KEYS, x=X, sigmas=SIGMAS, callback=repair, trajectory=True)
    images = np.asarray(images)
    free, region = (np.broadcast_to(mask, X.shape) for mask in (~MASK, MASK))
    np.testing.assert_array_equal(images[region], np.asarray(KNOWN)[region])
    np.testing.assert_allclose(images[free], np.asarray(plain(name))[free], rtol=1e-4, atol=1e-4)
    noise = noise_of_all()
    states, known = np.asarray(trajectory.x), np.asarray(KNOWN)
    for k, sigma in enumerate(SIGMAS[1:], 1):
        expected = known + sigma * noise[k - 1]
        np.testing.assert_allclose(states[k][region], expected[region], rtol=1e-5, atol=1e-5)
    for k, sigma in enumerate(SIGMAS[:-1]):
        np.testing.assert_allclose(trajectory.denoised[k], estimate(np, states[k], sigma), rtol=1e-5, atol=1e-5)


MULTISTEP = ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MULTISTEP])
def test_a_step_begins_with_the_images_of_the_callback(name):
    """By taking the last step alone from where the callback has moved the images."""
    callback = lambda step: jnp.where(step.k == 3, 0.5 - step.x, step.x)  # noqa: E731
    images, trajectory = sampler_of(name)(KEYS, x=X, sigmas=SIGMAS, callback=callback, trajectory=True)
    last = sampler_of(name)(KEYS, x=trajectory.x[-2], sigmas=SIGMAS[-2:])
    np.testing.assert_allclose(images, last, rtol=1e-5, atol=1e-5)
    assert np.abs(images - plain(name)).max() > 0.01


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_samplers_go_on_from_the_images_of_the_callback(name):
    """By their formulas: x enters a step with the factor exp(-H), s / t without noise, and so does what moves it."""
    move = 0.05

    def callback(step):
        return step.x + jnp.where(step.k == 2, move, 0.0)

    def constant(x, sigma):
        return jnp.full_like(x, 0.2)

    draw = partial(getattr(importlib.import_module(f"{PACKAGE}.{name}"), name), KEYS, constant, X, SIGMAS)
    moved = draw(callback=callback, trajectory=True)[1].x - draw(trajectory=True)[1].x
    ratio = SIGMAS[4] / SIGMAS[3]
    ratio = ratio**2 if name.endswith("sde") else ratio
    np.testing.assert_allclose(moved[3], move, rtol=1e-4)
    np.testing.assert_allclose(moved[4], move * ratio, rtol=1e-3)


def test_unipc_corrects_only_pixels_that_the_callback_leaves():
    """Where all pixels are new, and so nothing is corrected, it is `dpmpp_2m`; the denoiser takes pixels one by one."""

    def callback(step):
        return jnp.where(MASK, 0.9 * step.x + 0.1, step.x)

    images, trajectory = unipc(KEYS, denoise, X, SIGMAS, callback=callback, trajectory=True)
    predictor = dpmpp_2m(KEYS, denoise, X, SIGMAS, callback=callback, trajectory=True)[1]
    corrected = unipc(KEYS, denoise, X, SIGMAS, trajectory=True)[1]
    np.testing.assert_allclose(trajectory.x, jnp.where(MASK, predictor.x, corrected.x), rtol=1e-4, atol=1e-4)
    assert np.abs(predictor.x[3] - corrected.x[3])[:, ~MASK[0, ..., 0]].max() > 0.01
    np.testing.assert_array_equal(images, trajectory.x[-1])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_off_is_not_in_the_program(name):
    """No states are stacked, no keys are folded for a callback, and a trajectory adds two stacked outputs alone."""

    def program(**options):
        with jax.disable_jit(False):
            return jax.make_jaxpr(lambda keys, x: sampler_of(name)(keys, x=x, sigmas=SIGMAS, **options))(KEYS, X)

    def stacked(program):
        """Number of outputs of the loop over the steps that have an axis of steps before those of the images."""
        (scan,) = [equation for equation in program.eqns if equation.primitive.name == "scan"]
        return sum(output.aval.ndim == X.ndim + 1 for output in scan.outvars)

    plain = program()
    assert str(plain) == str(program(callback=None, trajectory=False))
    assert stacked(plain) == 0
    assert stacked(program(trajectory=True)) == 2
    stochastic = {"ancestral", "ancestral_learned", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde"}
    assert str(plain).count("random_fold_in") == (1 if name in stochastic else 0)
    assert str(program(callback=lambda step: step.x)).count("random_fold_in") > str(plain).count("random_fold_in")


@pytest.mark.parametrize("wrong", [lambda step: step.x[:2], lambda step: step.x > 0.0])
def test_callbacks_that_return_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must return images float32\[3, 2, 3, 2\].*, not (float32|bool)\["):
        heun(KEYS, denoise, X, SIGMAS, callback=wrong)


@pytest.mark.parametrize("options", [{"callback": lambda step: step.x}, {"trajectory": True}])
def test_rk45_refuses_both(options):
    with pytest.raises(ValueError, match="rk45 takes no callback and has no trajectory"):
        rk45(KEYS, denoise, X, SIGMAS, **options)


@pytest.mark.parametrize("option", ["callback=None", "trajectory=True"])
def test_a_config_cannot_set_them(option):
    settings = Sampler(name=f"heun({option})", levels="karras", num_steps=3)
    with pytest.raises(ValueError, match="is not a setting"):
        make_sampler(settings, karras())


def test_the_example_of_the_page_draws_the_unknown_pixels():
    page = (Path(__file__).parents[2] / "docs" / "diffusion.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    mask, known = jnp.asarray(MASK), KNOWN
    model = SimpleNamespace(denoise=lambda variables, x, sigma: variables * ideal_denoiser()(x, sigma))
    names = {"model": model, "variables": jnp.ones(()), "known": known, "mask": mask, "keys": KEYS}
    with jax.disable_jit(False):
        exec(example, names)
    region = np.broadcast_to(MASK, X.shape)
    np.testing.assert_array_equal(np.asarray(names["images"])[region], np.asarray(known)[region])
    np.testing.assert_array_equal(names["trajectory"].x[-1], names["images"])
    free = np.asarray(names["images"])[~region]
    assert len(np.unique(free)) == free.size
    assert np.abs(free - MU).max() < 5.0 * TAU
