"""The method of flows, by a network that is a formula: its density, and so the probability of every level, is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_sections_name_themselves, norms_of
from flax import linen as nn
from flow_exactness import shaken
from scipy import stats
from specs import data_spec

from configs import glow as glow_config
from configs import tarflow as tarflow_config
from jaxgen.core import keys
from jaxgen.core.contract import Env
from jaxgen.methods.flows import flow
from jaxgen.nn.dequantizer import Dequantizer
from jaxgen.nn.flow_network import FlowGuidance

KEY = keys.root_key(4)
SHAPE, CLASSES, LEVELS = (2, 2, 1), 3, 5
SPEC = data_spec(SHAPE, CLASSES, levels=LEVELS)
MEANS, STD = np.array([-0.3, 0.1, 0.4, 0.0]), 0.6
LABEL = np.array([2, 0, 1, 2])
LEVEL = np.array([[0, 1, 4, 2], [3, 3, 0, 1], [2, 4, 4, 0], [1, 0, 2, 3]])
IMAGES = jnp.float32(LEVEL / 2.0 - 1.0).reshape(4, *SHAPE)
BATCH = {
    "image": jnp.stack([IMAGES, -IMAGES]),
    "index": jnp.array([[5, 2, 9, 7], [1, 0, 8, 3]], jnp.int32),
    "label": jnp.tile(jnp.asarray(LABEL, jnp.int32), (2, 1)),
}


class FormulaFlow(nn.Module):
    """Normal values of deviation STD around the means of the class; guidance and dropout leave a trace."""

    image_shape: tuple[int, int, int] = SHAPE
    num_classes: int = 0
    dtype: str = "float32"

    def setup(self):
        self.log_std = self.param("log_std", lambda key: jnp.log(jnp.float32(STD)))

    def mean(self, label, count):
        label = jnp.full(count, self.num_classes) if label is None else label
        return jnp.float32(MEANS)[label][:, None]

    def __call__(self, x, label=None, *, dropout_keys=None):
        shift = 0.0 if dropout_keys is None else 0.01 * keys.normal(dropout_keys, (4,))
        z = (x.reshape(len(x), -1) + shift - self.mean(label, len(x))) * jnp.exp(-self.log_std)
        return z, jnp.full(len(x), -4.0 * self.log_std)

    def inverse(self, latents, label=None):
        return (latents * jnp.exp(self.log_std) + self.mean(label, len(latents))).reshape(-1, *SHAPE)

    def guided_inverse(self, latents, label, guidance):
        amounts = {"ab": 1.0, "a": 2.0, "b": 3.0}[guidance.of] + 5.0 * guidance.annealed
        shift = 0.01 * guidance.scale * amounts * guidance.attention_temperature
        return self.inverse(latents, label) + shift

    def check(self):
        pass


def config_of(flow_settings=None, sampler=None):
    config = glow_config.get_config("tiny")
    defaults = {"dequantization": "uniform", "dequantizer_width": 32, "dequantizer_couplings": 4}
    config.flow.update(defaults | {"class_conditional": True} | (flow_settings or {}))
    config.sampler.update(sampler or {})
    config.train.microbatches = 2
    config.optimizer.update({"name": "sgd", "learning_rate": 0.5, "b1": 0.0, "b2": 0.999, "schedule": "constant"})
    return config


@pytest.fixture
def build(monkeypatch):
    def make(settings=None, sampler=None):
        monkeypatch.setattr(flow, "make_flow_network", lambda section, **given: FormulaFlow(**given))
        return flow.make(config_of(settings, sampler), SPEC, Env())

    return make


def variables_of(**more):
    return {"params": {"network": {"log_std": jnp.log(jnp.float32(STD))}, **more}, "model_state": {}}


def exact_log_prob(level, label):
    """The integral of the density over each level's values, of which all levels together have [-1, 1]."""
    mean = MEANS[label][:, None]
    edges = [2.0 * (level + end) / LEVELS - 1.0 for end in (0.0, 1.0)]
    low, high = (stats.norm.cdf(edge, mean, STD) for edge in edges)
    return np.log(high - low).sum(1)


def many(model, variables, count):
    """Bounds on the first image by so many keys, and its exact log-probability."""
    images, cond = jnp.tile(IMAGES[:1], (count, 1, 1, 1)), {"label": jnp.full(count, LABEL[0])}
    bounds = jax.jit(model.log_prob)(jax.random.split(KEY, count), variables, images, cond)
    return np.asarray(bounds, np.float64), exact_log_prob(LEVEL[:1], LABEL[:1])[0]


def loud_dequantizer():
    module = Dequantizer(3, 1)
    start = jax.jit(module.init)(KEY, IMAGES, IMAGES)
    return shaken(start, jax.random.key(1), size=0.3)["params"]


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_the_bound_is_below_the_exact_probability_and_converges_to_it(build, kind):
    """The mean of one draw is a bound with a gap; the gap closes with the number of draws."""
    settings = {"dequantization": kind}
    variables = variables_of()
    if kind == "variational":
        settings |= {"dequantizer_width": 3, "dequantizer_couplings": 1}
        variables = variables_of(dequantizer=loud_dequantizer())
    single, exact = many(build(settings), variables, 2000)
    error = single.std() / np.sqrt(len(single))
    assert single.mean() < exact - 5 * error
    weights = np.exp(single - exact)  # their mean is 1, without bias
    np.testing.assert_allclose(weights.mean(), 1.0, atol=5 * weights.std() / np.sqrt(len(weights)))
    several, _ = many(build(settings | {"num_draws": 64}), variables, 50)
    assert single.mean() < several.mean() < exact + 5 * several.std() / np.sqrt(50)
    assert exact - several.mean() < 0.2 * (exact - single.mean())


def test_log_prob_by_hand(build):
    """Of two draws, each by its fold of an image's own key; with logits, and without a class."""
    model = build({"num_draws": 2, "logit_alpha": 0.1, "class_conditional": False})
    assert model.spec.likelihood == "lower_bound"
    assert model.spec.latent_shape == (4,)
    sample_keys = jax.random.split(KEY, 4)
    draws = []
    for i in range(2):
        own = keys.fold_each(keys.fold_each(sample_keys, i), "dequantization")
        noise = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, SHAPE))(own), np.float64).reshape(4, 4)
        share = 0.1 + 0.8 * (LEVEL + noise) / LEVELS
        logit = np.log(share / (1 - share))
        density = stats.norm.logpdf(logit, MEANS[0], STD) - np.log(share * (1 - share)) + np.log(0.8)
        draws.append(density.sum(1) - 4 * np.log(LEVELS))
    found = jax.jit(model.log_prob)(sample_keys, variables_of(), IMAGES)
    np.testing.assert_allclose(found, np.log(np.mean(np.exp(draws), axis=0)), rtol=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_an_update_by_hand(build, kind):
    """Bits per dimension; dropout of the label and of the network by each example's key; gradient of the deviation."""
    gaussian = kind == "gaussian"
    settings = {"dequantization": kind, "label_dropout": 0.5} | ({"noise_std": 0.3} if gaussian else {})
    model = build(settings)
    assert model.microbatches == 2
    state = model.init(KEY, BATCH)
    np.testing.assert_allclose(state.params["network"]["log_std"], np.log(STD), rtol=1e-6)
    after, metrics = jax.jit(model.update)(KEY, state, BATCH)
    terms, slopes = [], []
    for k in range(2):
        own = keys.per_example(KEY, BATCH["index"][k])
        noise_keys = keys.fold_each(own, "dequantization")
        x = np.asarray(BATCH["image"][k], np.float64).reshape(4, 4)
        if gaussian:
            values, noise = x + 0.3 * np.asarray(keys.normal(noise_keys, SHAPE)).reshape(4, 4), 0.0
        else:
            drawn = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, SHAPE))(noise_keys)).reshape(4, 4)
            values, noise = 2 * ((x + 1) * 2 + drawn) / LEVELS - 1, 4 * np.log(2 / LEVELS)
        hidden = np.asarray(keys.bernoulli(keys.fold_each(own, "label_dropout"), 0.5))
        label = np.where(hidden, CLASSES, LABEL)
        values = values + 0.01 * np.asarray(keys.normal(keys.fold_each(own, "dropout"), (4,)))
        z = (values - MEANS[label][:, None]) / STD
        prior = stats.norm.logpdf(z).sum(1)
        terms.append([prior.mean(), -4 * np.log(STD), noise])
        slopes.append(np.mean(4 - np.square(z).sum(1)))
    bits = -np.mean(terms, axis=0) / (4 * np.log(2))
    found = [metrics[f"loss/{name}"] for name in ("prior", "log_det", "noise")]
    np.testing.assert_allclose(found, bits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], bits.sum(), rtol=1e-4)
    slope = np.mean(slopes) / (4 * np.log(2))
    np.testing.assert_allclose(metrics["grad_norm"], abs(slope), rtol=1e-3)
    np.testing.assert_allclose(after.params["network"]["log_std"], np.log(STD) - 0.5 * slope, rtol=1e-3)
    assert model.eval_variables(after)["params"] is after.params
    assert (model.log_prob is None) == gaussian == (model.spec.likelihood is None)


def test_learned_noise_is_trained(build):
    model = build({"dequantization": "variational", "dequantizer_width": 3, "dequantizer_couplings": 2})
    state = jax.jit(model.init)(KEY, BATCH)
    assert set(state.params["dequantizer"]) == {"coupling_0", "coupling_1"}
    assert state.params["dequantizer"]["coupling_0"]["net"]["in"]["kernel"].shape[-1] == 3
    after, metrics = jax.jit(model.update)(KEY, state, BATCH)
    moved = after.params["dequantizer"]["coupling_0"]["net"]["out"]["bias"]
    assert np.abs(moved).max() > 1e-4
    start = keys.stream(KEY, "dequantizer")
    expected = jax.jit(Dequantizer(3, 2).init)(start, IMAGES, IMAGES)["params"]
    np.testing.assert_allclose(
        state.params["dequantizer"]["coupling_1"]["net"]["in"]["kernel"], expected["coupling_1"]["net"]["in"]["kernel"],
        rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(metrics["loss/noise"], -np.log2(2 / LEVELS), atol=1e-4)  # uniform at first: log q = 0


def test_encoding_decoding_temperature_and_logits(build):
    cond, sample_keys = {"label": jnp.asarray(LABEL)}, jax.random.split(KEY, 4)
    model = build({"logit_alpha": 0.05}, {"temperature": 0.25})
    latents = model.encode(sample_keys, variables_of(), IMAGES, cond)
    assert latents.shape == (4, 4)
    images = model.decode(variables_of(), latents, cond)
    np.testing.assert_array_equal(np.rint((np.asarray(images).reshape(4, 4) + 1) * 2), LEVEL)
    z = 0.25 * keys.normal(sample_keys, (4,))
    np.testing.assert_allclose(
        model.sample(sample_keys, variables_of(), cond), model.decode(variables_of(), z, cond), atol=1e-6
    )
    share = 1 / (1 + np.exp(-(np.asarray(z) * STD + MEANS[LABEL][:, None])))
    values = 2 * (share - 0.05) / 0.9 - 1
    expected = np.clip(values * LEVELS / (LEVELS - 1), -1, 1)
    np.testing.assert_allclose(model.decode(variables_of(), z, cond).reshape(4, 4), expected, atol=1e-5)


def test_gaussian_noise_is_removed_by_a_step_along_the_score(build):
    """Of values v the score is (mean - v) / STD^2; without the step, and of latents as `decode` takes them."""
    settings = {"dequantization": "gaussian", "noise_std": 0.2}
    cond, z = {"label": jnp.asarray(LABEL)}, 0.5 * jax.random.normal(KEY, (4, 4))
    values = np.asarray(z) * STD + MEANS[LABEL][:, None]
    for denoise in (True, False):
        images = build(settings, {"denoise": denoise}).decode(variables_of(), z, cond)
        expected = values + denoise * 0.04 * (MEANS[LABEL][:, None] - values) / STD**2
        np.testing.assert_allclose(images.reshape(4, 4), np.clip(expected, -1, 1), atol=1e-5)
    sample_keys = jax.random.split(KEY, 4)
    noise = keys.normal(keys.fold_each(sample_keys, "dequantization"), SHAPE)
    expected = (IMAGES + 0.2 * noise).reshape(4, 4) - MEANS[LABEL][:, None]
    np.testing.assert_allclose(
        build(settings).encode(sample_keys, variables_of(), IMAGES, cond), expected / STD, rtol=1e-4
    )


def test_guidance_is_that_of_samples_alone(build):
    """The network gets the settings: its formula tells them apart."""
    dropout, cond = {"label_dropout": 0.1}, {"label": jnp.asarray(LABEL)}
    sampler = {"guidance_scale": 3.0, "guided": "b", "guidance_annealed": True, "attention_temperature": 0.5}
    model, plain = build(dropout | {"dequantization": "gaussian"}, sampler | {"denoise": False}), build(dropout)
    sample_keys, variables = jax.random.split(KEY, 4), variables_of()
    z = keys.normal(sample_keys, (4,))
    guidance = FlowGuidance(3.0, "b", True, 0.5)
    expected = FormulaFlow(num_classes=CLASSES).apply(
        {"params": variables["params"]["network"]}, z, cond["label"], guidance, method="guided_inverse"
    )
    images = model.sample(sample_keys, variables, cond)
    np.testing.assert_allclose(images, np.clip(expected, -1, 1), atol=1e-5)
    assert np.abs(images - model.decode(variables, z, cond)).max() > 0.05
    np.testing.assert_allclose(plain.sample(sample_keys, variables, cond), plain.decode(variables, z, cond), atol=1e-6)
    null = plain.decode(variables, z)
    expected = (np.asarray(z) * STD + MEANS[CLASSES]) * LEVELS / (LEVELS - 1)
    np.testing.assert_allclose(null.reshape(4, 4), np.clip(expected, -1, 1), atol=1e-5)


def test_the_sections_and_the_norms():
    config = tarflow_config.get_config("tiny")
    spec = data_spec((8, 8, 1), 3)
    assert_sections_name_themselves(flow.make, config, spec, "flow", "sampler", "model", "optimizer")
    batch = {name: jnp.zeros((1, 2, *shape), kind) for name, shape, kind in (
        ("image", (8, 8, 1), jnp.float32), ("index", (), jnp.int32), ("label", (), jnp.int32)
    )}  # fmt: skip
    assert norms_of(flow.make, config, spec, batch) == {"network"}
    assert flow.Settings() == ("uniform", 0.05, 32, 4, 0.0, 1, False, 0.0)
    assert flow.Sampler() == (1.0, 1.0, "ab", False, 1.0, True)
    config.train.compute_dtype = "bfloat16"
    built = flow._flow(config, spec)
    assert (built.network.dtype, built.dequantizer.dtype) == ("bfloat16", "bfloat16")


@pytest.mark.parametrize(
    ("settings", "sampler", "sentence"),
    [
        ({"noise_std": 0.1}, {}, r"flow\.noise_std is 0\.1, but has no effect without flow\.dequantization=gaussian"),
        ({"dequantization": "gaussian", "noise_std": 0.0}, {}, r"flow\.noise_std is 0\.0, but must be positive"),
        ({"dequantizer_width": 8}, {}, r"flow\.dequantizer_width is 8, but has no effect without .*=variational"),
        ({"dequantizer_couplings": 8}, {}, r"flow\.dequantizer_couplings is 8, but has no effect"),
        ({"dequantization": "variational", "dequantizer_couplings": 0}, {}, r"dequantizer_couplings is 0, but must be"),
        ({"dequantization": "gaussian", "logit_alpha": 0.1}, {}, r"flow\.logit_alpha is 0\.1, but has no effect"),
        ({"logit_alpha": 0.5}, {}, r"flow\.logit_alpha is 0\.5, but must lie in \[0, 0\.5\)"),
        ({"dequantization": "gaussian", "num_draws": 4}, {}, r"flow\.num_draws is 4, but has no effect without"),
        ({"num_draws": 0}, {}, r"flow\.num_draws is 0, but must be at least 1"),
        ({"class_conditional": False, "label_dropout": 0.1}, {}, r"flow\.label_dropout is 0\.1, but has no effect"),
        ({"label_dropout": 1.5}, {}, r"flow\.label_dropout is 1\.5, but must lie in \[0, 1\]"),
        ({"dequantization": "none"}, {}, r"flow\.dequantization is 'none', but must be"),
        ({}, {"denoise": False, "temperature": 0.0}, r"sampler\.temperature is 0\.0, but must be positive"),
        ({}, {"guidance_scale": 2.0}, r"sampler\.guidance_scale is 2\.0, but has no effect without classes and"),
        ({"label_dropout": 0.1}, {"guided": "a"}, r"sampler\.guided is 'a', but has no effect without"),
        ({}, {"guidance_annealed": True}, r"sampler\.guidance_annealed is True, but has no effect"),
        ({}, {"attention_temperature": 0.5}, r"sampler\.attention_temperature is 0\.5, but has no effect"),
        (
            {"label_dropout": 0.1},
            {"guidance_scale": 2.0, "attention_temperature": -1.0},
            r"sampler\.attention_temperature is -1\.0, but must be positive",
        ),
    ],
)
def test_refusals(build, settings, sampler, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(settings, sampler)


def test_guidance_without_classes_and_what_needs_none(build):
    build({"class_conditional": False}, {"guidance_scale": 2.0, "attention_temperature": 0.5})
    build({"dequantization": "gaussian"}, {"denoise": False})
    build({}, {"denoise": False})


def test_networks_without_guidance_and_data_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"guidance_scale is 2\.0, but glow\.Glow has no guidance: set it to 1\.0"):
        flow.make(config_of({"label_dropout": 0.1}, {"guidance_scale": 2.0}), data_spec((8, 8, 1), 3), Env())
    with pytest.raises(ValueError, match=r"flow\.class_conditional is True, but the data has no classes"):
        flow.make(config_of(), data_spec((8, 8, 1)), Env())
