"""Samplers on Gaussian targets, whose ideal denoisers are known."""

import importlib
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loops
from gaussian_targets import MU, TAU, ideal_denoiser, keys_of, ode_solution
from golden_files import DIRECTORY
from scipy.integrate import RK45

from jaxgen.core.config import module_names
from jaxgen.diffusion.process import levels, schedules
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.sampling import denoisers
from jaxgen.diffusion.sampling.inversion import ddim_generation, ddim_inversion
from jaxgen.diffusion.sampling.samplers.ancestral import ancestral
from jaxgen.diffusion.sampling.samplers.ancestral_learned import ancestral_learned
from jaxgen.diffusion.sampling.samplers.ddim import ddim
from jaxgen.diffusion.sampling.samplers.dpmpp_2m import dpmpp_2m
from jaxgen.diffusion.sampling.samplers.dpmpp_2m_sde import dpmpp_2m_sde
from jaxgen.diffusion.sampling.samplers.dpmpp_2s import dpmpp_2s
from jaxgen.diffusion.sampling.samplers.dpmpp_3m_sde import dpmpp_3m_sde
from jaxgen.diffusion.sampling.samplers.euler import euler
from jaxgen.diffusion.sampling.samplers.euler_ancestral import euler_ancestral
from jaxgen.diffusion.sampling.samplers.heun import heun
from jaxgen.diffusion.sampling.samplers.rk45 import rk45
from jaxgen.diffusion.sampling.samplers.unipc import unipc

SCHEDULE = schedules.linear()


COUNT, SHAPE = 400, (8, 8, 1)


def start(keys: jax.Array, sigmas: np.ndarray) -> jax.Array:
    return denoisers.initial_noise(keys, SHAPE, float(sigmas[0]), variance_preserving=True)


def few_sigmas(num_steps: int) -> np.ndarray:
    return levels.timesteps(SCHEDULE, num_steps)


@pytest.fixture(scope="module")
def many_keys():
    return keys_of(COUNT)


def one_by_one(sampler, *args, **options):
    """Calls a sampler operation by operation: the program of each, of one shape, is compiled once for all samplers.

    But for the adaptive sampler, whose loop is annotated to be traced.
    """
    if sampler is rk45:
        keys, denoise, x, sigmas = args
        return jax.jit(partial(rk45, denoise=denoise, sigmas=sigmas, **options))(keys, x=x)
    with jax.disable_jit():
        return sampler(*args, **options)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DIRECTORY / "diffusion_math.npz"))


def golden_cases():
    samplers = {"ddim_10": ddim, "ddim_50": ddim, "dpmpp_2m_10": dpmpp_2m, "dpmpp_2m_20": dpmpp_2m, "unipc_10": unipc}
    heuns = {f"edm_heun_{steps}": heun for steps in (5, 18, 40)}
    return [pytest.param(name, sampler, id=name) for name, sampler in {**samplers, **heuns}.items()]


@pytest.mark.parametrize(("name", "sampler"), golden_cases())
def test_deterministic_samplers_match_the_official_ones(golden, name, sampler):
    if sampler is heun:
        sigmas = levels.karras(SCHEDULE, int(name.rpartition("_")[2]))
        scale = sigmas[0]
    else:
        timesteps = golden[f"sampler/{name}/timesteps"].astype(int)
        sigmas = np.append(SCHEDULE.table[timesteps], 0.0).astype(np.float32)
        scale = np.sqrt(1.0 + sigmas[0] ** 2)
    denoise = ideal_denoiser(float(golden["sampler/mu"]), float(golden["sampler/tau"]))
    x = jnp.asarray(np.moveaxis(golden["sampler/x_T"], 1, -1) * scale)
    out = sampler(keys_of(len(x)), denoise, x, sigmas)
    np.testing.assert_allclose(np.moveaxis(out, -1, 1), golden[f"sampler/{name}/x_0"], atol=1e-4)


SDES = [
    pytest.param(partial(ancestral, variance="small"), id="small"),
    pytest.param(partial(ancestral, variance="large"), id="large"),
    pytest.param(partial(ddim, eta=0.7), id="ddim"),
    pytest.param(euler_ancestral, id="euler_ancestral"),
    pytest.param(partial(heun, churn=100.0), id="heun"),
    pytest.param(dpmpp_2m_sde, id="dpmpp_2m_sde"),
    pytest.param(partial(dpmpp_2m_sde, solver="heun", eta=0.5), id="dpmpp_2m_sde_heun"),
    pytest.param(dpmpp_3m_sde, id="dpmpp_3m_sde"),
]


@pytest.mark.parametrize("sampler", [case for case in SDES if case.id != "euler_ancestral"])
def test_stochastic_samplers_reproduce_a_gaussian(many_keys, sampler):
    """But for `euler_ancestral`, which coincides with `ancestral`, as another test shows."""
    sigmas, noise = few_sigmas(500), np.random.default_rng(0).standard_normal((256, 4, 4, 1))
    draw = jax.jit(partial(sampler, denoise=ideal_denoiser(), sigmas=sigmas))
    x = np.array(draw(many_keys[:256], x=np.float32(np.sqrt(1.0 + sigmas[0] ** 2) * noise)))
    np.testing.assert_allclose(x.mean(), MU, atol=0.02)
    np.testing.assert_allclose(x.std(), TAU, rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(x[:, 0, 0, 0], x[:, 0, 1, 0])[0, 1], 0.0, atol=0.2)


def variance_after_one_step(keys, sampler, t: float, s: float, tau: float) -> float:
    """Variance at level s when x starts as a draw at level t, by observing x at the end of steps t -> s -> 0."""
    seen = []

    def denoise(x, sigma):
        seen.append((float(sigma[0]), np.asarray(x)))
        return ideal_denoiser(0.0, tau)(x, sigma)

    x = np.sqrt(tau**2 + t**2) * np.random.default_rng(5).standard_normal((COUNT, *SHAPE))
    one_by_one(sampler, keys, denoise, jnp.asarray(x, jnp.float32), np.array([t, s, 0.0], np.float32))
    return float(next(x for sigma, x in reversed(seen) if np.isclose(sigma, s)).var())


def test_dpmpp_2s_looks_at_the_geometric_mean(many_keys):
    seen = []

    def denoise(x, sigma):
        seen.append(float(sigma[0]))
        return ideal_denoiser()(x, sigma)

    one_by_one(dpmpp_2s, many_keys, denoise, jnp.ones((COUNT, *SHAPE)), np.array([2.0, 0.5, 0.0], np.float32))
    np.testing.assert_allclose(seen, [2.0, 1.0, 0.5], rtol=1e-6)


def learned(interpolation: float, **options):
    def sampler(keys, denoise, x, sigmas):
        def with_variance(x, s):
            return denoise(x, s), jnp.full_like(x, interpolation)

        return ancestral_learned(keys, with_variance, x, sigmas, **options)

    return sampler


def test_variances_are_exact_for_the_targets_they_are_optimal_for(many_keys):
    # DDPM section 3.2: beta_t is optimal for x_0 ~ N(0, I), the posterior's variance for x_0 a single point.
    variance = partial(variance_after_one_step, many_keys, t=2.0, s=0.5)
    for large in (partial(ancestral, variance="large"), learned(1.0)):
        np.testing.assert_allclose(variance(large, tau=1.0), 1.0 + 0.5**2, rtol=0.03)
    for small in (ancestral, learned(0.0)):
        np.testing.assert_allclose(variance(small, tau=0.0), 0.5**2, rtol=0.03)


def test_learned_log_variances_lie_between_small_and_large(many_keys):
    mean = 2.0**2 * (0.5 / 2.0) ** 4
    variance = partial(variance_after_one_step, many_keys, t=2.0, s=0.5, tau=0.0)
    noise = [variance(learned(f)) - mean for f in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(noise[1], np.sqrt(noise[0] * noise[2]), rtol=0.03)


def test_temperature_scales_the_noise_of_steps_alone(many_keys):
    """For x_0 a single point, x_s is (s / t)^2 x_t plus noise of the small variance s^2 (t^2 - s^2) / t^2."""
    variance = variance_after_one_step(many_keys, learned(0.0, temperature=0.6), t=2.0, s=0.5, tau=0.0)
    np.testing.assert_allclose(variance, 2.0**2 * 0.25**4 + 0.6**2 * 0.5**2 * 3.75 / 4.0, rtol=0.03)
    with pytest.raises(ValueError, match=r"temperature must be at least 0, not -0\.1"):
        learned(0.0, temperature=-0.1)(many_keys, ideal_denoiser(), jnp.zeros((COUNT, *SHAPE)), few_sigmas(2))


@pytest.mark.parametrize(
    "sampler",
    [
        *(pytest.param(partial(ddim, eta=eta), id=f"ddim_{eta}") for eta in (0.0, 0.5, 1.0)),
        *(pytest.param(partial(dpmpp_2m_sde, eta=eta), id=f"dpmpp_2m_sde_{eta}") for eta in (0.0, 0.5, 1.0)),
        pytest.param(partial(dpmpp_3m_sde, eta=0.5), id="dpmpp_3m_sde"),
        pytest.param(partial(heun, churn=0.6), id="heun"),
        pytest.param(partial(heun, churn=0.6, s_max=1.0), id="heun_without"),
    ],
)
def test_marginals_do_not_depend_on_the_amount_of_noise(many_keys, sampler):
    # Song et al. 2021, lemma 1: for x_0 a single point, x_s has variance s^2 whatever eta.
    np.testing.assert_allclose(variance_after_one_step(many_keys, sampler, t=2.0, s=0.5, tau=0.0), 0.5**2, rtol=0.03)


def test_churn_is_bounded_and_scaled(many_keys):
    # At x_0 = 0, the level is raised by at most sqrt(2) - 1 of itself, and what is added shrinks with the step to s.
    variance = variance_after_one_step(many_keys, partial(heun, churn=100.0, s_noise=2.0), t=2.0, s=0.5, tau=0.0)
    np.testing.assert_allclose(variance, (2.0**2 + 4.0 * 2.0**2) * (0.5 / np.sqrt(8.0)) ** 2, rtol=0.03)


def test_samplers_that_coincide(many_keys):
    sigmas = few_sigmas(3)
    args = (many_keys, ideal_denoiser(), start(many_keys, sigmas), sigmas)
    ancestor, deterministic = one_by_one(ancestral, *args), one_by_one(ddim, *args)
    np.testing.assert_allclose(one_by_one(ddim, *args, eta=1.0), ancestor, atol=1e-4)
    np.testing.assert_allclose(one_by_one(euler_ancestral, *args), ancestor, atol=1e-4)
    np.testing.assert_array_equal(one_by_one(euler, *args), deterministic)
    np.testing.assert_array_equal(one_by_one(ddim_generation, *args[1:]), deterministic)
    np.testing.assert_allclose(one_by_one(dpmpp_2m_sde, *args, eta=0.0), one_by_one(dpmpp_2m, *args), atol=1e-5)
    assert np.abs(one_by_one(ddim, *args, eta=0.5) - ancestor).max() > 0.1


BATCHED = [*SDES, *(pytest.param(sampler, id=sampler.__name__) for sampler in (ddim, rk45, unipc, dpmpp_2s))]


@pytest.mark.parametrize("sampler", BATCHED)
def test_an_image_does_not_depend_on_its_batch(many_keys, sampler):
    """Half of the images are drawn again in other places and among others."""
    sigmas, half = few_sigmas(3), COUNT // 2
    # Images of very different scales, so that an adaptive sampler takes different steps for each.
    scale = np.float32([1.0, 30.0, 0.1, 1.0] * (COUNT // 4))
    x = scale[:, None, None, None] * start(many_keys, sigmas)
    other_keys = jnp.concatenate([keys_of(half, seed=1), many_keys[half - 1 :: -1]])
    other_x = jnp.concatenate([0.3 * x[half:], x[half - 1 :: -1]])
    out = one_by_one(sampler, many_keys, ideal_denoiser(), x, sigmas)
    again = one_by_one(sampler, other_keys, ideal_denoiser(), other_x, sigmas)
    np.testing.assert_allclose(again[half:][::-1], out[:half], rtol=1e-5, atol=1e-5)
    assert np.abs(out[0] - out[3]).max() > 0.01


UNCHURNED = [
    *(case for case in BATCHED if case.id != "heun"),
    *(pytest.param(sampler, id=sampler.__name__) for sampler in (dpmpp_2m, euler, heun)),
    pytest.param(learned(1.0), id="ancestral_learned"),
]


@pytest.mark.parametrize("sampler", UNCHURNED)
def test_the_last_step_returns_the_estimate(many_keys, sampler):
    def denoise(x, sigma):
        return jnp.where(sigma[:, None, None, None] > 0.0, ideal_denoiser()(x, sigma), jnp.nan)

    out = one_by_one(sampler, many_keys, denoise, jnp.ones((COUNT, *SHAPE)), np.array([0.7, 0.0], np.float32))
    np.testing.assert_allclose(out, MU + TAU**2 / (TAU**2 + 0.7**2) * (1.0 - MU), rtol=1e-5)


@pytest.mark.parametrize("name", module_names("jaxgen.diffusion.sampling.samplers"))
def test_samplers_have_one_signature(name):
    sampler = getattr(importlib.import_module(f"jaxgen.diffusion.sampling.samplers.{name}"), name)
    parameters = inspect.signature(sampler).parameters
    assert list(parameters)[:4] == ["keys", "denoise", "x", "sigmas"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(parameters.values())[4:])


def test_inversion_leads_back_to_the_image(many_keys):
    sigmas = levels.exponential(SCHEDULE, 100, sigma_min=0.05, sigma_max=10.0)
    x0 = np.float32(MU + TAU * np.random.default_rng(3).standard_normal((2, 4, 4, 1)))

    @jax.jit
    def there_and_back(keys, x0):
        x = ddim_inversion(ideal_denoiser(), x0, sigmas)
        first = ddim_inversion(ideal_denoiser(), x0, np.array([0.2, 0.0], np.float32))
        return x, ddim(keys, ideal_denoiser(), x, sigmas), first

    x, back, first = there_and_back(many_keys[:2], x0)
    np.testing.assert_allclose(x, ode_solution(x0, 0.0, 10.0), rtol=0.1, atol=0.1)
    np.testing.assert_allclose(back, x0, atol=0.05)
    np.testing.assert_allclose((first - MU) / (x0 - MU), np.sqrt(1.0 + 0.2**2 / TAU**2), rtol=0.03)


@pytest.mark.parametrize(("variance_preserving", "std"), [(True, np.sqrt(10.0)), (False, 3.0)])
def test_initial_noise_has_the_scale_of_its_process(many_keys, variance_preserving, std):
    x = denoisers.initial_noise(many_keys, SHAPE, 3.0, variance_preserving=variance_preserving)
    np.testing.assert_allclose(x.std(), std, rtol=0.02)


def test_clip_denoised_bounds_the_estimate():
    denoise = denoisers.clip_denoised(lambda x, sigma: 3.0 * x)
    np.testing.assert_allclose(
        denoise(jnp.array([-1.0, 0.2, 1.0]).reshape(3, 1, 1, 1), jnp.ones(3)).ravel(), [-1, 0.6, 1]
    )


def test_eta_out_of_range_is_refused(many_keys):
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        ddim(many_keys, ideal_denoiser(), jnp.ones((COUNT, *SHAPE)), np.array([1.0, 0.0], np.float32), eta=1.5)


def test_rk45_takes_the_steps_of_a_loop_with_scipys_coefficients():
    """With tolerances at which another first step, error or norm would show."""
    module = importlib.import_module("jaxgen.diffusion.sampling.samplers.rk45")
    np.testing.assert_allclose(module.NODES[:6], RK45.C, rtol=1e-7)
    np.testing.assert_allclose(module.STAGES[:6, :5], RK45.A, rtol=1e-7)
    np.testing.assert_allclose(module.STAGES[6, :6], RK45.B, rtol=1e-7)
    np.testing.assert_allclose(module.ERROR, -RK45.E, rtol=1e-7)
    sigmas, x = np.array([10.0, 0.1, 0.0]), 10.0 * np.random.default_rng(0).normal(size=(2, 2, 3, 1))

    def denoise(xp, x, sigma):
        return xp.tanh(2.0 * x) / (1.0 + 0.3 * sigma)

    ours = jax.jit(partial(rk45, denoise=lambda x, s: denoise(jnp, x, per_image(s)), rtol=0.1, atol=0.2))(
        keys_of(2), x=jnp.asarray(x, jnp.float32), sigmas=sigmas
    )
    by_hand = sampler_loops.rk45(partial(denoise, np), x, sigmas, None, rtol=0.1, atol=0.2)
    np.testing.assert_allclose(ours, by_hand, atol=1e-4)
