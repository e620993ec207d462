"""The statuses of an adaptive integration, and the sentence that a model gives for its failures."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_targets import ideal_denoiser, keys_of

from jaxgen.diffusion.process import schedules
from jaxgen.diffusion.sampling.sampler import Sampler, make_sampler, nonfinite_hint
from jaxgen.diffusion.sampling.samplers.rk45 import State, Status, _status, rk45, rk45_with_status

SIGMAS = np.array([10.0, 0.1, 0.0], np.float32)
SCALES = jnp.array([0.1, 1e4, 1.0, 1.0])[:, None, None, None]
TIGHT = {"rtol": 1e-5, "atol": 1e-5}
X = SCALES * jax.random.normal(jax.random.key(0), (4, 4, 4, 1))


def broken_below(level: float):
    """A denoiser whose estimates of the third image are not finite below a level."""

    def denoise(x, sigma):
        bad = (jnp.arange(len(x)) == 2) & (sigma < level)
        return jnp.where(bad[:, None, None, None], jnp.nan, ideal_denoiser()(x, sigma))

    return denoise


@pytest.mark.parametrize("level", [100.0, 1.0])
def test_each_image_has_a_status(level):
    """The second, by its scale, takes 13 tries, the others 9 or 10; the third fails at the first or at a later one."""

    def run(max_tries):
        return jax.jit(partial(rk45_with_status, broken_below(level), sigmas=SIGMAS, max_tries=max_tries, **TIGHT))(x=X)

    for tries, second in ((12, Status.TOO_MANY_TRIES), (13, Status.REACHED)):
        images, status = run(tries)
        assert status.tolist() == [Status.REACHED, second, Status.NOT_FINITE, Status.REACHED]
        np.testing.assert_array_equal(np.isfinite(images).all(axis=(1, 2, 3)), status == Status.REACHED)
    others = rk45(keys_of(2), ideal_denoiser(), X[:2], SIGMAS, **TIGHT)
    np.testing.assert_allclose(images[:2], others, rtol=1e-5)
    assert run(8)[1].tolist()[:2] == [Status.TOO_MANY_TRIES] * 2


@pytest.mark.parametrize("function", [rk45, rk45_with_status])
def test_the_tolerances_and_the_number_of_tries_by_default(function):
    parameters = inspect.signature(function).parameters
    defaults = {name: parameters[name].default for name in ("rtol", "atol", "max_tries")}
    assert defaults == {"rtol": 1e-3, "atol": 1e-3, "max_tries": 1000}


def test_an_estimate_that_is_not_finite_at_the_last_level_is_not_for_want_of_tries():
    images, status = rk45_with_status(broken_below(0.1 + 1e-6), X, SIGMAS)
    assert status.tolist() == [0, 0, Status.NOT_FINITE, 0]
    assert not np.isfinite(images[2]).any()


def hint(name: str, **options) -> str:
    settings = Sampler(name=name, levels="karras(sigma_min=0.05, sigma_max=9.0)", num_steps=2)
    return nonfinite_hint(settings, *make_sampler(settings, schedules.karras()), **options)


def test_the_hint_names_the_level_and_the_tries():
    assert hint("rk45(max_tries=7)").startswith("rk45 did not reach noise level 0.05 within max_tries=7 steps")
    assert "max_tries=1000 steps" in hint("rk45")
    assert hint("heun") == ""


def test_an_image_that_overflows_in_the_last_step_is_not_for_want_of_tries():
    end, tries = jnp.float32(-2.0), jnp.int32(3)
    images = jnp.full((2, 1, 1, 1), jnp.inf)
    state = State(images, images, jnp.array([-2.0, -1.5]), jnp.array([-0.1, -0.1]), tries)
    assert _status(images, state, end).tolist() == [Status.NOT_FINITE, Status.TOO_MANY_TRIES]
