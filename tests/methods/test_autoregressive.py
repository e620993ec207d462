"""The autoregressive method at its tiny variants: losses, draws, tables of levels, refusals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_sections_name_themselves, norms_of
from specs import data_spec

from configs import pixel_transformer
from jaxgen.autoregressive import raster
from jaxgen.core import images as ranges
from jaxgen.core import keys
from jaxgen.core.contract import Env, require
from jaxgen.methods.autoregressive import autoregressive

LEVELS, RATE = 4, 0.01
SPEC = data_spec((2, 2, 2), 3, levels=LEVELS)


def tiny(**changes):
    config = pixel_transformer.get_config("tiny")
    config.model.dropout = 0.0
    config.autoregressive.label_dropout = 0.1
    config.optimizer.update({"name": "sgd", "learning_rate": RATE, "b2": 0.999, "weight_decay": 0.0})
    config.optimizer.schedule = "constant"
    with config.ignore_type():
        for name, value in changes.items():
            section, _, key = name.partition("__")
            config[section][key] = value
    return config


def make(config, spec=SPEC):
    """The model of a config."""
    return autoregressive.make(config, spec, Env())


def batch_of(count, spec=SPEC, seed=0):
    draws = np.random.default_rng(seed)
    image = ranges.from_indices(jnp.asarray(draws.integers(0, spec.levels, (count, *spec.image_shape))), spec.levels)
    label = jnp.asarray(draws.integers(0, 3, count), jnp.int32)
    return {"image": image, "label": label, "index": jnp.arange(count) + 7}


def start_of(model, batch):
    """A state whose parameters are all different from zero."""
    stacked = jax.tree.map(lambda x: x[None], batch)
    state = jax.eval_shape(model.init, keys.root_key(0), stacked)
    shapes, tree = jax.tree.flatten(state.params)
    draws = np.random.default_rng(2)
    params = [jnp.float32(0.4 * draws.standard_normal(leaf.shape)) for leaf in shapes]
    return state._replace(step=jnp.int32(0), params=jax.tree.unflatten(tree, params)), stacked


def keys_of(count):
    return keys.per_example(keys.root_key(3), jnp.arange(count))


def test_the_loss_is_the_mean_negative_log_likelihood_per_dimension_of_labels_that_are_dropped():
    model, batch = make(tiny(autoregressive__label_dropout=0.5)), batch_of(8)
    state, stacked = start_of(model, batch)
    moved = batch["image"] + 0.9 / (LEVELS - 1) * jnp.where(batch["image"] > 0, -1.0, 1.0)

    @jax.jit
    def compute(state):
        def nats(params, image=batch["image"], cond=None):
            return model.log_prob(keys_of(8), params, image, cond)

        state = state._replace(opt_state=model.init(keys.root_key(0), stacked).opt_state)
        after, metrics = model.update(keys.root_key(1), state, stacked)
        told = {"label": batch["label"]}
        scores = {
            "told": nats(state.params, cond=told),
            "untold": nats(state.params),
            "moved": nats(state.params, moved, told),
            "told after": nats(after.params, cond=told),
            "untold after": nats(after.params),
        }
        return metrics, scores

    metrics, scores = jax.tree.map(np.array, compute(state))
    example_keys = keys.per_example(keys.root_key(1), batch["index"])
    hidden = np.array(keys.bernoulli(keys.fold_each(example_keys, "label_dropout"), 0.5))
    assert 0 < hidden.sum() < 8
    assert np.abs(scores["told"] - scores["untold"]).min() > 1e-3
    before, after = (-np.where(hidden, scores[f"untold{t}"], scores[f"told{t}"]).mean() / 8 for t in ("", " after"))
    assert metrics["loss"] == pytest.approx(before, rel=1e-5)
    assert metrics["bits_per_dim"] == pytest.approx(before / math.log(2.0), rel=1e-5)
    # A step of gradient descent: the loss falls by rate * |gradient|^2, to first order.
    assert (before - after) / (RATE * metrics["grad_norm"] ** 2) == pytest.approx(1.0, abs=0.1)
    # Values between levels count as the nearest level.
    np.testing.assert_array_equal(scores["moved"], scores["told"])
    assert model.spec.likelihood == "exact"
    assert model.spec.conditioning["label"].null
    assert model.encode is None
    assert model.decode is None


@pytest.mark.parametrize("distribution", ["categorical", "logistic_mixture(mixtures=2)"])
def test_tables_of_levels_multiply_to_the_likelihood_and_see_the_past_alone(distribution):
    model, batch = make(tiny(autoregressive__distribution=distribution)), batch_of(3)
    params = start_of(model, batch)[0].params
    both = jnp.concatenate([batch["image"], -batch["image"]])
    twice = {"label": jnp.concatenate([batch["label"], batch["label"]])}

    @jax.jit
    def tables(params):
        def table(position):
            known = jnp.arange(8).reshape(1, 2, 2, 2) < position
            past = jnp.concatenate([batch["image"], batch["image"]])
            return model.level_log_probs(params, jnp.where(known, past, both), position, twice)

        nats = model.log_prob(keys_of(3), params, batch["image"], {"label": batch["label"]})
        return jnp.moveaxis(jax.lax.map(table, jnp.arange(8)), 0, 1), nats

    found, nats = map(np.array, tables(params))
    np.testing.assert_array_equal(found[:3], found[3:])
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, atol=1e-5)
    own = np.array(ranges.indices(batch["image"], LEVELS)).reshape(3, 8, 1)
    np.testing.assert_allclose(np.take_along_axis(found[:3], own, 2).sum((1, 2)), nats, rtol=1e-5)


def test_draws_follow_the_likelihood():
    spec, count = data_spec((1, 2, 1), levels=3), 4_000
    model = make(tiny(autoregressive__class_conditional=False, autoregressive__label_dropout=0.0), spec)
    params = start_of(model, {k: v for k, v in batch_of(4, spec).items() if k != "label"})[0].params
    every = np.array(list(itertools.product(range(3), repeat=2)))
    x = ranges.from_indices(jnp.asarray(every.reshape(9, 1, 2, 1)), 3)
    drawn = jax.jit(model.sample)(keys_of(count), params)
    numbers = np.array(ranges.indices(drawn, 3)).reshape(count, 2) @ [3, 1]
    probabilities = np.exp(np.array(jax.jit(model.log_prob)(keys_of(9), params, x)))
    assert np.ptp(probabilities) > 0.05
    np.testing.assert_allclose(np.bincount(numbers, minlength=9) / count, probabilities, atol=0.03)


def test_cached_draws_are_the_uncached_ones_with_guidance_which_sharpens():
    """Bit for bit; with temperature 0 the guided logits' most probable levels."""
    guided = {"autoregressive__label_dropout": 0.2, "sampler__guidance_scale": 3.0}
    models = {
        "cached": make(tiny(**guided)),
        "whole": make(tiny(**guided, sampler__cached=False)),
        "greedy": make(tiny(**guided, sampler__temperature=0.0)),
        "first": make(tiny(**guided, sampler__top_k=1)),
        "nucleus": make(tiny(**guided, sampler__top_p=1e-6)),
    }
    batch, network = batch_of(5), autoregressive._pieces(tiny(), SPEC).network
    params, cond = start_of(models["cached"], batch)[0].params, {"label": batch["label"]}

    @jax.jit
    def draw(params):
        found = {name: model.sample(keys_of(5), params, cond) for name, model in models.items()}
        labels = (batch["label"], jnp.full(5, 3))
        return found, [network.apply({"params": params["network"]}, found["greedy"], label) for label in labels]

    found, (told, untold) = draw(params)
    np.testing.assert_array_equal(found["cached"], found["whole"])
    for name in ("first", "nucleus"):
        np.testing.assert_array_equal(found[name], found["greedy"])
    mixed = untold + 3.0 * (told - untold)
    np.testing.assert_array_equal(ranges.indices(found["greedy"], LEVELS), jnp.argmax(mixed, axis=-1))
    assert (jnp.argmax(mixed, axis=-1) != jnp.argmax(told, axis=-1)).any()
    assert (found["cached"] != found["greedy"]).any()


def test_uncached_sampling_computes_whole_images(monkeypatch):
    called = []
    for name in ("whole_outputs", "cached_outputs"):
        original = getattr(raster, name)
        monkeypatch.setattr(raster, name, lambda *a, name=name, f=original, **k: called.append(name) or f(*a, **k))
    for cached in (True, False):
        model = make(tiny(sampler__cached=cached))
        start = jax.eval_shape(model.init, keys.root_key(0), jax.tree.map(lambda x: x[None], batch_of(2)))
        jax.eval_shape(model.sample, keys_of(2), start.params)
    assert called == ["cached_outputs", "whole_outputs"]


MIXTURE = {"autoregressive__distribution": "logistic_mixture(mixtures=2)"}
PLAIN = {"autoregressive__label_dropout": 0.0, "sampler__guidance_scale": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**MIXTURE, **PLAIN, "sampler__temperature": 0.5}, r"sampler\.temperature is 0\.5, .* no effect .*categ"),
        ({**MIXTURE, **PLAIN, "sampler__top_k": 2}, r"sampler\.top_k is 2, .* no effect .*categorical"),
        ({**MIXTURE, **PLAIN, "sampler__top_p": 0.5}, r"sampler\.top_p is 0\.5, .* no effect .*categorical"),
        ({**MIXTURE, "sampler__guidance_scale": 2.0}, r"sampler\.guidance_scale is 2\.0, .* no effect .*categorical"),
        ({**PLAIN, "sampler__guidance_scale": 2.0}, r"guidance_scale is 2\.0, .* no effect .*label_dropout"),
        ({**PLAIN, "autoregressive__class_conditional": False, "autoregressive__label_dropout": 0.1},
         r"label_dropout is 0\.1, .* no effect .*class_conditional=True"),
        ({"autoregressive__label_dropout": 1.5}, r"label_dropout is 1\.5, but must lie in \[0, 1\]"),
        ({"sampler__temperature": -1.0}, r"sampler\.temperature is -1\.0, but must be at least 0"),
        ({"sampler__top_p": 0.0}, r"sampler\.top_p is 0, but must be positive"),
        ({"sampler__top_p": 1.5}, r"sampler\.top_p is 1\.5, but must lie in \[0, 1\]"),
        ({"sampler__top_k": 0}, r"sampler\.top_k is 0, but must be at least 1"),
        ({"autoregressive__distribution": "logistic_mixture(mixtures=0)"}, "mixtures is 0, but must be at least 1"),
        ({"autoregressive__distribution": "gaussian"}, r"autoregressive\.distribution is 'gaussian', .* categorical"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(tiny(**changes))


def test_sections_name_themselves_and_norms_are_logged():
    config = tiny()
    sections = ("autoregressive", "sampler", "model", "optimizer")
    assert_sections_name_themselves(autoregressive.make, config, SPEC, *sections)
    stacked = jax.tree.map(lambda x: x[None], batch_of(2))
    assert norms_of(autoregressive.make, config, SPEC, stacked) == {"network"}
    assert autoregressive.Settings() == ("categorical", False, 0.0)
    assert autoregressive.Sampler() == (1.0, None, 1.0, 1.0, True)
    low = tiny(train__compute_dtype="bfloat16")
    assert autoregressive._pieces(low, SPEC).network.dtype == "bfloat16"
    require(make(config), "log_prob", "level_log_probs", by="The compressor")
    with pytest.raises(ValueError, match="has no classes"):
        make(config, data_spec((2, 2, 2), levels=LEVELS))
    with pytest.raises(ValueError, match="predicts levels or codes, but these latents are real numbers"):
        make(config, SPEC._replace(continuous=True))
