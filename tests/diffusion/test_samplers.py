"""Samplers on Gaussian targets, whose ideal denoisers are known."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import samplers, schedules

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
MU, TAU = 0.3, 0.4


def ideal_denoiser(mu: float, tau: float):
    """The posterior mean of N(mu, tau^2) given x = clean + sigma * noise."""

    def denoise(x, sigma):
        sigma = sigma[:, None, None, None]
        return mu + tau**2 / (tau**2 + sigma**2) * (x - mu)

    return denoise


def keys_of(n: int, seed: int = 0) -> jax.Array:
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(n))


def start(keys: jax.Array, sigmas: np.ndarray, shape=(8, 8, 1)) -> jax.Array:
    return samplers.initial_noise(keys, shape, float(sigmas[0]), variance_preserving=True)


def some_sigmas(num_steps: int) -> np.ndarray:
    return schedules.sampling_sigmas(schedules.linear(), schedules.timestep_subset(1000, num_steps))


@pytest.mark.parametrize("name", ["ddim_10", "ddim_50", "dpmpp_2m_10", "dpmpp_2m_20"])
def test_deterministic_samplers_match_the_official_ones(name):
    golden = dict(np.load(GOLDEN / "diffusion_math.npz"))
    sigmas = schedules.sampling_sigmas(schedules.linear(), golden[f"sampler/{name}/timesteps"].astype(int))
    denoise = ideal_denoiser(float(golden["sampler/mu"]), float(golden["sampler/tau"]))
    x = jnp.asarray(np.moveaxis(golden["sampler/x_T"], 1, -1)) * np.sqrt(1.0 + sigmas[0] ** 2)
    ddim = name.startswith("ddim")
    out = samplers.ddim(keys_of(len(x)), denoise, x, sigmas) if ddim else samplers.dpmpp_2m(denoise, x, sigmas)
    np.testing.assert_allclose(np.moveaxis(out, -1, 1), golden[f"sampler/{name}/x_0"], atol=1e-4)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_sampling_reproduces_a_gaussian(variance):
    sigmas, keys = some_sigmas(1000), keys_of(256)
    x = jax.jit(
        lambda: samplers.ancestral(keys, ideal_denoiser(MU, TAU), start(keys, sigmas), sigmas, variance=variance)
    )()
    np.testing.assert_allclose(x.mean(), MU, atol=0.02)
    np.testing.assert_allclose(x.std(), TAU, rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(x[:, 0, 0, 0], x[:, 0, 1, 0])[0, 1], 0.0, atol=0.2)


def variance_after_one_step(sampler, t: float, s: float, tau: float, n: int = 400) -> float:
    """Variance at level s when x starts as a draw at level t, by observing x_0 at the end of steps t -> s -> 0."""
    seen = []

    def denoise(x, sigma):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
        return ideal_denoiser(0.0, tau)(x, sigma)

    keys = keys_of(n)
    x = np.sqrt(tau**2 + t**2) * jax.random.normal(jax.random.key(5), (n, 8, 8, 1))
    sampler(keys, denoise, x, np.array([t, s, 0.0], np.float32)).block_until_ready()
    jax.effects_barrier()
    return float(seen[1].var())


def test_variances_are_exact_for_the_targets_they_are_optimal_for():
    # DDPM section 3.2: beta_t is optimal for x_0 ~ N(0, I), the posterior's variance for x_0 a single point.
    large = variance_after_one_step(lambda *a: samplers.ancestral(*a, variance="large"), t=2.0, s=0.5, tau=1.0)
    np.testing.assert_allclose(large, 1.0 + 0.5**2, rtol=0.03)
    small = variance_after_one_step(lambda *a: samplers.ancestral(*a, variance="small"), t=2.0, s=0.5, tau=0.0)
    np.testing.assert_allclose(small, 0.5**2, rtol=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_marginals_at_every_eta(eta):
    # Song et al. 2021, lemma 1: for x_0 a single point, x_s has variance s^2 whatever eta.
    variance = variance_after_one_step(lambda *a: samplers.ddim(*a, eta=eta), t=2.0, s=0.5, tau=0.0)
    np.testing.assert_allclose(variance, 0.5**2, rtol=0.03)


def test_ddim_with_eta_one_is_ancestral_sampling():
    sigmas, keys = some_sigmas(7), keys_of(3)
    args = (keys, ideal_denoiser(MU, TAU), start(keys, sigmas), sigmas)
    np.testing.assert_allclose(samplers.ddim(*args, eta=1.0), samplers.ancestral(*args), atol=1e-4)
    assert np.abs(samplers.ddim(*args, eta=0.5) - samplers.ddim(*args, eta=1.0)).max() > 0.1


@pytest.mark.parametrize("sampler", [samplers.ancestral, samplers.ddim, lambda *a: samplers.ddim(*a, eta=0.7)])
def test_an_image_does_not_depend_on_its_batch(sampler):
    sigmas, keys = some_sigmas(5), keys_of(5)
    draw = jax.jit(lambda keys: sampler(keys, ideal_denoiser(MU, TAU), start(keys, sigmas), sigmas))
    split = jnp.concatenate([draw(keys[:2]), draw(keys[2:])])
    np.testing.assert_allclose(split, draw(keys), atol=1e-6)
    assert np.abs(split[0] - split[1]).max() > 0.1


def test_the_last_step_returns_the_estimate():
    x, keys = jnp.ones((2, 4, 4, 1)), keys_of(2)
    sigmas = np.array([0.7, 0.0], np.float32)
    for out in (samplers.ancestral(keys, ideal_denoiser(MU, TAU), x, sigmas, variance="large"),
                samplers.ddim(keys, ideal_denoiser(MU, TAU), x, sigmas, eta=1.0)):  # fmt: skip
        np.testing.assert_allclose(out, MU + TAU**2 / (TAU**2 + 0.7**2) * (1.0 - MU), rtol=1e-5)


@pytest.mark.parametrize(("variance_preserving", "std"), [(True, np.sqrt(10.0)), (False, 3.0)])
def test_initial_noise_has_the_scale_of_its_process(variance_preserving, std):
    x = samplers.initial_noise(keys_of(64), (16, 16, 2), 3.0, variance_preserving=variance_preserving)
    np.testing.assert_allclose(x.std(), std, rtol=0.02)


def test_clip_denoised_bounds_the_estimate():
    denoise = samplers.clip_denoised(lambda x, sigma: 3.0 * x)
    np.testing.assert_allclose(
        denoise(jnp.array([-1.0, 0.2, 1.0]).reshape(3, 1, 1, 1), jnp.ones(3)).ravel(), [-1, 0.6, 1]
    )


def test_eta_out_of_range_is_refused():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        samplers.ddim(keys_of(1), ideal_denoiser(MU, TAU), jnp.ones((1, 4, 4, 1)), np.array([1.0, 0.0]), eta=1.5)
