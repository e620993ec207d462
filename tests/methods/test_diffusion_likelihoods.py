"""`log_prob`, `encode` and `decode` of whole models, by loops in float64 with a formula in the place of the network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loops as loops
from formula_models import EDM, FLOW, KEYS, LABEL, SHAPE, VARIABLES, VE, Pieces, V, make_model, noise_of, predict
from scipy.stats import norm

from jaxgen.core import keys
from jaxgen.diffusion.likelihood import ode

DIMENSIONS = math.prod(SHAPE)
LEVELS = np.random.default_rng(1).integers(0, 256, (3, *SHAPE))
LEVELS[0, 0, 0, 0], LEVELS[2, 1, 2, 1] = 0, 255
IMAGES = LEVELS / 127.5 - 1.0
COND = {"label": jnp.asarray(LABEL)}
ARGS = (KEYS, VARIABLES, jnp.asarray(IMAGES, jnp.float32))

OF_LOG_SIGMA = {"schedule": "log_linear(sigma_min=0.001, sigma_max=4.0)", "noise_label": "log_sigma"}
PATHS = {
    "preserving": V._replace(noise_label=lambda s: np.log(s) / 4),
    "normalized": EDM,
    "exploding": VE._replace(noise_label=lambda s: np.log(s) / 4),
    "linear": FLOW._replace(noise_label=lambda s: np.log(s) / 4),
}


def on_log_sigma(pieces: Pieces) -> Pieces:
    return pieces._replace(settings={**pieces.settings, **OF_LOG_SIGMA, "levels": "uniform_time(last=0.0)"})


def uniforms() -> np.ndarray:
    draw = jax.vmap(lambda key: jax.random.uniform(key, SHAPE, minval=-0.5, maxval=0.5))
    return np.asarray(draw(keys.fold_each(KEYS, "dequantize")), np.float64)


def probes() -> np.ndarray:
    draw = jax.vmap(lambda key: jax.random.rademacher(key, SHAPE, jnp.float32))
    return np.asarray(draw(keys.fold_each(KEYS, "probe")), np.float64)


def ode_by_hand(denoise, sigmas, *, prior_variance):
    """Song et al. 2021, section 4.3, by the classical Runge-Kutta method; derivatives by complex steps."""
    probe, x, change = probes(), IMAGES + 2.0 / 255.0 * uniforms(), 0.0

    def field(x, u):
        out = denoise(x + 1e-25j * probe, math.exp(u))
        return x - out.real, (probe * out.imag / 1e-25).sum((1, 2, 3)) - DIMENSIONS

    for low, high in zip(np.log(sigmas[:-1]), np.log(sigmas[1:]), strict=True):
        h = high - low
        k1 = field(x, low)
        k2 = field(x + 0.5 * h * k1[0], low + 0.5 * h)
        k3 = field(x + 0.5 * h * k2[0], low + 0.5 * h)
        k4 = field(x + h * k3[0], high)
        x, change = (
            state + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)
            for state, a, b, c, d in zip((x, change), k1, k2, k3, k4, strict=True)
        )
    prior = norm.logpdf(x, scale=math.sqrt(prior_variance)).sum((1, 2, 3))
    return prior - change + DIMENSIONS * math.log(2.0 / 255.0)


@pytest.mark.parametrize("name", PATHS)
def test_the_ode_is_integrated_as_by_hand(name, monkeypatch):
    pieces = on_log_sigma(PATHS[name])
    settings = {"likelihood": "ode", "likelihood_steps": 3}
    model, _ = make_model(monkeypatch, pieces, settings, {"guidance_scale": 3.0})
    assert model.spec.likelihood == "lower_bound"
    sigmas = np.geomspace(0.002, 4.0, 4)  # from LEAST_LEVEL, since the schedule starts lower
    variance = 16.0 + (name == "preserving")
    for label in (LABEL, LABEL[::-1]):
        expected = ode_by_hand(
            lambda x, s, label=label: predict(pieces, x, s, label)[0], sigmas, prior_variance=variance
        )
        ours = jax.jit(model.log_prob)(*ARGS, {"label": jnp.asarray(label)})
        np.testing.assert_allclose(ours, expected, rtol=2e-4)


def test_the_ode_starts_at_the_least_level_of_a_schedule_that_starts_higher(monkeypatch):
    pieces = on_log_sigma(EDM)
    pieces.settings["schedule"] = "log_linear(sigma_min=0.3, sigma_max=4.0)"
    model, _ = make_model(monkeypatch, pieces, {"likelihood": "ode", "likelihood_steps": 2}, {})
    expected = ode_by_hand(lambda x, s: predict(pieces, x, s, LABEL)[0], np.geomspace(0.3, 4.0, 3), prior_variance=16.0)
    np.testing.assert_allclose(jax.jit(model.log_prob)(*ARGS, COND), expected, rtol=2e-4)


MEANS, TAU = np.array([-0.3, 0.1, 0.4, 0.9]), 0.3


@pytest.mark.parametrize("name", PATHS)
def test_the_density_of_each_class_is_its_gaussian(name, monkeypatch):
    # Networks whose estimate is the posterior mean of N(mean of the class, tau^2), on every path.

    def gaussian(xp, seen, noise_label, label, *, learned=False, deep=None):
        assert not learned
        assert deep is None
        sigma = xp.exp(xp.asarray(noise_label))[:, None, None, None]
        scale = {"preserving": xp.sqrt(1 + sigma**2), "normalized": xp.sqrt(sigma**2 + 0.36), "exploding": 1.0}
        x = seen * {**scale, "linear": 1.0 + sigma}[name]
        mean = xp.asarray(MEANS, seen.dtype)[label][:, None, None, None]
        return mean + TAU**2 / (TAU**2 + sigma**2) * (x - mean)

    monkeypatch.setattr("formula_models.formula", gaussian)
    pieces = on_log_sigma(PATHS[name])
    pieces.settings.update(parameterization="x0", noise_label="log_sigma(scale=1.0)")
    model, _ = make_model(monkeypatch, pieces, {"likelihood": "ode", "likelihood_steps": 40}, {})
    score = jax.jit(model.log_prob)
    x, low, high = IMAGES + 2.0 / 255.0 * uniforms(), 0.002, 4.0
    for label in (LABEL, np.array([0, 1, 3])):  # 3 is the null token
        # Standardized, a point stays where it is; the prior is centred at 0.
        mean = MEANS[label][:, None, None, None]
        stretch = math.sqrt((TAU**2 + high**2) / (TAU**2 + low**2))
        prior = math.sqrt(high**2 + (name == "preserving"))
        nats = norm.logpdf(mean + stretch * (x - mean), scale=prior) + math.log(stretch) + math.log(2.0 / 255.0)
        ours = score(*ARGS, {"label": jnp.asarray(label)})
        np.testing.assert_allclose(ours, nats.sum((1, 2, 3)), rtol=1e-4)


def test_dequantization_fills_the_bins_of_8_bit_levels():
    draw = jax.vmap(lambda key: jax.random.uniform(key, (64, 64, 1), minval=-0.5, maxval=0.5))
    offsets = np.asarray(ode.dequantize(KEYS, jnp.zeros((3, 64, 64, 1)), 256), np.float64)
    np.testing.assert_allclose(offsets, 2.0 / 255.0 * np.asarray(draw(keys.fold_each(KEYS, "dequantize"))), rtol=1e-5)
    np.testing.assert_allclose(np.diff(np.unique(np.round(offsets / (2.0 / 255.0), 2))), 0.01, atol=1e-9)
    np.testing.assert_allclose([offsets.min(), offsets.max()], [-1 / 255, 1 / 255], rtol=2e-3)


def linear_table(steps=25):
    """DDPM, section 4, in so many steps."""
    betas = np.linspace(1e-4, 0.02, steps) * 1000.0 / steps
    return betas, np.cumprod(1.0 - betas)


@pytest.mark.parametrize("learned", [False, True])
def test_the_bound_is_the_sum_of_its_terms(learned, monkeypatch):
    betas, bars = linear_table()
    sigmas = np.sqrt((1.0 - bars) / bars)
    pieces = V._replace(noise_label=lambda s: np.interp(np.log(s), np.log(sigmas), np.arange(25.0)) * 40.0)
    pieces = pieces._replace(settings={**V.settings, "schedule": "linear(num_timesteps=25)"})
    settings = {"likelihood": "bound", "learned_variance": learned}
    model, _ = make_model(monkeypatch, pieces, settings, {"guidance_scale": 3.0})
    ours = jax.jit(model.log_prob)(*ARGS, COND)
    total = 0.5 * (bars[-1] * IMAGES**2 - bars[-1] - np.log1p(-bars[-1])).sum((1, 2, 3))  # L_T
    smalls = betas * (1.0 - np.append(1.0, bars[:-1])) / (1.0 - bars)
    smalls[0] = smalls[1]
    for i, (beta, bar, small) in enumerate(zip(betas, bars, smalls, strict=True)):
        before = bars[i - 1] if i else 1.0
        x_t = np.sqrt(bar) * IMAGES + np.sqrt(1.0 - bar) * noise_of(i)
        x_0, interpolation = predict(pieces, x_t / np.sqrt(bar), sigmas[i], LABEL)
        weights = np.sqrt(before) * beta / (1.0 - bar), np.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - bar)
        true, mean = (weights[0] * image + weights[1] * x_t for image in (IMAGES, np.clip(x_0, -1.0, 1.0)))
        variance = (
            np.exp(interpolation * np.log(beta) + (1.0 - interpolation) * np.log(small))
            if learned
            else beta
            if i
            else small
        )
        if i:  # L_{t-1}
            total += 0.5 * (np.log(variance / small) - 1.0 + (small + (true - mean) ** 2) / variance).sum((1, 2, 3))
        else:  # L_0
            std = np.sqrt(variance)
            above = np.where(LEVELS == 255, np.inf, IMAGES + 1.0 / 255.0)
            below = np.where(LEVELS == 0, -np.inf, IMAGES - 1.0 / 255.0)
            # By the tail that is the smaller one.
            sign = np.where(mean > IMAGES, 1.0, -1.0)
            ends = sorted_ends(sign * (above - mean) / std, sign * (below - mean) / std)
            total -= (ends[1] + np.log1p(-np.exp(ends[0] - ends[1]))).sum((1, 2, 3))
    np.testing.assert_allclose(-ours, total, rtol=5e-4)


def sorted_ends(a, b):
    """Logarithms of the normal distribution function, the smaller first."""
    return norm.logcdf(np.minimum(a, b)), norm.logcdf(np.maximum(a, b))


def test_without_a_likelihood_there_is_none(monkeypatch):
    model, _ = make_model(monkeypatch, EDM, {}, {})
    assert model.log_prob is None
    assert model.spec.likelihood is None


@pytest.mark.parametrize("name", PATHS)
def test_encode_and_decode_are_the_path_of_ddim_both_ways(name, monkeypatch):
    pieces = on_log_sigma(PATHS[name])
    pieces.settings["levels"] = "exponential(sigma_min=0.3, sigma_max=4.0)"
    model, _ = make_model(monkeypatch, pieces, {}, {"guidance_scale": 3.0})  # which neither has
    sigmas = np.append(np.geomspace(4.0, 0.3, 5), 0.0)
    std = math.sqrt(16.0 + (name == "preserving"))

    def denoise(x, sigma):
        return predict(pieces, x, sigma, LABEL)[0]

    # Song et al. 2021, section 4.3; the derivative is 0 at level 0, and the first step the mean of both ends.
    x = IMAGES + 0.5 * (IMAGES - denoise(IMAGES, sigmas[4]))
    for t, s in zip(sigmas[4:0:-1], sigmas[3::-1], strict=True):
        x = x + (s - t) * (x - denoise(x, t)) / t
    latents = jax.jit(model.encode)(*ARGS, COND)
    np.testing.assert_allclose(latents, x / std, rtol=1e-3, atol=2e-4)

    expected = loops.ddim(denoise, std * np.asarray(latents, np.float64), sigmas, lambda k: 0.0)
    images = jax.jit(model.decode)(VARIABLES, latents, COND)
    np.testing.assert_allclose(images, expected, rtol=1e-3, atol=3e-4)
