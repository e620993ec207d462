"""Energy-based models by an energy that is a formula, a parabola for each class: by hand, and optima in closed form.

With Gaussian data of mean m and variance v, contrastive divergence has its zero where the chains have that mean and
variance, and denoising score matching at the precision that follows from v and the noise levels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_sections_name_themselves, norms_of
from flax import linen as nn
from specs import data_spec
from tiny_runs import train_by_sgd

from configs import ebm as ebm_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env
from jaxgen.methods.energy import energy_based

SHAPE, CLASSES, RATE = (2, 1, 2), 3, 0.5
SPEC = data_spec(SHAPE, CLASSES)
KEY = keys.root_key(4)
OF_CLASS = np.array([0.1, -0.3, 0.4])
INDEX = np.array([[5, 2, 0], [1, 4, 3]], np.int32)
LABEL = np.array([[2, 0, 1], [2, 1, 0]], np.int32)
IMAGE = np.linspace(-0.8, 0.9, 24).reshape(2, 3, *SHAPE)
BATCH = {"image": jnp.float32(IMAGE), "index": jnp.asarray(INDEX), "label": jnp.asarray(LABEL)}
START = {"k": np.float64(1.6), "m": np.linspace(-0.2, 0.3, 4).reshape(SHAPE), "b": np.float64(0.3)}


class Parabola(nn.Module):
    """The energy k/2 |x - m - OF_CLASS[label]|^2 + b; counts its calls in training."""

    num_classes: int
    dtype: str = "float32"

    @nn.compact
    def energies(self, images, label=None, *, train):
        params = {name: self.param(name, lambda key, value=value: jnp.float32(value)) for name, value in START.items()}
        calls = self.variable("spectral", "calls", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            calls.value += 1
        assert (label is None) == (self.num_classes == 0)
        shift = 0.0 if label is None else jnp.float32(OF_CLASS)[label][:, None, None, None]
        square = jnp.sum((images - params["m"][None] - shift) ** 2, axis=(1, 2, 3))
        return 0.5 * params["k"] * square + params["b"]


def config_of(objective="contrastive", microbatches=2, **changes):
    config = ebm_config.get_config("tiny")
    train_by_sgd(config.optimizer, learning_rate=RATE, b1=0.0, schedule="constant", warmup_steps=0, clip_norm=None)
    config.data.batch_size, config.train.microbatches = 6, microbatches
    config.energy.objective, config.energy.class_conditional = objective, True
    config.langevin.update({"step_size": 0.2, "temperature": 0.3, "clip": False})
    own = {"contrastive": ("alpha", "data_noise", "num_chains", "restart_probability", "num_steps")}
    values = {"alpha": 0.25, "data_noise": 0.2, "num_chains": 9, "restart_probability": 0.4, "num_steps": 2}
    if objective == "denoising":
        own = {"denoising": ("sigma_max", "sigma_min", "num_levels")}
        values = {"sigma_max": 1.2, "sigma_min": 0.3, "num_levels": 3}
        for name in ("alpha", "data_noise", "num_chains", "restart_probability", "num_steps"):
            del config.energy[name]
    config.energy.update({name: values[name] for name in own[objective]})
    config.sampler.denoise = True
    for name, value in changes.items():
        section, _, setting = name.partition("__")
        with config.ignore_type():
            config[section][setting] = value
    return config


@pytest.fixture
def build(monkeypatch):
    def make(*args, spec=SPEC, **changes):
        monkeypatch.setattr(energy_based, "make_energy", lambda section, **given: Parabola(**given))
        return energy_based.make(config_of(*args, **changes), spec, Env())

    return make


def column(values):
    return np.asarray(values, np.float64)[:, None, None, None]


def energy_of(params, x, label):
    return 0.5 * params["k"] * ((x - params["m"] - column(OF_CLASS[label])) ** 2).sum((1, 2, 3)) + params["b"]


def slopes_of(params, x, label):
    """The derivatives of the energy of each image by every parameter."""
    d = x - params["m"] - column(OF_CLASS[label])
    return {"k": 0.5 * (d**2).sum((1, 2, 3)), "m": -params["k"] * d, "b": np.ones(len(x))}


def normals(example_keys, *folds):
    for fold in folds:
        example_keys = keys.fold_each(example_keys, fold)
    return np.asarray(keys.normal(example_keys, SHAPE), np.float64)


def assert_params(state, expected, rtol=2e-4):
    found = state.params["network"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-5, err_msg=name)


def test_an_update_of_contrastive_divergence_by_hand(build):
    """Chains that go on or start again, each with its class; noise on the data; squared energies; the chains after."""
    model = build()
    state = jax.jit(model.init)(KEY, BATCH)
    start = {name: np.array(value) for name, value in state.model_state["chains"].items()}
    np.testing.assert_array_equal(start["label"], LABEL.reshape(-1)[np.arange(9) % 6])
    state, metrics = jax.jit(model.update)(keys.root_key(9), state, BATCH)
    place = np.asarray(jax.random.permutation(keys.stream(keys.root_key(9), "chains"), 9))[INDEX]
    rows = []
    for k in range(2):
        own = keys.per_example(keys.root_key(9), jnp.asarray(INDEX[k]))
        restart = np.asarray(keys.bernoulli(keys.fold_each(own, "restart"), 0.4))
        uniform = jax.vmap(lambda key: jax.random.uniform(keys.stream(key, "initial_noise"), SHAPE, minval=-1.0))(own)
        x = np.where(column(restart), uniform, start["image"][place[k]])
        label = np.where(restart, LABEL[k], start["label"][place[k]])
        for step in range(2):
            drift = START["k"] * (x - START["m"] - column(OF_CLASS[label]))
            x = x - 0.2 * drift + np.sqrt(2 * 0.2 * 0.3) * normals(own, "langevin", step)
        rows.append((IMAGE[k] + 0.2 * normals(own, "data_noise"), LABEL[k], x, label, restart))
        start["image"][place[k]], start["label"][place[k]] = x, label
    data, of_data, x, label, restart = (np.concatenate(column) for column in zip(*rows, strict=True))
    assert 0 < restart.sum() < 6
    assert (label != of_data).any()
    real, sampled = energy_of(START, data, of_data), energy_of(START, x, label)
    up, down = slopes_of(START, data, of_data), slopes_of(START, x, label)
    expected = {}
    for name, value in START.items():
        shape = (-1, *(1,) * (up[name].ndim - 1))
        weights = [(1 + 0.5 * real).reshape(shape), (-1 + 0.5 * sampled).reshape(shape)]
        expected[name] = value - RATE * (weights[0] * up[name] + weights[1] * down[name]).mean(0)
    assert_params(state, expected)
    squared = (real**2 + sampled**2).mean()
    values = {
        "loss": (real - sampled).mean() + 0.25 * squared,
        "loss/contrastive_divergence": (real - sampled).mean(),
        "loss/squared_energies": squared,
        "energy/data": real.mean(),
        "energy/chains": sampled.mean(),
    }
    for name, value in values.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
    for name, value in start.items():
        np.testing.assert_allclose(state.model_state["chains"][name], value, rtol=1e-4, atol=1e-5)
    assert state.model_state["network"]["spectral"]["calls"] == 2  # microbatches
    assert sorted(model.eval_variables(state)) == ["params", "spectral"]
    assert_params(state._replace(params={"network": model.eval_variables(state)["params"]}), expected)


def test_an_update_of_denoising_score_matching_by_hand(build):
    """The squared error of k (x + sigma z - mean) as a prediction of z, at a noise level for each example."""
    model = build("denoising")
    state = jax.jit(model.init)(KEY, BATCH)
    assert sorted(state.model_state) == ["network"]
    state, metrics = jax.jit(model.update)(keys.root_key(9), state, BATCH)
    sigmas = np.array([1.2, 0.6, 0.3])
    losses, slopes = [], {"k": [], "m": [], "b": np.zeros(1)}
    drawn = []
    for k in range(2):
        own = keys.per_example(keys.root_key(9), jnp.asarray(INDEX[k]))
        level = [int(jax.random.randint(key, (), 0, 3)) for key in keys.fold_each(own, "level")]
        z = normals(own, "eps")
        d = IMAGE[k] + column(sigmas[level]) * z - START["m"] - column(OF_CLASS[LABEL[k]])
        error = START["k"] * d - z
        losses.append((error**2).mean((1, 2, 3)))
        slopes["k"].append((2 * error * d).mean((1, 2, 3)))
        slopes["m"].append(-2 * START["k"] * error / 4)
        drawn += level
    assert len(set(drawn)) > 1
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=2e-4)
    assert model.objective is not None
    assert model.microbatches == 2
    gradient = {name: np.concatenate(value).mean(0) for name, value in slopes.items() if name != "b"} | {"b": 0.0}
    assert_params(state, {name: value - RATE * gradient[name] for name, value in START.items()})
    assert state.model_state["network"]["spectral"]["calls"] == 2


MEAN, DEVIATION = 0.2, 0.5
"""Of Gaussian data without classes."""


def learned(model, steps, size):
    """The mean precision and mean, over the second half of steps of training on fresh Gaussian data."""
    index = jnp.arange(size)[None]

    def batch(key):
        return {"image": MEAN + DEVIATION * jax.random.normal(key, (1, size, *SHAPE)), "index": index}

    def step(state, key):
        state, _ = model.update(key, state, batch(keys.stream(key, "data")))
        return state, (state.params["network"]["k"], state.params["network"]["m"].mean())

    @jax.jit
    def train(key):
        return jax.lax.scan(step, model.init(key, batch(key)), jax.random.split(key, steps))

    state, path = train(KEY)
    return state, *(float(np.mean(values[steps // 2 :])) for values in path)


def test_contrastive_divergence_learns_the_gaussian_of_the_data(build):
    """Its zero is where chains, of variance T / (k (1 - a k / 2)), have that of the data with their noise."""
    a, temperature = 0.1, 0.5
    model = build(
        microbatches=1, data__batch_size=256, energy__num_chains=256, energy__class_conditional=False,
        energy__alpha=0.0, energy__restart_probability=0.0, energy__num_steps=2,
        langevin__step_size=a, langevin__temperature=temperature, optimizer__learning_rate=0.1,
    )  # fmt: skip
    state, k, m = learned(model, 400, 256)
    variance = DEVIATION**2 + 0.2**2
    # k (1 - a k / 2) = T / variance
    exact = (1 - np.sqrt(1 - 2 * a * temperature / variance)) / a
    np.testing.assert_allclose(k, exact, rtol=0.03)
    assert abs(k - temperature / variance) > 0.05 * exact  # the error of the step size is seen
    np.testing.assert_allclose(m, MEAN, atol=0.02)
    chains = np.asarray(state.model_state["chains"]["image"])
    np.testing.assert_allclose(chains.var(), variance, rtol=0.2)


def test_denoising_score_matching_learns_the_best_precision_for_all_levels(build):
    """The mean of k^2 (v + s^2) - 2 k s + 1 over levels s is least at k = sum s / sum (v + s^2)."""
    model = build(
        "denoising", microbatches=1, data__batch_size=256, energy__class_conditional=False, optimizer__learning_rate=0.2
    )
    _, k, m = learned(model, 200, 256)
    sigmas = np.array([1.2, 0.6, 0.3])
    np.testing.assert_allclose(k, sigmas.sum() / (DEVIATION**2 + sigmas**2).sum(), rtol=0.02)
    np.testing.assert_allclose(m, MEAN, atol=0.02)


def variables_of(**params):
    return {
        "params": {name: jnp.float32(value) for name, value in {**START, **params}.items()},
        "spectral": {"calls": 0},
    }


@pytest.mark.parametrize("denoise", [False, True])
def test_samples_of_contrastive_divergence_by_hand(build, denoise):
    """Steps from uniform noise by each image's key; then, or not, to the posterior mean of images without noise."""
    model = build(sampler__num_steps=3, sampler__denoise=denoise)
    assert model.denoise is None
    assert model.log_prob is None
    assert model.spec.likelihood is None
    own, label = keys.per_example(KEY, jnp.array([7, 3])), np.array([2, 0])
    x = np.stack([jax.random.uniform(keys.stream(key, "initial_noise"), SHAPE, minval=-1.0) for key in own])
    for step in range(3):
        drift = START["k"] * (x - START["m"] - column(OF_CLASS[label]))
        x = x - 0.2 * drift + np.sqrt(2 * 0.2 * 0.3) * normals(own, "langevin", step)
    score = -START["k"] * (x - START["m"] - column(OF_CLASS[label])) / 0.3
    x = x + 0.2**2 * score if denoise else x
    found = jax.jit(model.sample)(own, variables_of(), {"label": jnp.asarray(label)})
    np.testing.assert_allclose(found, np.clip(x, -1.0, 1.0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs 'label' for every example"):
        model.sample(own, variables_of())


def test_latents_are_not_clipped(build):
    """They are real numbers, which may lie beyond [-1, 1]."""
    latents = data_spec(SHAPE, CLASSES, continuous=True)
    with pytest.raises(ValueError, match=r"langevin\.clip is True, but latents do not lie in \[-1, 1\]"):
        build(spec=latents, langevin__clip=True)
    model = build(spec=latents, sampler__num_steps=40, sampler__denoise=False)
    own = keys.per_example(KEY, jnp.arange(30))
    found = jax.jit(model.sample)(own, variables_of(m=np.full(SHAPE, 1.5)), {"label": jnp.zeros(30, jnp.int32)})
    np.testing.assert_allclose(found.mean(), 1.6, atol=0.2)


@pytest.mark.parametrize("denoise", [False, True])
def test_samples_of_denoising_score_matching_by_hand(build, denoise):
    """Two steps at each level, from noise of the largest; then, or not, the noise of the last level is removed."""
    model = build("denoising", sampler__num_steps=2, sampler__denoise=denoise)
    own, label = keys.per_example(KEY, jnp.array([7, 3])), np.array([2, 0])

    def slope(x):
        return START["k"] * (x - START["m"] - column(OF_CLASS[label]))

    x = 1.2 * normals(own, "initial_noise")
    for step, sigma in enumerate(np.repeat([1.2, 0.6, 0.3], 2)):
        x = x - 0.2 * sigma * slope(x) + sigma * np.sqrt(2 * 0.2 * 0.3) * normals(own, "langevin", step)
    x = x - 0.3 * slope(x) if denoise else x
    found = jax.jit(model.sample)(own, variables_of(), {"label": jnp.asarray(label)})
    np.testing.assert_allclose(found, np.clip(x, -1.0, 1.0), rtol=1e-4, atol=1e-5)


def test_denoising_is_a_step_along_the_score(build):
    """For Gaussian data of one noise level s, k = s / (v + s^2) gives the posterior mean."""
    model = build("denoising", energy__sigma_max=0.6, energy__sigma_min=0.6, energy__num_levels=1)
    v, s, label = 0.25, 0.6, np.array([1, 2, 0])
    x, mean = IMAGE[0], START["m"] + column(OF_CLASS[label])
    found = model.denoise(variables_of(k=s / (v + s**2)), jnp.float32(x), jnp.full(3, s), {"label": jnp.asarray(label)})
    np.testing.assert_allclose(found, (s**2 * mean + v * x) / (v + s**2), rtol=1e-4, atol=1e-6)


def test_chains_of_small_steps_keep_to_images_where_they_are_clipped(build):
    model = build(langevin__clip=True, langevin__temperature=9.0)
    state = jax.jit(lambda: model.update(KEY, model.init(KEY, BATCH), BATCH)[0])()
    images = np.asarray(state.model_state["chains"]["image"])
    assert np.abs(images).max() == 1.0


@pytest.mark.parametrize(
    ("objective", "changes", "sentence"),
    [
        ("contrastive", {"energy__num_chains": 5}, r"num_chains is 5, but must be at least data\.batch_size, 6"),
        ("contrastive", {"energy__alpha": -0.1}, r"energy\.alpha is -0\.1, but must be at least 0"),
        ("contrastive", {"energy__data_noise": -0.1}, r"energy\.data_noise is -0\.1, but must be at least 0"),
        ("contrastive", {"energy__restart_probability": 1.1}, r"energy\.restart_probability is 1\.1, .* \[0, 1\]"),
        ("contrastive", {"energy__restart_probability": -0.1}, r"energy\.restart_probability is -0\.1, .* \[0, 1\]"),
        ("contrastive", {"energy__num_steps": 0}, r"energy\.num_steps is 0, but must be at least 1"),
        ("contrastive", {"sampler__num_steps": 0}, r"sampler\.num_steps is 0, but must be at least 1"),
        ("contrastive", {"langevin__step_size": 0.0}, r"langevin\.step_size is 0\.0, but must be positive"),
        ("contrastive", {"energy__sigma_max": 3.0}, r"sigma_max is 3\.0, .* without energy\.objective=denoising"),
        ("contrastive", {"energy__sigma_min": 0.1}, r"energy\.sigma_min is 0\.1, but has no effect"),
        ("contrastive", {"energy__num_levels": 3}, r"energy\.num_levels is 3, but has no effect"),
        ("contrastive", {"ema__include": ".*"}, r"ema\.include is '\.\*', but a mean of Markov chains"),
        ("contrastive", {"energy__data_noise": 0.0}, r"sampler\.denoise is True, .* a positive energy\.data_noise"),
        ("contrastive", {"langevin__temperature": 0.0}, r"sampler\.denoise is True, .* and langevin\.temperature"),
        ("contrastive", {"ema__include": "params/.*|model_state/chains/image"}, r"ema\.include is 'params/.* Markov"),
        ("denoising", {"langevin__clip": True}, r"langevin\.clip is True, .* without energy\.objective=contrastive"),
        ("denoising", {"energy__alpha": 0.1}, r"energy\.alpha is 0\.1, .* without energy\.objective=contrastive"),
        ("denoising", {"energy__data_noise": 0.1}, r"energy\.data_noise is 0\.1, but has no effect"),
        ("denoising", {"energy__num_chains": 50}, r"energy\.num_chains is 50, but has no effect"),
        ("denoising", {"energy__restart_probability": 0.1}, r"restart_probability is 0\.1, but has no effect"),
        ("denoising", {"energy__num_steps": 3}, r"energy\.num_steps is 3, but has no effect"),
        ("denoising", {"energy__num_levels": 0}, r"energy\.num_levels is 0, but must be at least 1"),
        ("denoising", {"energy__num_levels": 1}, r"num_levels is 1, .* set energy\.sigma_min to energy\.sigma_max"),
        ("denoising", {"energy__sigma_min": 1.3}, r"energy\.sigma_min is 1\.3, .* at most energy\.sigma_max, 1\.2"),
        ("denoising", {"energy__sigma_min": 0.0}, r"energy\.sigma_min is 0\.0, but must be positive"),
    ],
)  # fmt: skip
def test_settings_out_of_range_or_without_effect_are_refused(build, objective, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(objective, **changes)


def test_settings_of_the_other_objective_may_be_off(build):
    for changes in ({"energy__data_noise": 0.0}, {"langevin__temperature": 0.0}):
        build("contrastive", sampler__denoise=False, **changes)
    build("denoising", ema__include=".*")
    build("contrastive", ema__include="(params|model_state/network)/.*")


def test_values_at_the_ends_of_what_is_allowed_are_taken(build):
    build(energy__num_chains=6, energy__restart_probability=0.0, energy__alpha=0.0, energy__num_steps=1)
    build(energy__restart_probability=1.0, sampler__num_steps=1)
    build("denoising", energy__sigma_max=0.3, energy__sigma_min=0.3, energy__num_levels=1)


def test_images_that_do_not_fit_the_network_are_refused_before_training():
    config = ebm_config.get_config("tiny")
    config.model.base_side = 16
    with pytest.raises(ValueError, match=r"Images of 8x8 pixels .* choose another base_side"):
        energy_based.make(config, data_spec((8, 8, 1), 10), Env())


def test_sections_and_norms_have_names():
    config, spec = ebm_config.get_config("tiny"), data_spec((8, 8, 1), 10)
    assert_sections_name_themselves(
        energy_based.make, config, spec, "energy", "langevin", "sampler", "model", "optimizer"
    )
    batch = {
        "image": jax.ShapeDtypeStruct((1, 4, 8, 8, 1), jnp.float32),
        "index": jax.ShapeDtypeStruct((1, 4), jnp.int32),
        "label": jax.ShapeDtypeStruct((1, 4), jnp.int32),
    }
    assert norms_of(energy_based.make, config, spec, batch) == {"network"}
    config.train.compute_dtype = "bfloat16"
    assert energy_based._energy_model(config, spec).network.dtype == "bfloat16"
    assert energy_based.Settings() == ("contrastive", False, 0.0, 0.0, 10_000, 0.05, 60, 1.0, 0.01, 10)
    assert energy_based.Sampler() == (60, False)


def test_chains_are_no_part_of_the_average():
    """Of the whole model, as it is trained: what is averaged are the parameters alone."""
    model = build_model(ebm_config.get_config("tiny"), data_spec((8, 8, 1), 10))
    batch = {
        "image": jax.ShapeDtypeStruct((1, 16, 8, 8, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1, 16), jnp.int32),
        "label": jax.ShapeDtypeStruct((1, 16), jnp.int32),
    }
    state = jax.eval_shape(model.init, KEY, batch)
    assert state.model_state["chains"]["image"].shape == (20, 8, 8, 1)
    assert all(name.startswith("params/") for name in state.ema)
    assert sorted(jax.eval_shape(model.eval_variables, state)) == ["params"]
