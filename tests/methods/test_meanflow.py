"""MeanFlow with a network that is a formula: loss, guidance and samples by hand; the intervals that it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from specs import data_spec

from configs import meanflow as meanflow_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.conditioning import classes
from jaxgen.core.contract import Context, ModelSpec
from jaxgen.diffusion.few_step import mean_flow
from jaxgen.diffusion.process import times
from jaxgen.methods.denoising import meanflow

DIGITS = data_spec((8, 8, 1), 10)
EXAMPLE_KEYS = keys.per_example(keys.root_key(7), jnp.arange(6))
FEATURES = 64
A, B, C = 0.7, -0.2, 0.3


class Formula(nn.Module):
    """A z + B t + C [no class], for times in tenths; takes the interval's embedding, and learns A."""

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        assert vector.shape == (len(x), FEATURES)
        assert train == (dropout_keys is not None)
        a = self.param("a", lambda key: jnp.float32(A))
        label = jnp.full(len(x), 10) if label is None else label
        return a * x + (0.1 * B * noise_label + C * (label == 10))[:, None, None, None]


PARAMS = {"network": {"a": jnp.float32(A)}}


def average_velocity(**settings):
    settings = meanflow.Settings(times="uniform", time_scale=10.0, class_conditional=True, **settings)
    return meanflow.AverageVelocity(Formula(), settings, times.uniform(), {"label": classes(10, null=True)})


def objective_of(average_velocity):
    """The objective as a function of the parameters and the batch."""
    objective = meanflow._objective(average_velocity)
    return lambda params, batch: objective(Context(keys.root_key(7), jnp.int32(0)), params, {}, batch)


def batch():
    images = jax.random.uniform(jax.random.key(3), (6, 8, 8, 1), minval=-1.0)
    return {"image": images, "index": jnp.arange(6), "label": jnp.arange(6)}


def column(values):
    return np.asarray(values)[:, None, None, None]


def drawn(share):
    eps = np.asarray(keys.normal(keys.fold_each(EXAMPLE_KEYS, "eps"), (8, 8, 1)))
    r, t = map(np.asarray, jax.jit(lambda keys: mean_flow.draw_interval(keys, times.uniform(), share))(EXAMPLE_KEYS))
    return eps, r, t, column(1.0 - t) * np.asarray(batch()["image"]) + column(t) * eps


@pytest.mark.parametrize(("omega", "kappa", "label_dropout", "null"), [
    (1.0, 0.0, 0.0, 0.0),
    (2.0, 0.0, 0.0, 0.0),
    (2.0, 0.5, 0.0, 0.0),
    (2.0, 0.5, 1.0, 1.0),
])  # fmt: skip
def test_the_loss_is_that_of_algorithm_1_with_the_guided_velocity(omega, kappa, label_dropout, null):
    eps, r, t, z = drawn(0.5)
    velocity = eps - np.asarray(batch()["image"])
    u = A * z + B * column(t) + C * null
    if not null:  # eq. 21
        velocity = omega * velocity + kappa * u + (1.0 - omega - kappa) * (u + C)
    target = velocity - column(t - r) * (A * velocity + B)
    squared = np.sum((u - target) ** 2, axis=(1, 2, 3))
    settings = {"guidance_scale": omega, "guidance_mix": kappa, "label_dropout": label_dropout}
    objective = objective_of(average_velocity(interval_share=0.5, adaptive_power=0.25, **settings))
    loss, (_, metrics) = jax.jit(objective)(PARAMS, batch())
    np.testing.assert_allclose(loss, np.mean(squared / (squared + 1e-3) ** 0.25), rtol=1e-4)
    np.testing.assert_allclose(metrics["velocity_error"], np.mean((u - target) ** 2), rtol=1e-4)


def test_the_gradient_is_that_of_the_prediction_alone():
    eps, r, t, z = drawn(1.0)
    velocity = eps - np.asarray(batch()["image"])
    difference = A * z + B * column(t) - (velocity - column(t - r) * (A * velocity + B))
    objective = objective_of(average_velocity(interval_share=1.0, adaptive_power=0.0, label_dropout=0.0))
    gradient = jax.jit(jax.grad(lambda params: objective(params, batch())[0]))(PARAMS)
    expected = np.mean(np.sum(2.0 * difference * z, axis=(1, 2, 3)))
    np.testing.assert_allclose(gradient["network"]["a"], expected, rtol=1e-4)


def test_intervals_are_two_ordered_draws_for_a_share_of_the_examples():
    example_keys = keys.per_example(jax.random.key(0), jnp.arange(4000))
    r, t = map(np.asarray, jax.jit(lambda keys: mean_flow.draw_interval(keys, times.uniform(), 0.3))(example_keys))
    assert (r <= t).all()
    assert abs(np.mean(r < t) - 0.3) < 0.03
    # Of two uniform draws, the greater is 2/3 and the smaller 1/3 on average.
    np.testing.assert_allclose([r[r < t].mean(), t[r < t].mean()], [1 / 3, 2 / 3], atol=0.03)


def with_formula(monkeypatch, **changes):
    """The model of the tiny config, but for its network."""
    monkeypatch.setattr(meanflow, "make_network", lambda *args, **kwargs: Formula())
    return build_model(tiny(meanflow__time_scale=10.0, **changes), DIGITS)


def test_samples_are_jumps_by_the_average_velocity(monkeypatch):
    image_keys = keys.per_example(jax.random.key(1), jnp.arange(3))
    noise = keys.normal(keys.fold_each(image_keys, "initial_noise"), (8, 8, 1))
    expected = noise
    for t in (1.0, 0.5):
        expected = expected - 0.5 * (A * expected + B * t + np.array([0.0, C, C])[:, None, None, None])
    model = with_formula(monkeypatch, sampler__num_steps=2)
    sample = jax.jit(model.sample)
    images = sample(image_keys, PARAMS, {"label": jnp.array([4, 10, 10])})
    np.testing.assert_allclose(images, np.clip(expected, -1.0, 1.0), atol=1e-5)
    np.testing.assert_array_equal(sample(image_keys, PARAMS)[1:], images[1:])


def test_denoise_follows_the_instantaneous_velocity_to_the_image(monkeypatch):
    x, sigma = batch()["image"][:3], jnp.array([0.1, 1.0, 9.0])
    t = column(sigma / (1.0 + sigma))
    z = (1.0 - t) * np.asarray(x)
    actual = with_formula(monkeypatch).denoise(PARAMS, x, sigma, {"label": jnp.arange(3)})
    np.testing.assert_allclose(actual, z - t * (A * z + B * t), atol=1e-5)
    assert with_formula(monkeypatch, meanflow__guidance_scale=2.0).denoise is None


def test_the_network_is_told_how_long_the_interval_is():
    model = build_model(tiny(), DIGITS)
    state = jax.eval_shape(model.init, keys.root_key(0), {k: v[None] for k, v in uint8_batch().items()})
    assert state.params["network"]["embedding"]["vector"]["kernel"].shape == (FEATURES, 32)


def uint8_batch():
    return {**batch(), "image": jnp.zeros((6, 8, 8, 1), jnp.uint8)}


def tiny(**changes):
    config = meanflow_config.get_config("tiny")
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"meanflow__interval_share": 1.5}, "meanflow.interval_share is 1.5"),
    ({"meanflow__guidance_mix": 1.0}, "meanflow.guidance_mix is 1.0"),
    ({"meanflow__times": "uniformly"}, "meanflow.times"),
    ({"sampler__num_steps": 0}, "sampler.num_steps is 0"),
])  # fmt: skip
def test_settings_are_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model(tiny(**changes), DIGITS)


def test_a_conditional_model_needs_classes():
    with pytest.raises(ValueError, match="the data has no classes"):
        build_model(tiny(), ModelSpec((8, 8, 1)))


def test_the_defaults_are_these_and_no_others():
    assert meanflow.Settings() == (
        "logit_normal(mean=-0.4, std=1.0)",
        0.25,
        1.0,
        0.001,
        1000.0,
        64,
        False,
        0.1,
        1.0,
        0.0,
    )
    assert meanflow.Sampler() == (1, True)
