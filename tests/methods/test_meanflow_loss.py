"""The training loss of MeanFlow, its gradient and its metrics, with every option, written out in NumPy.

The network is the formula of `formula_network`, its derivative by time a finite difference; the draws are those of
`core.keys`, and nothing else is shared with the code under test but the uniforms, which have tests of their own.
"""

import functools

import formula_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula_network import NUM_CLASSES, OF_CLASS, Recorder, assert_gradient, column, formula, gains
from scipy.stats import norm
from specs import data_spec
from tiny_runs import train_by_sgd

from configs import meanflow as meanflow_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.diffusion.process import uniforms
from jaxgen.methods.denoising import meanflow

SHAPE, N = (2, 3, 2), 6
SPEC = data_spec(SHAPE, NUM_CLASSES)
INDEX, LABEL = np.array([3, 0, 5, 1, 2, 4], np.int32), np.array([1, 3, 0, 2, 0, 1], np.int32)
IMAGE = np.random.default_rng(0).integers(0, 256, (N, *SHAPE)).astype(np.uint8)
X0 = IMAGE / 127.5 - 1.0
KEY = keys.root_key(11)
SCALE, FEATURES, SHARE = 3.0, 4, 0.6
FLOOR = 1e-3


@pytest.fixture(autouse=True)
def formulas(monkeypatch):
    monkeypatch.setattr(meanflow, "make_network", formula_network.make_formula)


def build(spec=SPEC, microbatches=2, **changes):
    config = meanflow_config.get_config("tiny")
    config.train.microbatches = microbatches
    train_by_sgd(config.optimizer, learning_rate=1.0, b1=0.0, schedule="constant", clip_norm=None)
    own = {"interval_share": SHARE, "time_scale": SCALE, "interval_features": FEATURES}
    own["label_dropout"] = 0.5 if changes.get("class_conditional", True) else 0.0
    for name, value in {**own, "times": "logit_normal(mean=0.3, std=0.8)", **changes}.items():
        config.meanflow[name] = value
    return build_model(config, spec)


def batch():
    arrays = {"image": IMAGE, "index": INDEX, "label": LABEL}
    return {name: jnp.asarray(x.reshape(2, 3, *x.shape[1:])) for name, x in arrays.items()}


@functools.cache
def draws():
    """Noise, factors for dropout, which labels are hidden, and the ends r <= t of the intervals."""
    example_keys = keys.per_example(KEY, jnp.asarray(INDEX))
    fold = functools.partial(keys.fold_each, example_keys)
    eps, gain = keys.normal(fold("eps"), SHAPE), gains(fold("dropout"))
    ends = [np.float64(uniforms.independent(fold(stream))) for stream in ("one_end", "other_end")]
    a, b = (0.999 / (1 + np.exp(-0.3 - 0.8 * norm.ppf(u))) for u in ends)  # Esser et al. 2024, section 3.1
    wide, hidden = (
        np.asarray(keys.bernoulli(fold(name), p)) for name, p in (("interval", SHARE), ("label_dropout", 0.5))
    )
    assert all(0 < np.sum(part) < N for part in (wide, hidden, a < b, wide & hidden, wide & ~hidden))
    t = np.maximum(a, b)
    return np.float64(eps), np.float64(gain), hidden, np.where(wide, np.minimum(a, b), t), t


def embedding(length):
    """Sines and cosines of frequencies 1 and 1 / 10000."""
    angles = length[:, None] * np.array([1.0, 1e-4])
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def velocity(params, z, r, t, of_class, gain=None):
    """The mean velocity u(z, r, t)."""
    vector = embedding(SCALE * (t - r))
    return formula(params["network"], z, SCALE * t, of_class, vector=vector, gain=gain, outputs=2)


def written_out(params, frozen, *, power, floor=FLOOR, omega=1.0, kappa=0.0, classes=True):
    """Algorithm 1 of Geng et al. 2025, and the mean squared error; no gradient goes through what `frozen` gives."""
    eps, gain, hidden, r, t = draws()
    null = np.full(N, OF_CLASS[NUM_CLASSES])
    of_class = np.where(hidden, null, OF_CLASS[LABEL]) if classes else np.zeros(N)
    z = column(1 - t) * X0 + column(t) * eps
    v = eps - X0
    of_its_class, of_none = (velocity(frozen, z, t, t, c) for c in (of_class, null))
    guided = omega * v + kappa * of_its_class + (1 - omega - kappa) * of_none  # eq. 21
    v = np.where(column(hidden), v, guided) if classes else v
    h = 1e-5
    above, below = (velocity(frozen, z + k * v, r, t + k, of_class, gain) for k in (h, -h))
    target = v - column(t - r) * (above - below) / (2 * h)  # eqs. 8 and 11
    u = velocity(params, z, r, t, of_class, gain)
    squares = np.sum((u - target) ** 2, axis=(1, 2, 3))
    weights = (np.sum((velocity(frozen, z, r, t, of_class, gain) - target) ** 2, axis=(1, 2, 3)) + floor) ** -power
    return np.mean(weights * squares), np.mean((u - target) ** 2)


def check(model, **settings):
    assert model.microbatches == 2
    before = model.init(keys.root_key(0), batch())
    after, metrics = jax.jit(model.update)(KEY, before, batch())
    params = jax.tree.map(np.asarray, before.params)
    loss, error = written_out(params, params, **settings)
    assert set(metrics) == {"loss", "grad_norm", "velocity_error"}
    np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-4)
    np.testing.assert_allclose(metrics["velocity_error"], error, rtol=2e-4)
    gradient = jax.tree.map(lambda old, new: np.asarray(old - new), before.params, after.params)
    assert_gradient(gradient, lambda p: written_out(p, params, **settings)[0], params)
    assert after.model_state == {}


@pytest.mark.parametrize(("power", "floor", "omega", "kappa"), [
    (0.75, FLOOR, 1.0, 0.0),
    (0.0, FLOOR, 2.0, 0.0),
    (1.0, FLOOR, 2.5, 0.25),
    (0.5, 20.0, 1.0, 0.5),
])  # fmt: skip
def test_the_loss_is_that_of_algorithm_1_with_the_guided_velocity(power, floor, omega, kappa):
    model = build(adaptive_power=power, adaptive_floor=floor, guidance_scale=omega, guidance_mix=kappa)
    check(model, power=power, floor=floor, omega=omega, kappa=kappa)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"label_dropout": 1.1}, r"label_dropout is 1\.1, but must lie in \[0, 1\]"),
    ({"interval_share": -0.1}, r"interval_share is -0\.1, but must lie in \[0, 1\]"),
    ({"adaptive_power": -0.5}, r"adaptive_power is -0\.5, but must be at least 0"),
    ({"interval_features": 2}, "interval_features is 2, but must be even and at least 4"),
    ({"interval_features": 5}, "interval_features is 5, but must be even and at least 4"),
    ({"guidance_scale": 2.0, "class_conditional": False}, r"guidance_scale is 2\.0, but has no effect .*class_"),
    ({"guidance_mix": 0.5, "class_conditional": False}, r"guidance_mix is 0\.5, but has no effect .*class_"),
    ({"guidance_scale": 2.0, "label_dropout": 0.0}, r"never trained: set meanflow\.label_dropout above 0"),
    ({"guidance_mix": 0.5, "label_dropout": 0.0}, r"never trained: set meanflow\.label_dropout above 0"),
])  # fmt: skip
def test_settings_that_would_do_nothing_or_harm_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**changes)


def test_a_velocity_that_has_no_part_of_the_null_one_needs_no_label_dropout():
    for guidance in ({}, {"guidance_scale": 0.5, "guidance_mix": 0.5}):
        assert not build(label_dropout=0.0, **guidance).spec.conditioning["label"].null
    build(label_dropout=0.01, guidance_scale=2.0)


def test_an_unconditional_model_sees_no_class():
    model = build(adaptive_power=0.5, class_conditional=False)
    assert model.spec.num_classes == 0
    check(model, power=0.5, classes=False)


def test_labels_are_hidden_at_their_rate_whatever_times_and_intervals(monkeypatch):
    seen, n = [], 4000
    monkeypatch.setattr(
        meanflow, "make_network", lambda *args, out_channels, **rest: Recorder(seen.append, out_channels)
    )
    label = np.arange(n) % 4
    model = build(spec=data_spec((1, 1, 1), NUM_CLASSES), microbatches=1, label_dropout=0.3)
    arrays = {"image": np.full((n, 1, 1, 1), 200, np.uint8), "index": np.arange(n), "label": label}
    data = {name: jnp.asarray(x[None]) for name, x in arrays.items()}
    jax.block_until_ready(jax.jit(model.update)(KEY, model.init(keys.root_key(0), data), data))
    jax.effects_barrier()
    ((_, noise_label, labels, vector),) = seen
    hidden, wide, bound = labels == NUM_CLASSES, vector[:, 0] != 0.0, 4 / np.sqrt(n)
    np.testing.assert_array_equal(labels[~hidden], label[~hidden])
    assert abs(hidden.mean() - 0.3) < bound * np.sqrt(0.21)
    assert abs(wide.mean() - SHARE) < bound * np.sqrt(SHARE * (1 - SHARE))
    facts = [hidden, wide, noise_label, label]
    assert np.abs(np.corrcoef(facts) - np.eye(4)).max() < bound
