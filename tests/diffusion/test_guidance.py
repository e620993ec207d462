"""Guidance between Gaussians, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_targets import ideal_denoiser

from jaxgen.core.conditioning import classes
from jaxgen.diffusion.sampling import guidance

MEANS, NULL_MEAN, TAU, SIGMA = (-0.5, 0.5), 0.1, 0.4, 0.8
CONDITIONS = {"label": classes(2, null=True)}
LABEL = jnp.array([1, 0, 1])
COND = {"label": LABEL}
X = jnp.linspace(-1.0, 1.0, 3 * 4).reshape(3, 2, 2, 1)
SIGMAS = jnp.full(3, SIGMA)


class CountingDenoiser:
    """The ideal denoiser of N(mean[label], tau^2), label 2 standing for no class; remembers its batch sizes."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, sigma, cond):
        jax.debug.callback(lambda x: self.batches.append(len(x)), x)
        mu, sigma = jnp.array([*MEANS, NULL_MEAN])[cond["label"]][:, None, None, None], sigma[:, None, None, None]
        return mu + TAU**2 / (TAU**2 + sigma**2) * (x - mu)


def conditional(sigma=SIGMAS):
    return CountingDenoiser()(X, sigma, COND)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 3.0])
def test_guidance_moves_the_mean_along_the_classes(scale):
    # Two Gaussians of equal variance extrapolate to a Gaussian of that variance about the extrapolated mean.
    guided = guidance.classifier_free(CountingDenoiser(), CONDITIONS, COND, scale=scale)
    mu = NULL_MEAN + scale * (jnp.array(MEANS)[LABEL] - NULL_MEAN)
    mu = mu[:, None, None, None]
    expected = mu + TAU**2 / (TAU**2 + SIGMA**2) * (X - mu)
    np.testing.assert_allclose(guided(X, SIGMAS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "interval", "batches"),
    [(1.0, None, [3]), (2.0, None, [6]), (2.0, (0.1, 1.0), [6]), (2.0, (0.1, 0.5), [3]), (1.0, (0.1, 1.0), [3])],
)
def test_guidance_costs_one_call_and_none_extra_where_there_is_none(scale, interval, batches):
    denoise = CountingDenoiser()
    guidance.classifier_free(denoise, CONDITIONS, COND, scale=scale, interval=interval)(X, SIGMAS)
    jax.effects_barrier()
    assert denoise.batches == batches


def test_an_interval_limits_guidance_image_by_image():
    sigma = jnp.array([0.2, 0.5, 1.0])
    everywhere = guidance.classifier_free(CountingDenoiser(), CONDITIONS, COND, scale=3.0)(X, sigma)
    limited = guidance.classifier_free(CountingDenoiser(), CONDITIONS, COND, scale=3.0, interval=(0.2, 0.5))
    expected = jnp.stack([conditional(sigma)[0], everywhere[1], conditional(sigma)[2]])
    np.testing.assert_allclose(jax.jit(limited)(X, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_brings_the_contrast_back(rescale):
    # A denoiser whose classes differ in contrast: here guidance at scale 3 multiplies the image by 4 (2) - 3 (1) = 5.
    def denoise(x, sigma, cond):
        return x * jnp.where(cond["label"] == 2, 1.0, 2.0)[:, None, None, None] + 0.5

    guided = guidance.classifier_free(denoise, CONDITIONS, COND, scale=4.0, rescale=rescale)(X, SIGMAS)
    expected = rescale * 2.0 / 5.0 * (5.0 * X + 0.5) + (1.0 - rescale) * (5.0 * X + 0.5)
    np.testing.assert_allclose(guided, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_classifier_guidance_by_bayes_rule_is_conditional(scale):
    # p(y | x) of Gaussian classes about the null's mean: its gradient is the difference of the two scores.
    mean = jnp.array(MEANS)[LABEL][:, None, None, None]

    def log_prob_of_label(x, sigma):
        variance = (TAU**2 + sigma**2)[:, None, None, None]
        return (((x - NULL_MEAN) ** 2 - (x - mean) ** 2) / (2.0 * variance)).sum((1, 2, 3))

    given = {} if scale == 1.0 else {"scale": scale}  # 1 is the default
    guided = guidance.classifier(ideal_denoiser(NULL_MEAN, TAU), log_prob_of_label, **given)
    unconditional = ideal_denoiser(NULL_MEAN, TAU)(X, SIGMAS)
    np.testing.assert_allclose(guided(X, SIGMAS), unconditional + scale * (conditional() - unconditional), atol=1e-6)


def test_autoguidance_extrapolates_from_the_guide():
    model, guide = ideal_denoiser(0.3, 0.4), ideal_denoiser(0.1, 0.6)
    at = lambda denoise: np.asarray(denoise(X, SIGMAS))  # noqa: E731
    np.testing.assert_allclose(at(guidance.autoguidance(model, guide, scale=2.0)), 2 * at(model) - at(guide), atol=1e-6)
    np.testing.assert_array_equal(at(guidance.autoguidance(model, guide)), at(model))
    outside = guidance.autoguidance(model, guide, scale=2.0, interval=(0.0, 0.5))
    np.testing.assert_array_equal(at(outside), at(model))


def test_autoguidance_brings_the_contrast_back_to_that_of_the_model():
    model, guide = ideal_denoiser(0.3, 0.4), ideal_denoiser(0.1, 0.6)
    better, worse = np.asarray(model(X, SIGMAS)), np.asarray(guide(X, SIGMAS))
    estimate = worse + 3.0 * (better - worse)
    ratio = better.std((1, 2, 3), keepdims=True) / estimate.std((1, 2, 3), keepdims=True)  # Lin et al. 2024, eq. 15
    assert np.abs(ratio - 1.0).min() > 0.01
    guided = guidance.autoguidance(model, guide, scale=3.0, rescale=0.7)(X, SIGMAS)
    np.testing.assert_allclose(guided, 0.7 * ratio * estimate + 0.3 * estimate, rtol=1e-4, atol=1e-5)


def test_an_empty_interval_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        guidance.autoguidance(ideal_denoiser(), ideal_denoiser(), scale=2.0, interval=(0.5, 0.5))
