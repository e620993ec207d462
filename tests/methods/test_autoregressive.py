"""The autoregressive method with a network that is a formula, and its tiny variants: losses, draws, tables, refusals."""

import copy
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_sections_name_themselves, norms_of
from specs import data_spec

from configs import gated_pixelcnn, pixel_transformer, pixelcnn, pixelcnnpp
from jaxgen.autoregressive import raster
from jaxgen.core import images as ranges
from jaxgen.core import keys
from jaxgen.core.contract import Env, require
from jaxgen.methods.autoregressive import autoregressive

LEVELS = 4
SPEC = data_spec((2, 2, 2), 3, levels=LEVELS)


def tiny(module=pixelcnn, **changes):
    config = module.get_config("tiny")
    config.model.dropout = 0.0
    config.optimizer.update({"name": "sgd", "learning_rate": 0.5, "b2": 0.999, "weight_decay": 0.0})
    config.optimizer.schedule = "constant"
    with config.ignore_type():
        for name, value in changes.items():
            section, _, key = name.partition("__")
            config[section][key] = value
    return config


def make(config, spec=SPEC):
    return autoregressive.make(config, spec, Env())


def batch_of(count, spec=SPEC, seed=0):
    draws = np.random.default_rng(seed)
    image = ranges.from_indices(jnp.asarray(draws.integers(0, spec.levels, (count, *spec.image_shape))), spec.levels)
    label = jnp.asarray(draws.integers(0, 3, count), jnp.int32)
    return {"image": image, "label": label, "index": jnp.arange(count) + 7}


def trained(model, batch, *, steps=1):
    """The state after some updates, and the metrics of the last."""
    stacked = jax.tree.map(lambda x: x[None], batch)

    @jax.jit
    def run():
        state, metrics = model.init(keys.root_key(0), stacked), {}
        for step in range(steps):
            state, metrics = model.update(keys.at_step(keys.root_key(1), step), state, stacked)
        return state, metrics

    return run()


def test_the_loss_is_the_mean_negative_log_likelihood_per_dimension():
    model = make(tiny(autoregressive__label_dropout=0.0, sampler__guidance_scale=1.0))
    batch = batch_of(6)
    state, metrics = trained(model, batch)
    stacked = jax.tree.map(lambda x: x[None], batch)
    start = jax.jit(model.init)(keys.root_key(0), stacked)
    log_prob = jax.jit(model.log_prob)
    sample_keys = jax.random.split(jax.random.key(0), 6)
    nats = np.array(log_prob(sample_keys, start.params, batch["image"], {"label": batch["label"]}))
    assert float(metrics["loss"]) == pytest.approx(-nats.mean() / 8, rel=1e-5)
    assert float(metrics["bits_per_dim"]) == pytest.approx(-nats.mean() / 8 / math.log(2.0), rel=1e-5)
    # One step of gradient descent: the loss falls by rate * |gradient|^2, to first order.
    after = -np.array(log_prob(sample_keys, state.params, batch["image"], {"label": batch["label"]})).mean() / 8
    assert 0.3 < (float(metrics["loss"]) - after) / (0.5 * float(metrics["grad_norm"]) ** 2) < 1.05
    # Values between levels count as the nearest level.
    moved = batch["image"] + 0.9 / (LEVELS - 1) * jnp.where(batch["image"] > 0, -1.0, 1.0)
    moved = np.array(log_prob(sample_keys, start.params, moved, {"label": batch["label"]}))
    np.testing.assert_array_equal(moved, nats)
    assert model.spec.likelihood == "exact" and model.encode is None and model.decode is None


def test_label_dropout_hides_the_labels_of_its_share():
    batch = batch_of(8)
    losses = {}
    for dropout in (0.5, 1.0):
        model = make(tiny(autoregressive__label_dropout=dropout))
        stacked = jax.tree.map(lambda x: x[None], batch)
        start = jax.jit(model.init)(keys.root_key(0), stacked)
        # Classes have no effect at first where their weights are small: make them large.
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: x * (9.0 if "class" in str(path) else 1.0), start.params
        )
        _, metrics = jax.jit(model.update)(keys.root_key(1), start._replace(params=params), stacked)
        losses[dropout] = float(metrics["loss"])
    hidden = np.array(
        keys.bernoulli(keys.fold_each(keys.per_example(keys.root_key(1), batch["index"]), "label_dropout"), 0.5)
    )
    assert 0 < hidden.sum() < 8
    log_prob, sample_keys = jax.jit(model.log_prob), jax.random.split(jax.random.key(0), 8)
    told, untold = (
        np.array(log_prob(sample_keys, params, batch["image"], c)) for c in ({"label": batch["label"]}, None)
    )
    assert np.abs(told - untold).max() > 1e-2
    assert losses[0.5] == pytest.approx(-np.where(hidden, untold, told).mean() / 8, rel=1e-5)
    assert losses[1.0] == pytest.approx(-untold.mean() / 8, rel=1e-5)


@pytest.mark.parametrize(("module", "spec"), [(gated_pixelcnn, SPEC), (pixelcnnpp, SPEC)])
def test_tables_of_levels_multiply_to_the_likelihood_and_see_the_past_alone(module, spec):
    model = make(tiny(module, **({"model__head_features": 8} if module is gated_pixelcnn else {})), spec)
    batch = batch_of(3, spec)
    state, _ = trained(model, batch, steps=2)
    cond = {"label": batch["label"]}
    future = -batch["image"]

    @jax.jit
    def tables(params):
        def table(position):
            known = jnp.arange(8).reshape(2, 2, 2) < position
            seen = jnp.where(known[None], batch["image"], future)
            return (model.level_log_probs(params, x, position, cond) for x in (batch["image"], seen))

        every = [tuple(table(jnp.int32(t))) for t in range(8)]
        sample_keys = jax.random.split(jax.random.key(0), 3)
        return (
            jnp.stack([a for a, _ in every], 1),
            jnp.stack([b for _, b in every], 1),
            model.log_prob(sample_keys, params, batch["image"], cond),
        )

    found, blind, nats = map(np.array, tables(state.params))
    np.testing.assert_array_equal(found, blind)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, atol=1e-5)
    own = np.array(ranges.indices(batch["image"], LEVELS)).reshape(3, 8, 1)
    np.testing.assert_allclose(np.take_along_axis(found, own, 2).sum((1, 2)), nats, rtol=1e-5)


def test_draws_follow_the_likelihood():
    spec = data_spec((1, 2, 1), levels=3)
    model = make(tiny(pixel_transformer), spec)
    state, _ = trained(model, {k: v for k, v in batch_of(4, spec).items() if k != "label"}, steps=9)
    every = np.array(list(itertools.product(range(3), repeat=2)))
    x = ranges.from_indices(jnp.asarray(every.reshape(9, 1, 2, 1)), 3)
    count = 4_000
    drawn = jax.jit(model.sample)(keys.per_example(keys.root_key(0), jnp.arange(count)), state.params)
    numbers = np.array(ranges.indices(drawn, 3)).reshape(count, 2) @ [3, 1]
    probabilities = np.exp(np.array(jax.jit(model.log_prob)(jax.random.split(jax.random.key(0), 9), state.params, x)))
    assert np.ptp(probabilities) > 0.05
    np.testing.assert_allclose(np.bincount(numbers, minlength=9) / count, probabilities, atol=0.03)


def test_cached_draws_are_the_uncached_ones_with_guidance_which_sharpens():
    """Bit for bit; with temperature 0 the guided logits' most probable levels."""
    config = tiny(autoregressive__label_dropout=0.2, sampler__guidance_scale=3.0)
    batch, sample_keys = batch_of(5), keys.per_example(keys.root_key(3), jnp.arange(5))
    state, _ = trained(make(config), batch, steps=3)
    params = jax.tree.map(lambda x: 2.0 * x + 0.1, state.params)
    cond = {"label": batch["label"]}
    models = {}
    for name, changes in {"cached": {}, "whole": {"cached": False}, "greedy": {"temperature": 0.0}}.items():
        own = copy.deepcopy(config)
        own.sampler.update(changes)
        models[name] = make(own)
    assert models["cached"].sample is not models["whole"].sample

    @jax.jit
    def draw(params):
        found = {name: model.sample(sample_keys, params, cond) for name, model in models.items()}
        pieces = autoregressive._pieces(config, SPEC)
        outputs = [
            pieces.network.apply({"params": params["network"]}, found["greedy"], label)
            for label in (batch["label"], jnp.full(5, 3))
        ]
        return found, outputs

    found, (told, untold) = draw(params)
    np.testing.assert_array_equal(found["cached"], found["whole"])
    guided = untold + 3.0 * (told - untold)
    np.testing.assert_array_equal(ranges.indices(found["greedy"], LEVELS), jnp.argmax(guided, axis=-1))
    assert (jnp.argmax(guided, axis=-1) != jnp.argmax(told, axis=-1)).any()


def test_uncached_sampling_computes_whole_images(monkeypatch):
    called = []
    for name in ("whole_outputs", "cached_outputs"):
        original = getattr(raster, name)
        monkeypatch.setattr(raster, name, lambda *a, name=name, f=original, **k: called.append(name) or f(*a, **k))
    for cached in (True, False):
        model = make(tiny(sampler__cached=cached))
        start = jax.eval_shape(model.init, keys.root_key(0), jax.tree.map(lambda x: x[None], batch_of(2)))
        jax.eval_shape(model.sample, keys.per_example(keys.root_key(0), jnp.arange(2)), start.params)
    assert called == ["cached_outputs", "whole_outputs"]


MIXTURE = {"autoregressive__distribution": "logistic_mixture(mixtures=2)"}
PLAIN = {"autoregressive__label_dropout": 0.0, "sampler__guidance_scale": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**MIXTURE, **PLAIN, "sampler__temperature": 0.5}, r"sampler\.temperature is 0\.5, .* no effect .*categorical"),
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
    require(make(config), "log_prob", "level_log_probs", by="The compressor")
    with pytest.raises(ValueError, match="has no classes"):
        make(config, data_spec((2, 2, 2), levels=LEVELS))
