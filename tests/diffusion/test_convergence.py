"""How fast the deterministic samplers approach the probability-flow ODE, whose solution is known for a Gaussian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_targets import ideal_denoiser, keys_of, ode_solution

from jaxgen.diffusion.process import levels, schedules
from jaxgen.diffusion.sampling.samplers.dpmpp_2m import dpmpp_2m
from jaxgen.diffusion.sampling.samplers.dpmpp_2m_sde import dpmpp_2m_sde
from jaxgen.diffusion.sampling.samplers.dpmpp_2s import dpmpp_2s
from jaxgen.diffusion.sampling.samplers.dpmpp_3m_sde import dpmpp_3m_sde
from jaxgen.diffusion.sampling.samplers.euler import euler
from jaxgen.diffusion.sampling.samplers.heun import heun
from jaxgen.diffusion.sampling.samplers.rk45 import rk45
from jaxgen.diffusion.sampling.samplers.unipc import unipc

HIGH, LOW = 4.0, 0.2
X = HIGH * jax.random.normal(jax.random.key(1), (2, 4, 4, 1))


def error(sampler, num_steps: int) -> float:
    """The largest error after steps of equal length in log sigma, and the last step to 0, of which none is expected."""
    sigmas = np.append(np.exp(np.linspace(np.log(HIGH), np.log(LOW), num_steps + 1)), 0.0).astype(np.float32)
    exact = ideal_denoiser()(ode_solution(X, HIGH, LOW), jnp.full(2, LOW))
    return float(jnp.abs(jax.jit(lambda x: sampler(keys_of(2), ideal_denoiser(), x, sigmas))(X) - exact).max())


@pytest.mark.parametrize(
    ("sampler", "order", "steps"),
    [
        pytest.param(euler, 1, 16, id="euler"),
        pytest.param(heun, 2, 16, id="heun"),
        pytest.param(partial(heun, path="flow"), 2, 16, id="heun_flow"),
        pytest.param(dpmpp_2s, 2, 16, id="dpmpp_2s"),
        pytest.param(dpmpp_2m, 2, 16, id="dpmpp_2m"),
        pytest.param(unipc, 2, 16, id="unipc"),
        pytest.param(partial(dpmpp_2m_sde, eta=0.0, solver="heun"), 2, 32, id="dpmpp_2m_sde_heun"),
        pytest.param(partial(dpmpp_3m_sde, eta=0.0), 2, 16, id="dpmpp_3m_sde"),
        pytest.param(partial(dpmpp_3m_sde, eta=0.0, curvature=1.0), 3, 16, id="dpmpp_3m_sde_exact"),
    ],
)
def test_quartering_the_steps_divides_the_error_by_the_order(sampler, order, steps):
    observed = np.log(error(sampler, steps) / error(sampler, 4 * steps)) / np.log(4.0)
    assert observed > order - 0.2
    if sampler is euler:
        assert observed < 1.2


def two_modes(x, sigma):
    """The ideal denoiser of two narrow Gaussians."""
    mean, tau, sigma = 0.6, 0.1, sigma[:, None, None, None]
    variance = tau**2 + sigma**2
    return tau**2 / variance * x + sigma**2 / variance * mean * jnp.tanh(mean * x / variance)


def curvature_errors(sigmas, start) -> dict[float, float]:
    """Root mean square errors of both weights of the curvature on two narrow Gaussians."""

    def draw(sampler, sigmas):
        return jax.jit(lambda x: sampler(keys_of(2), two_modes, x, sigmas))(start)

    exact = draw(partial(rk45, rtol=1e-6, atol=1e-6), sigmas[[0, -2, -1]])
    samplers = {curvature: partial(dpmpp_3m_sde, eta=0.0, curvature=curvature) for curvature in (0.5, 1.0)}
    return {c: float(jnp.sqrt(jnp.mean((draw(s, sigmas) - exact) ** 2))) for c, s in samplers.items()}


@pytest.mark.parametrize(("num_steps", "better"), [(8, 0.5), (10, 0.5), (12, 0.5), (14, 0.5), (80, 1.0)])
def test_the_official_curvature_is_the_better_one_in_few_steps(num_steps, better):
    start = 80.0 * jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    errors = curvature_errors(levels.karras(schedules.karras(), num_steps), start)
    assert min(errors, key=errors.get) == better


def test_half_the_curvature_costs_an_order():
    start = HIGH * jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    few, many = (
        curvature_errors(levels.exponential(schedules.karras(), n, sigma_min=LOW, sigma_max=HIGH), start)
        for n in (33, 129)
    )
    orders = {c: np.log(few[c] / many[c]) / np.log(4.0) for c in few}
    assert orders[1.0] > 2.8
    assert orders[0.5] < 2.6


def test_paths_have_heun_steps_of_their_own():
    assert error(partial(heun, path="flow"), 8) < 0.5 * error(heun, 8)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_adaptive_steps_keep_the_tolerance(tolerance):
    assert 0.005 * tolerance < error(partial(rk45, rtol=tolerance, atol=tolerance), 1) < tolerance


def test_images_that_take_too_many_steps_are_no_numbers():
    assert np.isnan(error(partial(rk45, rtol=1e-4, atol=1e-4, max_tries=5), 1))
