"""The training loss of diffusion, its gradient and its metrics, with every option, written out in NumPy.

The network is the formula of `formula_network`; the draws are those of `core.keys`, and nothing else is shared with the
code under test but the uniforms, which have tests of their own.
"""

import functools
from typing import NamedTuple

import formula_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from formula_network import OF_CLASS, assert_gradient, column, formula, gains
from scipy.stats import norm
from specs import data_spec
from tiny_runs import train_by_sgd

from configs import ddpm
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, GenerativeModel
from jaxgen.diffusion.process import uniforms
from jaxgen.diffusion.training import augmentation
from jaxgen.diffusion.training.augment_recipes import edm
from jaxgen.methods.denoising import diffusion

SHAPE = (2, 3, 2)
SPEC = data_spec(SHAPE, formula_network.NUM_CLASSES)
N = 6
INDEX, LABEL = np.array([3, 0, 5, 1, 2, 4], np.int32), np.array([1, 3, 0, 2, 0, 1], np.int32)
IMAGE = np.random.default_rng(0).integers(0, 256, (N, *SHAPE)).astype(np.uint8)
X0 = IMAGE / 127.5 - 1.0
KEY = keys.root_key(11)


class Head(nn.Module):
    """c n / (10 + |n|) - 0.03 channels, in the place of the uncertainty's network; learns c."""

    channels: int

    @nn.compact
    def __call__(self, noise_label):
        c = self.param("c", lambda key: jnp.float32(0.6))
        return c * noise_label / (10.0 + jnp.abs(noise_label)) - 0.03 * self.channels


def augment(example_keys, images, recipe):
    """In the place of the augmentation's: a factor for each image, which the vector tells."""
    u = jax.vmap(jax.random.uniform)(keys.fold_each(example_keys, "augment"))
    vector = jnp.sin(column(recipe.scale + u)[:, :, 0, 0] * jnp.arange(1.0, 1.0 + recipe.num_labels)[None])
    return images * column(0.5 + recipe.scale * u), vector


@pytest.fixture(autouse=True)
def formulas(monkeypatch):
    monkeypatch.setattr(diffusion, "make_network", formula_network.make_formula)
    monkeypatch.setattr(diffusion, "Uncertainty", Head)
    monkeypatch.setattr(augmentation, "augment", augment)


def build(env=Env(), **changes):
    config = ddpm.get_config("tiny")
    train_by_sgd(config.optimizer, learning_rate=1.0, b1=0.0, schedule="constant", clip_norm=None)
    config.data.batch_size, config.ema.decay, config.ema.warmup = N, 0.25, False
    config.sampler.name, config.sampler.levels, config.sampler.guidance_scale = "ddim", "karras", 1.0
    config.diffusion.class_conditional, config.diffusion.label_dropout = False, 0.0
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return build_model(config, SPEC, env)


def batch(microbatches=1):
    arrays = {"image": IMAGE, "index": INDEX, "label": LABEL}
    return {name: jnp.asarray(x.reshape(microbatches, -1, *x.shape[1:])) for name, x in arrays.items()}


class Step(NamedTuple):
    """One update by SGD at a rate of 1, so that the gradient is what the parameters lose."""

    model: GenerativeModel
    before: object
    after: object
    metrics: dict

    @property
    def params(self):
        return jax.tree.map(np.asarray, self.before.params)

    @property
    def gradient(self):
        return jax.tree.map(lambda old, new: np.asarray(old - new), self.before.params, self.after.params)


def step(model, model_state=None, microbatches=1):
    before = model.init(keys.root_key(0), batch(microbatches))
    if model_state is not None:
        before = before._replace(model_state=model_state)
    after, metrics = jax.jit(model.update)(KEY, before, batch(microbatches))
    return Step(model, before, after, metrics)


class Draws(NamedTuple):
    """What an update draws for each example."""

    u: np.ndarray
    eps: np.ndarray
    gain: np.ndarray
    coin: np.ndarray
    keys: object

    def hidden(self, rate):
        return np.asarray(keys.bernoulli(keys.fold_each(self.keys, "label_dropout"), rate))

    def of_class(self, rate):
        hidden = self.hidden(rate)
        assert 0 < hidden.sum() < N  # of both kinds
        return OF_CLASS[np.where(hidden, 4, LABEL)]


@functools.cache
def draws():
    example_keys = keys.per_example(KEY, jnp.asarray(INDEX))
    fold = functools.partial(keys.fold_each, example_keys)
    arrays = (
        uniforms.independent(example_keys),
        keys.normal(fold("eps"), SHAPE),
        gains(fold("dropout")),
        keys.bernoulli(fold("self_condition"), 0.5),
    )
    return Draws(*(np.asarray(x, np.float64) for x in arrays), example_keys)


def per_image(squares):
    return squares.mean(axis=(1, 2, 3))


def assert_metrics(metrics, **expected):
    assert set(metrics) == {"grad_norm", *(name.replace("__", "/") for name in expected)}
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name.replace("__", "/")], value, rtol=2e-4, err_msg=name)


def discrete(num_timesteps):
    """alpha_bar of DDPM's linear schedule."""
    scale = 1000 / num_timesteps
    return np.cumprod(1.0 - np.linspace(scale * 1e-4, scale * 0.02, num_timesteps))


def test_ddpm_predicts_the_noise_of_a_class_that_is_hidden_at_times():
    changes = {"schedule": "linear(num_timesteps=50)", "weighting": "min_snr(gamma=0.5)", "label_dropout": 0.5}
    changes |= {"class_conditional": True}
    done, d = step(build(**{f"diffusion__{k}": v for k, v in changes.items()})), draws()
    i = np.floor(50 * d.u).astype(int)
    alpha_bar = discrete(50)[i]
    snr = alpha_bar / (1 - alpha_bar)
    assert 0 < np.sum(snr > 0.5) < N
    x_t = column(np.sqrt(alpha_bar)) * X0 + column(np.sqrt(1 - alpha_bar)) * d.eps  # Ho et al. 2020, eq. 4

    def loss(params):
        eps = formula(params["network"], x_t, i * 20.0, d.of_class(0.5), gain=d.gain, outputs=2)
        return np.mean(np.minimum(snr, 0.5) / snr * per_image((eps - d.eps) ** 2))  # Hang et al. 2023, section 3.4

    assert_metrics(done.metrics, loss=loss(done.params))
    assert_gradient(done.gradient, loss, done.params)
    assert done.after.model_state == {}


def test_an_unconditional_model_sees_no_class():
    done, d = step(build(diffusion__schedule="linear(num_timesteps=50)")), draws()
    i = np.floor(50 * d.u).astype(int)
    alpha_bar = discrete(50)[i]
    x_t = column(np.sqrt(alpha_bar)) * X0 + column(np.sqrt(1 - alpha_bar)) * d.eps
    eps = formula(done.params["network"], x_t, i * 20.0, np.zeros(N), gain=d.gain, outputs=2)
    assert_metrics(done.metrics, loss=np.mean((eps - d.eps) ** 2))  # Ho et al. 2020, eq. 14
    assert done.model.spec.num_classes == 0


VP = {"schedule": "log_linear(sigma_min=0.1, sigma_max=20.0)", "noise_label": "log_sigma(scale=3.0)"}


def test_self_conditioning_shows_half_of_the_examples_an_estimate_without_gradient():
    changes = {**VP, "parameterization": "v", "weighting": "snr", "self_conditioning": True}
    changes |= {"class_conditional": True, "label_dropout": 0.5}
    done, d = step(build(**{f"diffusion__{k}": v for k, v in changes.items()})), draws()
    sigma = 0.1 * 200.0**d.u
    alpha, std = column(1 / np.sqrt(1 + sigma**2)), column(sigma / np.sqrt(1 + sigma**2))
    x_t = alpha * X0 + std * d.eps
    assert 0 < d.coin.sum() < N

    def v(params, hint, of_class, gain):
        seen = np.concatenate([x_t, hint], axis=-1)
        return formula(params["network"], seen, 3.0 * np.log(sigma), of_class, gain=gain, outputs=2)

    def loss(params, first=None):
        of_class = d.of_class(0.5)
        estimate = alpha * x_t - std * v(first or params, np.zeros_like(x_t), of_class, d.gain)
        error = v(params, column(d.coin) * estimate, of_class, d.gain) - (alpha * d.eps - std * X0)
        return np.mean(alpha.reshape(-1) ** 2 * per_image(error**2))  # Salimans and Ho 2022: |x_0|^2 err std^2 alpha^2

    assert_metrics(done.metrics, loss=loss(done.params))
    assert_gradient(done.gradient, lambda params: loss(params, first=done.params), done.params)
    # Outside training all examples see the estimate, and there is no dropout; the parameters are the averaged ones.
    variables = done.model.eval_variables(done.after)
    averaged = jax.tree.map(lambda old, new: 0.25 * old + 0.75 * new, done.before.params, done.after.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), variables, averaged)
    averaged = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), averaged)
    x = X0 + column(sigma) * d.eps
    estimate = alpha * x_t - std * v(averaged, np.zeros_like(x_t), OF_CLASS[LABEL], None)
    estimate = alpha * x_t - std * v(averaged, estimate, OF_CLASS[LABEL], None)
    args = (variables, jnp.float32(x), jnp.float32(sigma), {"label": jnp.asarray(LABEL)})
    np.testing.assert_allclose(jax.jit(done.model.denoise)(*args), estimate, atol=2e-4)


EDM = {
    "path": "normalized(sigma_data=0.75)",
    "parameterization": "edm(sigma_data=0.75)",
    "schedule": "karras",
    "noise_label": "log_sigma",
    "times": "log_normal(mean=-0.4, std=1.0)",
}


def edm_loss(params, d, sigma, x0, vector, *, of_class):
    """Karras et al. 2022, eq. 8 with table 1, whose weight lambda is 1 / c_out^2: the error of F."""
    r = np.sqrt(sigma**2 + 0.75**2)
    c_skip, c_out, c_in = 0.75**2 / r**2, 0.75 * sigma / r, 1 / r
    x = x0 + column(sigma) * d.eps
    f = formula(params, column(c_in) * x, np.log(sigma) / 4, of_class, vector=vector, gain=d.gain, outputs=2)
    return (sigma**2 + 0.75**2) / (0.75 * sigma) ** 2 * per_image((column(c_skip) * x + column(c_out) * f - x0) ** 2)


def test_edm_with_augmentation_and_a_learned_uncertainty():
    changes = {**EDM, "augment_probability": 0.4, "uncertainty_channels": 4, "weighting": "edm(sigma_data=0.75)"}
    done, d = step(build(**{f"diffusion__{k}": v for k, v in changes.items()})), draws()
    sigma = np.exp(-0.4 + norm.ppf(d.u))
    x0, vector = (np.asarray(a, np.float64) for a in augment(d.keys, jnp.float32(X0), edm(probability=0.4)))

    def terms(params):
        error = edm_loss(params["network"], d, sigma, x0, vector, of_class=np.zeros(N))
        n = np.log(sigma) / 4
        u = params["uncertainty"]["c"] * n / (10 + abs(n)) - 0.12
        return np.mean(error / np.exp(u)), np.mean(u)  # Karras et al. 2024, eq. 21

    error, uncertainty = terms(done.params)
    assert_metrics(done.metrics, loss=error + uncertainty, loss__error=error, loss__uncertainty=uncertainty)
    assert_gradient(done.gradient, lambda params: sum(terms(params)), done.params)


FLOW = {
    "path": "linear",
    "parameterization": "velocity",
    "schedule": "flow(time_max=0.9)",
    "noise_label": "flow_time(scale=30.0)",
    "times": "logit_normal(mean=0.2, std=0.8)",
    "shift": 3.0,
    "class_conditional": True,
    "label_dropout": 0.0,
}


def flow_losses(params, d, u):
    """The errors of the velocity at the shifted times of a logit-normal distribution, one an example."""
    time = 0.9 / (1 + np.exp(-0.2 - 0.8 * norm.ppf(u)))
    sigma = 3.0 * time / (1 - time)  # Hoogeboom et al. 2023: log-SNR moves by -2 log(shift)
    t = sigma / (1 + sigma)
    x_t = column(1 - t) * X0 + column(t) * d.eps
    velocity = formula(params["network"], x_t, 30.0 * t, OF_CLASS[LABEL], gain=d.gain, outputs=2)
    return per_image((velocity - (d.eps - X0)) ** 2)


def test_flow_matching_at_times_spread_evenly_over_the_whole_batch():
    model = build(**{f"diffusion__{k}": v for k, v in FLOW.items()}, diffusion__stratified=True, train__microbatches=2)
    assert model.microbatches == 2
    done, d = step(model, microbatches=2), draws()
    offset = float(jax.random.uniform(keys.stream(KEY, "time")))
    u = np.mod(offset + INDEX / 6, 1.0)

    def loss(params):
        return np.mean(flow_losses(params, d, u))

    assert_metrics(done.metrics, loss=loss(done.params))
    assert_gradient(done.gradient, loss, done.params)


MOMENTS = np.array([0.3, 4.0, 1.0])


def importance_draw(u):
    """Nichol and Dhariwal 2021, eq. 18, in three buckets, with a thousandth of uniform times."""
    p = 0.999 * np.sqrt(MOMENTS) / np.sqrt(MOMENTS).sum() + 0.001 / 3
    ends = np.append(0.0, np.cumsum(p))
    bucket = np.searchsorted(ends, u, side="right") - 1
    return (bucket + (u - ends[bucket]) / p[bucket]) / 3, 1 / (3 * p[bucket]), bucket


def updated(bucket, losses):
    """Moving averages of squared losses, decay 0.9 an example."""
    return [
        0.9 ** np.sum(bucket == k) * MOMENTS[k] + (1 - 0.9 ** np.sum(bucket == k)) * np.mean(losses[bucket == k] ** 2)
        if np.any(bucket == k)
        else MOMENTS[k]
        for k in range(3)
    ]


def test_importance_weights_multiply_the_loss_and_not_the_moments():
    model = build(**{f"diffusion__{k}": v for k, v in FLOW.items()}, diffusion__importance_buckets=3)
    np.testing.assert_array_equal(model.init(KEY, batch()).model_state["loss_moments"], np.ones(3))
    done, d = step(model, model_state={"loss_moments": jnp.float32(MOMENTS)}), draws()
    quantile, weight, bucket = importance_draw(d.u)
    assert len(set(bucket)) > 1

    def loss(params):
        return np.mean(weight * flow_losses(params, d, quantile))

    assert_metrics(done.metrics, loss=loss(done.params))
    assert_gradient(done.gradient, loss, done.params)
    expected = updated(bucket, flow_losses(done.params, d, quantile))
    np.testing.assert_allclose(done.after.model_state["loss_moments"], expected, rtol=1e-4)


def test_moments_are_those_of_the_examples_of_all_devices():
    changes = {f"diffusion__{k}": v for k, v in FLOW.items()} | {"diffusion__importance_buckets": 3}
    whole = step(build(**changes), model_state={"loss_moments": jnp.float32(MOMENTS)}).after
    model = build(Env(axis_name="devices"), **changes)
    state = model.init(keys.root_key(0), batch())._replace(model_state={"loss_moments": jnp.float32(MOMENTS)})
    halves = jax.tree.map(lambda x: x.reshape(2, 1, 3, *x.shape[2:]), batch())
    update = jax.vmap(model.update, in_axes=(None, None, 0), axis_name="devices")
    split, _ = jax.jit(update)(KEY, state, halves)
    for device in range(2):
        ours = jax.tree.map(lambda x, device=device: x[device], (split.params, split.model_state))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ours, (whole.params, whole.model_state)
        )


def test_importance_weights_multiply_every_term():
    changes = {**EDM, "uncertainty_channels": 4, "importance_buckets": 3}
    model = build(**{f"diffusion__{k}": v for k, v in changes.items()})
    done, d = step(model, model_state={"loss_moments": jnp.float32(MOMENTS)}), draws()
    quantile, weight, bucket = importance_draw(d.u)
    sigma = np.exp(-0.4 + norm.ppf(quantile))
    u = 0.6 * np.log(sigma) / 4 / (10 + abs(np.log(sigma) / 4)) - 0.12
    error = edm_loss(done.params["network"], d, sigma, X0, None, of_class=np.zeros(N)) / np.exp(u)
    expected = {"loss__error": np.mean(weight * error), "loss__uncertainty": np.mean(weight * u)}
    assert_metrics(done.metrics, loss=sum(expected.values()), **expected)
    np.testing.assert_allclose(done.after.model_state["loss_moments"], updated(bucket, error + u), rtol=1e-4)


def hybrid_bound(i, x_t, x0_hat, interpolation, num_timesteps):
    """L_vlb of Nichol and Dhariwal 2021, eq. 4-7 and 15, in bits/dim times 0.001 T (eq. 16), one an example."""
    alpha_bar = np.append(1.0, discrete(num_timesteps))
    t, s = alpha_bar[1:], alpha_bar[:-1]
    beta = 1 - t / s
    small = (1 - s) / (1 - t) * beta
    small[0] = small[1]  # where it is 0, the next one, as in the official code
    log_small, log_beta = (np.log(v[i])[:, None, None, None] for v in (small, beta))
    from_x0, from_x_t = np.sqrt(s) * beta / (1 - t), np.sqrt(t / s) * (1 - s) / (1 - t)  # Ho et al. 2020, eq. 7
    mean, true = (column(from_x0[i]) * x0 + column(from_x_t[i]) * x_t for x0 in (x0_hat, X0))
    logvar = interpolation * log_beta + (1 - interpolation) * log_small
    kl = 0.5 * (logvar - log_small + np.exp(log_small - logvar) + (true - mean) ** 2 / np.exp(logvar) - 1)
    std = np.exp(0.5 * logvar)
    high = np.where(IMAGE == 255, np.inf, (X0 + 1 / 255 - mean) / std)
    low = np.where(IMAGE == 0, -np.inf, (X0 - 1 / 255 - mean) / std)
    decoder = -np.log(norm.cdf(high) - norm.cdf(low))
    nats = np.where(column(i) == 0, decoder, kl).sum(axis=(1, 2, 3))
    return 1e-3 * num_timesteps * nats / (12 * np.log(2))


def test_the_hybrid_loss_trains_the_variance_by_the_bound_and_the_mean_by_the_error_alone():
    changes = {"schedule": "linear(num_timesteps=24)", "learned_variance": True}
    done, d = step(build(**{f"diffusion__{k}": v for k, v in changes.items()})), draws()
    i = np.floor(24 * d.u).astype(int)
    assert i.min() == 0
    assert i.max() > 10
    alpha_bar = discrete(24)[i]
    alpha, std = column(np.sqrt(alpha_bar)), column(np.sqrt(1 - alpha_bar))
    x_t = alpha * X0 + std * d.eps

    def terms(params, of_mean=None):
        out, stopped = (
            formula(p["network"], x_t, i * 1000 / 24, np.zeros(N), gain=d.gain, outputs=4)
            for p in (params, of_mean or params)
        )
        x0_hat = (x_t - std * stopped[..., :2]) / alpha
        bound = hybrid_bound(i, x_t, x0_hat, (out[..., 2:] + 1) / 2, 24)
        return np.mean((out[..., :2] - d.eps) ** 2), np.mean(bound)

    error, bound = terms(done.params)
    assert_metrics(done.metrics, loss=error + bound, loss__error=error, loss__bound=bound)
    assert_gradient(done.gradient, lambda params: sum(terms(params, of_mean=done.params)), done.params)
