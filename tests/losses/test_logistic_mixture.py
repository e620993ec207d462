"""The logistic mixture against the official one, against SciPy, and against the law of total probability."""

import functools

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.core.gaussians import bin_width
from jaxgen.losses import logistic_mixture as mixture

CASES = {"typical": 256, "edges": 256, "extreme": 256, "five_bit": 32}


def compiled(function, *static):
    """As one program: operation by operation, there would be a program for each."""
    return jax.jit(function, static_argnames=static)


pixel_log_probs = compiled(mixture.pixel_log_probs, "levels", "density_below")
log_prob = compiled(mixture.log_prob, "levels")
level_log_probs = compiled(mixture.level_log_probs, "channels", "levels")
mean_of = compiled(mixture.mean, "channels")
one_logistic = compiled(mixture.discretized_logistic_log_likelihood, "levels")
sample = compiled(mixture.sample, "channels", "levels")
sample_from_uniforms = compiled(mixture.sample_from_uniforms, "levels")


@pytest.fixture(scope="module")
def golden():
    return golden_files.load("dmol")


@functools.partial(jax.jit, static_argnums=2)
def official_terms(x, params, levels):
    """Per image, its gradient, and per pixel, as cases of the same shape share it."""
    options = {"levels": levels, "density_below": mixture.OFFICIAL_DENSITY_BELOW}
    by_image, vjp = jax.vjp(lambda params: -mixture.log_prob(x, params, **options) / x[0].size, params)
    return by_image, vjp(jnp.ones(len(x)))[0], -mixture.pixel_log_probs(x, params, **options)


@pytest.mark.parametrize("case", CASES)
def test_the_official_likelihood(golden, case):
    x, params = golden.inputs[f"{case}/x"], golden.inputs[f"{case}/l"]
    official = {name: golden.outputs[f"{case}/{name}"] for name in ("nll_per_dim", "nll_per_dim_float64", "grad_l")}
    by_pixel = golden.outputs[f"{case}/nll_per_pixel"]
    nll, grads, nll_by_pixel = official_terms(jnp.asarray(x), params, CASES[case])
    np.testing.assert_allclose(nll, official["nll_per_dim"], rtol=1e-4)
    np.testing.assert_allclose(nll, official["nll_per_dim_float64"], rtol=1e-4)
    np.testing.assert_allclose(nll_by_pixel.sum((1, 2)), by_pixel.sum((1, 2)), rtol=1e-4)
    assert np.abs(nll_by_pixel - by_pixel).max() <= 1e-2 * by_pixel.std()
    assert np.abs(grads - official["grad_l"]).max() <= 2e-2 * official["grad_l"].std()


def test_official_samples_of_given_uniforms(golden):
    inputs = [jnp.asarray(golden.inputs[f"sample/{name}"]) for name in ("l", "u_mixture", "u_logistic")]
    x = sample_from_uniforms(*inputs, levels=None)
    golden_files.assert_parity(x, golden.outputs["sample/x"])


def all_pixels(levels, channels):
    axis = np.linspace(-1.0, 1.0, levels, dtype=np.float32)
    return np.stack(np.meshgrid(*[axis] * channels, indexing="ij"), axis=-1).reshape(-1, channels)


@pytest.mark.parametrize(
    ("levels", "channels"), [(2, 1), (17, 1), (256, 1), (65_536, 1), (2, 2), (17, 2), (2, 3), (17, 3), (3, 4)]
)
def test_probabilities_of_all_pixels_sum_to_one(levels, channels):
    """Of narrow and wide scales, and means beyond the ends; also of the table of levels of the last channel."""
    length = mixture.number_of_parameters(2, channels)
    params = 2.0 * jax.random.normal(jax.random.key(levels), (4, length)) - 1.0
    pixels = jnp.asarray(all_pixels(levels, channels))

    @jax.jit
    def outputs(params):
        every = jnp.broadcast_to(params[:, None], (4, len(pixels), length))
        log_probs = mixture.pixel_log_probs(jnp.broadcast_to(pixels, (4, *pixels.shape)), every, levels=levels)
        previous = jnp.broadcast_to(pixels[len(pixels) // 3, :-1], (4, channels - 1))
        return log_probs, mixture.level_log_probs(previous, params, channels=channels, levels=levels)

    for log_probs in outputs(params):
        np.testing.assert_allclose(np.exp(np.float64(log_probs)).sum(1), 1.0, rtol=2e-5)


def test_tables_of_levels_multiply_to_the_pixel():
    """By the chain rule, p(x) = p(x0) p(x1 | x0) p(x2 | x0, x1)."""
    params = jax.random.normal(jax.random.key(1), (5, mixture.number_of_parameters(3, 3)))
    indices = np.array([[0, 3, 16], [16, 0, 1], [7, 8, 9], [2, 16, 0], [5, 5, 5]])
    pixels = jnp.asarray(indices / 8.0 - 1.0, jnp.float32)
    tables = [np.asarray(level_log_probs(pixels[:, :j], params, channels=3, levels=17)) for j in range(3)]
    total = sum(table[np.arange(5), indices[:, j]] for j, table in enumerate(tables))
    np.testing.assert_allclose(total, pixel_log_probs(pixels, params, levels=17), rtol=1e-5)


def test_a_pixel_by_hand():
    """Two components of two channels; the layout is logits, m0, s0, a10, m1, s1, each of two."""
    logits, m0, s0, a, m1, s1 = rows = np.array(
        [[0.3, -0.2], [0.1, -0.5], [-1.0, 0.2], [0.7, -1.2], [0.4, 0.0], [-2.0, -9.0]]
    )
    x = np.array([2.0 / 8 - 1, 5.0 / 8 - 1])
    weights = np.exp(logits) / np.exp(logits).sum()
    p0 = np.diff(stats.logistic.cdf(x[0] + np.array([[-1], [1]]) / 16, m0, np.exp(s0)), axis=0)[0]
    mean1, scale1 = m1 + np.tanh(a) * x[0], np.exp(np.maximum(s1, -7.0))
    p1 = np.diff(stats.logistic.cdf(x[1] + np.array([[-1], [1]]) / 16, mean1, scale1), axis=0)[0]
    actual = pixel_log_probs(jnp.float32(x)[None], jnp.float32(rows.reshape(1, -1)), levels=17)
    np.testing.assert_allclose(actual, [np.log((weights * p0 * p1).sum())], rtol=1e-5)
    image, params = (np.tile(np.float32(v).reshape(1, 1, 1, -1), (1, 2, 1, 1)) for v in (x, rows))
    np.testing.assert_allclose(log_prob(jnp.asarray(image), jnp.asarray(params), levels=17), 2 * actual, rtol=1e-6)
    chain = np.clip(np.stack([m0, m1 + np.tanh(a) * m0]), -1, 1)
    mean = mean_of(jnp.float32(rows.reshape(1, -1)), channels=2)
    np.testing.assert_allclose(mean[0], (chain * weights).sum(1), rtol=1e-5)


def test_ends_have_the_tails():
    params = jnp.array([[0.0, 0.3, -1.0]])
    first, last = (pixel_log_probs(jnp.array([[x]]), params, levels=17)[0] for x in (-1.0, 1.0))
    np.testing.assert_allclose(first, stats.logistic.logcdf(-15 / 16, 0.3, np.exp(-1)), rtol=1e-5)
    np.testing.assert_allclose(last, stats.logistic.logsf(15 / 16, 0.3, np.exp(-1)), rtol=1e-5)


@pytest.mark.parametrize("density_below", [0.0, mixture.OFFICIAL_DENSITY_BELOW])
@pytest.mark.parametrize("levels", [2, 17, 256, 65_536])
def test_extreme_parameters_are_finite_with_finite_gradients(levels, density_below):
    """Scales from exp(-50) (clamped) to exp(60), means far out, at all kinds of levels."""
    scales, means = jnp.meshgrid(jnp.array([-50.0, -7.0, -2.0, 5.0, 60.0]), jnp.array([-1e3, -1.0, 0.1, 1.0, 1e3]))
    params = jnp.stack([jnp.zeros(25), means.ravel(), scales.ravel()], axis=-1)
    middle = 2.0 * (levels // 2) / (levels - 1) - 1.0

    @jax.jit
    def value_and_grad(x):
        def total(p):
            pixels = jnp.full((25, 1), x)
            return mixture.pixel_log_probs(pixels, p, levels=levels, density_below=density_below).sum()

        return jax.value_and_grad(total)(params)

    for x in (-1.0, middle, 1.0):
        assert all(jnp.isfinite(value).all() for value in value_and_grad(x))


def test_small_probabilities_are_densities_times_the_width_where_asked():
    params, x = jnp.array([[0.0, 0.0, -4.0]]), 10 / 8 - 1
    scale = np.exp(-4.0)
    exact = np.log(np.diff(stats.logistic.sf([x - 1 / 16, x + 1 / 16], 0, scale)[::-1]))
    density = stats.logistic.logpdf(x, 0, scale) + np.log(1 / 8)
    for below, expected in ((0.0, exact[0]), (1e-9, exact[0]), (1e-2, density)):
        actual = pixel_log_probs(jnp.array([[x]]), params, levels=17, density_below=below)
        np.testing.assert_allclose(actual, [expected], rtol=1e-5)


def test_one_discretized_logistic():
    x, mean = jnp.array([[-1.0, 0.25], [1.0, 0.5]]), jnp.array([[0.2, -0.3], [0.1, 0.6]])
    for log_scale in (jnp.array(-1.5), jnp.array([[-1.0, 0.5], [-3.0, -8.0]])):
        low, high = (
            np.where(np.abs(x) == 1, np.sign(x) * np.where(end * x > 0, np.inf, 15 / 16), x + end / 16)
            for end in (-1, 1)
        )
        cdf = [stats.logistic.cdf(np.float64(end), mean, np.exp(np.float64(log_scale))) for end in (low, high)]
        expected = np.log(cdf[1] - cdf[0]).sum(1)
        actual = one_logistic(x, mean, log_scale, levels=17)
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_samples_have_the_probabilities_and_their_own_keys():
    """Frequencies of all pixels of 3 levels and 2 channels, within five standard errors."""
    params = jax.random.normal(jax.random.key(2), (1, 1, 1, mixture.number_of_parameters(3, 2)))
    pixels = jnp.asarray(all_pixels(3, 2))
    probability = np.exp(pixel_log_probs(pixels, jnp.broadcast_to(params[0, 0], (9, params.shape[-1])), levels=3))
    n = 20_000
    keys = jax.random.split(jax.random.key(3), n)
    draw = functools.partial(sample, channels=2, levels=3)
    samples = draw(keys, jnp.tile(params, (n, 1, 1, 1)))[:, 0, 0]
    frequency = np.mean(np.all(np.asarray(samples)[:, None] == np.asarray(pixels), axis=-1), axis=0)
    np.testing.assert_allclose(frequency.sum(), 1.0, rtol=1e-6)
    assert np.all(np.abs(frequency - probability) < 5 * np.sqrt(probability * (1 - probability) / n))
    np.testing.assert_array_equal(draw(keys[5:7], jnp.tile(params, (2, 1, 1, 1)))[:, 0, 0], samples[5:7])


def test_a_channel_is_rounded_before_the_next_is_drawn():
    params = jnp.array([[0.0, 0.3, -7.0, 50.0, 0.0, -7.0]])  # channel 1 is about the value of channel 0
    half = jnp.array([[0.5, 0.5]])
    for levels, expected in ((None, 0.3), (17, 0.25), (3, 0.0)):
        pixel = sample_from_uniforms(params, half[:, :1], half, levels=levels)
        np.testing.assert_allclose(pixel, [[expected, expected]], atol=1e-6)
    assert bin_width(17) == 0.125


@pytest.mark.parametrize(
    ("mixtures", "channels", "length"), [(10, 3, 100), (10, 1, 30), (5, 3, 50), (1, 2, 6), (2, 4, 30)]
)
def test_numbers_of_parameters(mixtures, channels, length):
    assert mixture.number_of_parameters(mixtures, channels) == length


@pytest.mark.parametrize("length", [0, 11])
def test_parameters_that_fit_no_number_of_components_are_refused(length):
    with pytest.raises(ValueError, match=f"A pixel of 3 channels has {length} parameters .* multiple of 10"):
        mixture.pixel_log_probs(jnp.zeros((2, 3)), jnp.zeros((2, length)), levels=17)
