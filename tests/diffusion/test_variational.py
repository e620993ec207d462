"""The variational bound against the official quantities, and in closed form for a Gaussian."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_targets import ideal_denoiser, keys_of
from golden_files import DIRECTORY
from scipy.stats import norm

from jaxgen.core import keys
from jaxgen.diffusion.likelihood import variational
from jaxgen.diffusion.likelihood.variational import Reverse, Transition
from jaxgen.diffusion.process import schedules


class Case(NamedTuple):
    """What a golden file says of one schedule, images channels-last, and our inputs: x in our scale, the estimates."""

    golden: dict[str, np.ndarray]
    table: np.ndarray
    timestep: jax.Array
    x: jax.Array
    clean: jax.Array
    x0: jax.Array
    interpolation: jax.Array


@pytest.fixture(scope="module", params=["linear", "cosine"])
def case(request) -> Case:
    prefix = f"learned_sigma/{request.param}/"
    with np.load(DIRECTORY / "diffusion_math.npz") as file:
        golden = {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
    golden = {name: np.moveaxis(array, 1, -1) if array.ndim == 4 else array for name, array in golden.items()}
    table, timestep = getattr(schedules, request.param)().table, jnp.asarray(golden["t"].astype(np.int32))
    sigma = jnp.asarray(table.astype(np.float32))[timestep][:, None, None, None]
    eps, raw = jnp.split(jnp.asarray(golden["model_output"]), 2, axis=-1)
    x = golden["x0"] + sigma * golden["noise"]
    return Case(golden, table, timestep, x, jnp.asarray(golden["x0"]), x - sigma * eps, 0.5 * (raw + 1.0))


def scale_of_ours(case: Case) -> np.ndarray:
    """sqrt(1 + s^2), by which our x_s is larger than the variance-preserving one."""
    s = np.append(0.0, case.table[:-1])[np.asarray(case.timestep)]
    return np.sqrt(1.0 + s**2)[:, None, None, None]


def test_the_reverse_step_matches_the_official_one(case):
    step = variational.transition(case.table, case.timestep)
    logvar = variational.learned_logvar(step, case.interpolation)
    x0 = jnp.clip(case.x0, -1.0, 1.0)  # as the official means are of clipped estimates
    np.testing.assert_allclose(x0, case.golden["pred_xstart"], atol=1e-5)
    ours, scale = variational.reverse(step, case.x, x0, logvar), scale_of_ours(case)
    np.testing.assert_allclose(ours.mean / scale, case.golden["mean"], atol=1e-5)
    np.testing.assert_allclose(ours.logvar - 2.0 * np.log(scale), case.golden["log_variance"], rtol=1e-5, atol=1e-5)


def test_the_terms_match_the_official_ones(case):
    step = variational.transition(case.table, case.timestep)
    model = variational.reverse(step, case.x, case.x0, variational.learned_logvar(step, case.interpolation))
    ours = variational.bits_per_dim(variational.term(step, case.x, case.clean, model, levels=256), case.clean)
    first = np.asarray(case.timestep) == 0
    np.testing.assert_allclose(ours[~first], case.golden["vb_bpd"][~first], rtol=1e-4)
    # The official decoder's approximation of the normal distribution is coarse in the tails, where it also rounds.
    np.testing.assert_allclose(ours[first], case.golden["vb_bpd"][first], rtol=0.05)
    prior = variational.bits_per_dim(variational.prior(case.table, case.clean), case.clean)
    np.testing.assert_allclose(prior, case.golden["prior_bpd"], rtol=2e-4)


def test_the_hybrid_loss_matches_the_official_one(case):
    hybrid = variational.hybrid_term(
        case.table, case.timestep, case.x, case.clean, case.x0, case.interpolation, levels=256
    )
    np.testing.assert_allclose(hybrid[1:], case.golden["vb_rescaled"][1:], rtol=1e-4)
    eps = case.golden["model_output"][..., :3]
    mse = jnp.mean(jnp.square(eps - case.golden["noise"]), axis=(1, 2, 3))
    np.testing.assert_allclose((mse + hybrid)[1:], case.golden["loss"][1:], rtol=1e-4)


def test_the_hybrid_term_trains_the_variance_alone(case):
    def loss(x0, interpolation):
        return variational.hybrid_term(
            case.table, case.timestep, case.x, case.clean, x0, interpolation, levels=256
        ).sum()

    to_x0, to_interpolation = jax.grad(loss, argnums=(0, 1))(case.x0, case.interpolation)
    np.testing.assert_array_equal(to_x0, 0.0)
    assert np.isfinite(to_interpolation).all()
    assert (np.abs(to_interpolation).max(axis=(1, 2, 3)) > 0.0).all()


def test_the_prior_term_is_a_divergence_of_gaussians():
    clean = jnp.linspace(-1.0, 1.0, 8).reshape(2, 2, 2, 1)
    table, alpha_bar = np.array([0.5, 2.0]), 0.2
    expected = 0.5 * np.sum(alpha_bar * np.asarray(clean) ** 2 + (1 - alpha_bar) - 1 - np.log(1 - alpha_bar), (1, 2, 3))
    np.testing.assert_allclose(variational.prior(table, clean), expected, rtol=1e-5)


def gaussian_bound(num_timesteps: int, mu: float, tau: float) -> tuple[float, float]:
    """The mean bound, and the entropy that it bounds, both in nats a dimension, of 8-bit images from N(mu, tau^2)."""
    table = schedules.linear(num_timesteps=num_timesteps).table
    levels = np.arange(256) / 127.5 - 1.0
    pixels = np.random.default_rng(0).normal(mu, tau, (64, 8, 8, 1))
    clean = jnp.asarray(np.clip(np.rint((pixels + 1.0) * 127.5), 0, 255) / 127.5 - 1.0, jnp.float32)
    logits = -0.5 * ((levels - mu) / tau) ** 2
    entropy = -np.mean(np.interp(np.asarray(clean), levels, logits - np.log(np.exp(logits).sum())))

    def reverse_step(step: Transition, x: jax.Array) -> Reverse:
        sigma = step.sigma[:, 0, 0, 0]
        x0 = ideal_denoiser(mu, tau)(x, sigma)
        # The variance of x_s given x_t alone: the posterior's, and that of the estimate's error.
        error = (1.0 - step.ratio**2) ** 2 * tau**2 * step.sigma**2 / (tau**2 + step.sigma**2)
        small = jnp.where(step.first > 0.0, 0.0, jnp.exp(step.log_small))
        return variational.reverse(step, x, x0, jnp.log(small + error))

    nats = jax.jit(lambda keys: variational.bound(keys, reverse_step, table, clean, levels=256))(keys_of(64))
    return float(nats.mean()) / 64, float(entropy)


def test_the_bound_of_a_gaussian_is_nearly_its_entropy():
    # The ideal reverse steps of a Gaussian are Gaussian: what is left is the mismatch of the prior, and of 8 bits.
    bound, entropy = gaussian_bound(100, mu=0.1, tau=0.25)
    np.testing.assert_allclose(bound, entropy, atol=0.02)


# By hand, with NumPy and SciPy, for a short table.
TABLE = np.array([0.02, 0.5, 1.7, 4.0])
STEPS = np.array([0, 2, 1, 3])


def by_hand():
    """t, s, and the variances of the posterior and of the forward step, in our scale, of each of STEPS."""
    t, s = TABLE[STEPS], np.append(0.0, TABLE[:-1])[STEPS]
    small = s**2 * (t**2 - s**2) / t**2
    large = (1 + s**2) * (t**2 - s**2) / (1 + t**2)
    next_small = TABLE[0] ** 2 * (TABLE[1] ** 2 - TABLE[0] ** 2) / TABLE[1] ** 2 / (1 + TABLE[0] ** 2)
    return t, s, np.where(STEPS == 0, next_small, small), large


def column(values):
    return np.asarray(values)[:, None, None, None]


def test_a_transition_is_that_of_its_timestep():
    t, s, small, large = by_hand()
    step = variational.transition(TABLE, jnp.asarray(STEPS))
    for ours, expected in zip(step, (t, s / t, np.log(small), np.log(large), STEPS == 0), strict=True):
        assert ours.shape == (4, 1, 1, 1)
        np.testing.assert_allclose(np.ravel(ours), expected, rtol=1e-5)


def small_batch():
    rng = np.random.default_rng(0)
    clean = rng.integers(100, 140, (4, 2, 3, 1)) / 127.5 - 1.0
    x = clean + column(TABLE[STEPS]) * rng.normal(size=clean.shape)
    return clean, x, clean + 0.1 * rng.normal(size=clean.shape), rng.uniform(size=clean.shape)


def terms_by_hand(clean, x, x0, logvar):
    t, s, small, _ = by_hand()
    ratio = column((s / t) ** 2)
    mean, true_mean, variance = x0 + ratio * (x - x0), clean + ratio * (x - clean), np.exp(logvar)
    kl = 0.5 * (logvar - np.log(column(small)) + (column(small) + (true_mean - mean) ** 2) / variance - 1.0)
    bins = norm.cdf(clean + 1 / 255, mean, np.sqrt(variance)) - norm.cdf(clean - 1 / 255, mean, np.sqrt(variance))
    return np.where(STEPS == 0, -np.log(bins).sum(axis=(1, 2, 3)), kl.sum(axis=(1, 2, 3)))


def test_terms_are_a_decoder_and_divergences_with_the_learned_variance():
    clean, x, x0, interpolation = (jnp.float32(a) for a in small_batch())
    _, _, small, large = by_hand()
    step = variational.transition(TABLE, jnp.asarray(STEPS))
    logvar = variational.learned_logvar(step, interpolation)
    expected_logvar = small_batch()[3] * np.log(column(large)) + (1 - small_batch()[3]) * np.log(column(small))
    np.testing.assert_allclose(logvar, expected_logvar, rtol=1e-4)
    model = variational.reverse(step, x, x0, logvar)
    expected = terms_by_hand(*small_batch()[:3], expected_logvar)
    np.testing.assert_allclose(variational.term(step, x, clean, model, levels=256), expected, rtol=1e-3)
    bits = expected / (6 * np.log(2.0))
    np.testing.assert_allclose(variational.bits_per_dim(jnp.float32(expected), clean), bits, rtol=1e-5)
    for options, rescale in (({}, 1e-3), ({"rescale": 0.3}, 0.3)):
        hybrid = variational.hybrid_term(TABLE, jnp.asarray(STEPS), x, clean, x0, interpolation, levels=256, **options)
        np.testing.assert_allclose(hybrid, rescale * 4 * bits, rtol=1e-3)
    broadcast = variational.reverse(step, x, x0, step.log_large)
    np.testing.assert_allclose(broadcast.logvar, np.log(column(large)) * np.ones((4, 2, 3, 1)), rtol=1e-5)


def test_the_bound_adds_all_terms_with_noise_of_their_own_and_the_prior():
    clean = jnp.float32(small_batch()[0])
    image_keys = keys_of(4)
    total = np.asarray(variational.prior(TABLE, clean), np.float64)
    for timestep in range(4):
        step = variational.transition(TABLE, jnp.full(4, timestep))
        noise = keys.normal(keys.fold_each(image_keys, timestep), (2, 3, 1))
        x = clean + TABLE[timestep] * noise
        model = variational.reverse(step, x, 0.7 * x, step.log_large + 0.1)
        total += np.asarray(variational.term(step, x, clean, model, levels=256))
    nats = jax.jit(
        lambda image_keys, clean: variational.bound(
            image_keys,
            lambda step, x: variational.reverse(step, x, 0.7 * x, step.log_large + 0.1),
            TABLE,
            clean,
            levels=256,
        )
    )(image_keys, clean)
    np.testing.assert_allclose(nats, total, rtol=1e-4)
