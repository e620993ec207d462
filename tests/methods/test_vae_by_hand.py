"""Whole updates of the VAE by hand: an encoder and a decoder that are formulas, everything else in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
    assert_close,
    assert_sections_name_themselves,
    descend,
    float64,
    log_sigmoid,
    norms_of,
    sigmoid,
    slope,
    waves,
)
from flax import linen as nn
from scipy import stats
from specs import data_spec

from configs import vae as vae_config
from jaxgen.core import keys
from jaxgen.core.contract import Env
from jaxgen.methods.vae import vae
from jaxgen.nn.conv_autoencoder import ConvDecoder, ConvEncoder
from jaxgen.variational import autoencoder

KEY = keys.root_key(3)
SPEC = data_spec((2, 2, 2), 3)
LATENTS, PIXELS = 3, 8
E_WEIGHTS, D_WEIGHTS = waves(PIXELS, 2 * LATENTS, phase=0.3) / 2, waves(LATENTS, PIXELS, phase=2.0) / 2
E_CLASSES, D_CLASSES = waves(3, phase=1.0), waves(3, phase=0.1)
SIGMA, BETA, RATE, NUM_STEPS, STEP = 0.7, 3.0, 0.05, 10, 3


class FormulaEncoder(ConvEncoder):
    """Mean and log-variance, of which the class moves both."""

    @nn.compact
    def __call__(self, x, label=None):
        scale = self.param("scale", nn.initializers.normal(), ())
        shift = jnp.zeros(len(x)) if label is None else jnp.float32(E_CLASSES)[label]
        return scale * (x.reshape(len(x), -1) @ jnp.float32(E_WEIGHTS)) + shift[:, None]


class FormulaDecoder(ConvDecoder):
    """Linear in the latent, and moved by the class."""

    @nn.compact
    def __call__(self, z, label=None):
        scale = self.param("scale", nn.initializers.normal(), ())
        shift = jnp.zeros(len(z)) if label is None else jnp.float32(D_CLASSES)[label]
        return (scale * (z @ jnp.float32(D_WEIGHTS)) + shift[:, None]).reshape(-1, *self.image_shape)


def encode(scale, x, classes):
    return np.split(scale * (x @ E_WEIGHTS) + classes[:, None], 2, axis=-1)


def decode(scale, z, classes):
    return scale * (z @ D_WEIGHTS) + classes[:, None]


def gaussian(x, outputs, log_sigma):
    return stats.norm.logpdf(x, outputs, np.exp(log_sigma)).sum(1)


def bernoulli(x, outputs, _):
    """Of pixels in [0, 1]."""
    p = (x + 1) / 2
    return (p * log_sigmoid(outputs) + (1 - p) * log_sigmoid(-outputs)).sum(1)


def eps_of(example_keys):
    return np.array(keys.normal(keys.fold_each(example_keys, "latent"), (LATENTS,)), np.float64)


def elbo_terms(params, x, eps, classes, log_likelihood):
    """Log-likelihood of the images by one latent each, and KL(q || p)."""
    mean, logvar = encode(params["encoder"], x, classes * E_CLASSES[LABEL])
    outputs = decode(params["decoder"], mean + np.exp(logvar / 2) * eps, classes * D_CLASSES[LABEL])
    divergence = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1)
    return log_likelihood(x, outputs, params.get("log_sigma", np.log(SIGMA))), divergence


LABEL = np.array([2, 0, 1, 2])
IMAGES = jax.random.uniform(KEY, (2, 4, 2, 2, 2), minval=-1.0)
BATCH = {"image": IMAGES, "index": jnp.array([[5, 2, 9, 7], [1, 0, 8, 3]]), "label": jnp.tile(jnp.array(LABEL), (2, 1))}


def config_of(monkeypatch, **settings):
    monkeypatch.setattr(autoencoder, "ConvEncoder", FormulaEncoder)
    monkeypatch.setattr(autoencoder, "ConvDecoder", FormulaDecoder)
    config = vae_config.get_config("tiny")
    config.vae.update({"latent_dim": LATENTS, "beta": BETA, **settings})
    config.train.update({"microbatches": 2, "num_steps": NUM_STEPS})
    config.optimizer.update({"name": "sgd", "learning_rate": RATE, "b1": 0.0, "b2": 0.999, "schedule": "linear"})
    return config


def build(monkeypatch, **settings):
    return vae.make(config_of(monkeypatch, **settings), SPEC, Env())


def contract(params):
    """Parameters as the model has them."""
    nested = {name: {"scale": jnp.float32(params[name])} for name in ("encoder", "decoder")}
    return nested | {name: jnp.float32(value) for name, value in params.items() if name == "log_sigma"}


START = {"encoder": 0.8, "decoder": 1.3}
CASES = {
    "gaussian, sigma learned": ({"sigma": SIGMA, "learn_sigma": True, "class_conditional": True}, gaussian),
    "gaussian": ({"sigma": SIGMA, "learn_sigma": False, "class_conditional": False}, gaussian),
    "bernoulli": (
        {"likelihood": "bernoulli", "sigma": 0.2, "learn_sigma": True, "class_conditional": True},
        bernoulli,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_by_hand(monkeypatch, case):
    settings, log_likelihood = CASES[case]
    model = build(monkeypatch, **settings)
    classes, learned = settings["class_conditional"], case.endswith("learned")
    assert (model.microbatches, model.spec.num_classes, model.spec.latent_shape) == (2, 3 * classes, (LATENTS,))
    params = float64(START | ({"log_sigma": -0.5} if learned else {}))
    state = jax.eval_shape(model.init, KEY, BATCH)
    assert jax.tree.structure(state.params) == jax.tree.structure(contract(params))
    state = state._replace(step=jnp.int32(STEP), params=contract(params))
    after, metrics = jax.jit(model.update)(KEY, state, BATCH)

    x = np.array(IMAGES, np.float64).reshape(2, 4, PIXELS)
    eps = [eps_of(keys.per_example(KEY, BATCH["index"][k])) for k in range(2)]

    def terms(params):
        return np.mean([elbo_terms(params, x[k], eps[k], classes, log_likelihood) for k in range(2)], axis=(0, 2))

    def loss(params):
        reconstruction, divergence = terms(params)
        return -reconstruction + BETA * divergence

    gradient = slope(loss, params)
    expected = descend(params, gradient, RATE * (1 - STEP / NUM_STEPS))
    assert_close({k: v["scale"] if k != "log_sigma" else v for k, v in after.params.items()}, expected)
    assert_close(
        metrics,
        {
            "loss": loss(params),
            "loss/reconstruction": -terms(params)[0],
            "loss/kl": terms(params)[1],
            "grad_norm": np.sqrt(sum(g**2 for g in gradient.values())),
        },
    )
    assert model.eval_variables(after) is after.params


def test_log_prob_by_hand(monkeypatch):
    """Of 8-bit images: levels at either end own the tails; every image by its own key, and by its class."""
    model = build(monkeypatch, sigma=SIGMA, learn_sigma=True, class_conditional=True)
    assert model.spec.likelihood == "lower_bound"
    params = float64(START | {"log_sigma": -0.5})
    levels = np.random.default_rng(0).integers(0, 256, (4, PIXELS))
    levels[:, :2] = 0, 255
    x = levels / 127.5 - 1
    sample_keys = jax.random.split(KEY, 4)

    def log_mass(x, outputs, log_sigma):
        upper = np.where(levels == 255, np.inf, (x + 1 / 255 - outputs) / np.exp(log_sigma))
        lower = np.where(levels == 0, -np.inf, (x - 1 / 255 - outputs) / np.exp(log_sigma))
        return np.log(stats.norm.cdf(upper) - stats.norm.cdf(lower)).sum(1)

    log_likelihood, divergence = elbo_terms(params, x, eps_of(sample_keys), True, log_mass)
    images, cond = jnp.float32(x).reshape(4, 2, 2, 2), {"label": jnp.array(LABEL)}
    values = model.log_prob(sample_keys, contract(params), images, cond)
    np.testing.assert_allclose(values, log_likelihood - divergence, rtol=1e-4)
    # The tables of an entropy coder, by the same latents and the classes.
    mean, logvar = encode(params["encoder"], x, E_CLASSES[LABEL])
    z = jnp.float32(mean + np.exp(logvar / 2) * eps_of(sample_keys))
    level_log_probs = jax.jit(model.latent_coding.level_log_probs, static_argnames="channel")
    tables = [level_log_probs(contract(params), z, images, cond, channel=channel) for channel in range(2)]
    picked = np.take_along_axis(np.stack(tables, axis=3), levels.reshape(4, 2, 2, 2, 1), axis=-1)
    np.testing.assert_allclose(picked.sum(axis=(1, 2, 3, 4)), log_likelihood, rtol=1e-4)
    # By several latents, each of which is decoded by its image's class.
    several = build(monkeypatch, sigma=SIGMA, learn_sigma=True, class_conditional=True, evaluation_samples=2)
    eps = np.array(keys.normal(keys.fold_each(sample_keys, "latent"), (2, LATENTS)), np.float64)
    weights = []
    for z in np.moveaxis(mean[:, None] + np.exp(logvar / 2)[:, None] * eps, 1, 0):
        rate = (stats.norm.logpdf(z, mean, np.exp(logvar / 2)) - stats.norm.logpdf(z)).sum(1)
        weights.append(log_mass(x, decode(params["decoder"], z, D_CLASSES[LABEL]), params["log_sigma"]) - rate)
    values = several.log_prob(sample_keys, contract(params), images, cond)
    np.testing.assert_allclose(values, np.logaddexp(*weights) - np.log(2), rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_encoding_decoding_and_sampling_by_hand(monkeypatch, likelihood):
    """The mean of q(z | x), and of p(x | z) in [-1, 1], each by the class that is asked for."""
    settings = {"sigma": SIGMA} if likelihood == "gaussian" else {"sigma": 0.2, "learn_sigma": True}
    model = build(monkeypatch, likelihood=likelihood, class_conditional=True, **settings)
    loud = START | {"decoder": 2.0}
    variables, cond, sample_keys = contract(loud), {"label": jnp.array(LABEL)}, jax.random.split(KEY, 4)
    mean, logvar = encode(loud["encoder"], np.array(IMAGES[0], np.float64).reshape(4, PIXELS), E_CLASSES[LABEL])
    np.testing.assert_allclose(model.encode(sample_keys, variables, IMAGES[0], cond), mean, rtol=1e-4, atol=1e-6)
    posterior = model.posterior(variables, IMAGES[0], cond)
    np.testing.assert_allclose(posterior[0], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(posterior[1], np.exp(logvar / 2), rtol=1e-4)

    def images_of(z):
        outputs = decode(loud["decoder"], np.array(z, np.float64), D_CLASSES[LABEL])
        images = np.clip(outputs, -1, 1) if likelihood == "gaussian" else 2 * sigmoid(outputs) - 1
        assert np.abs(outputs).max() > 1.0
        return images.reshape(4, 2, 2, 2)

    z = keys.normal(sample_keys, (LATENTS,))
    np.testing.assert_allclose(model.decode(variables, z, cond), images_of(z), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.sample(sample_keys, variables, cond), images_of(z), rtol=1e-4, atol=1e-6)


def test_the_start_the_norms_and_the_names_of_sections(monkeypatch):
    """Networks start by keys of their own, sigma where it is set; norms are those that the run asks for."""
    model = build(monkeypatch, sigma=SIGMA, learn_sigma=True, class_conditional=True)
    params = model.init(KEY, BATCH).params
    np.testing.assert_allclose(params["log_sigma"], np.log(SIGMA), rtol=1e-6)
    networks = {
        "encoder": (FormulaEncoder(2 * LATENTS), jnp.zeros((4, PIXELS))),
        "decoder": (FormulaDecoder((2, 2, 2)), jnp.zeros((4, LATENTS))),
    }
    for name, (network, x) in networks.items():
        expected = network.init(keys.stream(KEY, name), x)["params"]["scale"]
        np.testing.assert_allclose(params[name]["scale"], expected, rtol=1e-6)
    config = config_of(monkeypatch, sigma=SIGMA, learn_sigma=True)
    assert norms_of(vae.make, config, SPEC, BATCH) == {"encoder", "decoder", "log_sigma"}
    monkeypatch.undo()
    assert_sections_name_themselves(vae.make, vae_config.get_config("tiny"), SPEC, "vae", "model", "optimizer")
    with pytest.raises(ValueError, match=r"vae\.class_conditional is True, but the data has no classes"):
        vae.make(vae_config.get_config("tiny"), SPEC._replace(conditioning={}), Env())


def test_networks_get_the_settings_of_their_section():
    config = vae_config.get_config("tiny")
    config.model.update({"width": 3, "max_width": 7, "hidden": 5})
    config.train.compute_dtype = "bfloat16"
    config.vae.latent_dim = 6
    networks = autoencoder.make_autoencoder(config, SPEC._replace(image_shape=(8, 8, 1)))
    shared = {"width": 3, "max_width": 7, "hidden": 5, "base_side": 2, "num_classes": 3, "dtype": "bfloat16"}
    assert networks.encoder == ConvEncoder(12, **shared)
    assert networks.decoder == ConvDecoder((8, 8, 1), **shared)
    defaults = {"latent_dim": 32, "likelihood": "gaussian", "sigma": 0.2, "learn_sigma": True, "mixtures": 5}
    defaults |= {
        "levels": None,
        "prior": "standard_normal",
        "beta": 1.0,
        "free_bits": 0.0,
        "capacity": None,
        "terms": (),
    }
    defaults |= {"importance_samples": 1, "evaluation_samples": 1, "class_conditional": False}
    assert autoencoder.Settings()._asdict() == defaults


def test_a_class_changes_encoder_decoder_and_likelihood(monkeypatch):
    model = build(monkeypatch, sigma=SIGMA, learn_sigma=False, class_conditional=True)
    variables, sample_keys = contract(START), jax.random.split(KEY, 4)
    outcomes = []
    for label in (LABEL, (LABEL + 1) % 3):
        cond = {"label": jnp.array(label)}
        outcomes.append(
            [
                model.encode(sample_keys, variables, IMAGES[0], cond),
                model.decode(variables, jnp.ones((4, LATENTS)), cond),
                model.sample(sample_keys, variables, cond),
                model.log_prob(sample_keys, variables, IMAGES[0], cond),
            ]
        )
    for a, b in zip(*outcomes, strict=True):
        assert (np.abs(np.array(a) - b).reshape(4, -1).max(1) > 1e-2).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": 0.0}, r"vae\.sigma is 0\.0, but must be positive"),
        ({"sigma": -1.0}, r"vae\.sigma is -1\.0, but must be positive"),
        (
            {"likelihood": "bernoulli", "sigma": 0.5, "learn_sigma": True},
            r"vae\.sigma is 0\.5, but has no effect without",
        ),
        ({"likelihood": "bernoulli", "sigma": 0.2, "learn_sigma": False}, r"vae\.learn_sigma is False, but has no eff"),
        ({"likelihood": "poisson"}, r"vae\.likelihood is 'poisson', but must be"),
    ],
)
def test_refusals(monkeypatch, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(monkeypatch, **settings)


def test_the_defaults_are_these_and_no_others():
    defaults = {"latent_dim": 32, "likelihood": "gaussian", "sigma": 0.2, "learn_sigma": True, "mixtures": 5}
    defaults |= {
        "levels": None,
        "prior": "standard_normal",
        "beta": 1.0,
        "free_bits": 0.0,
        "capacity": None,
        "terms": (),
    }
    defaults |= {"importance_samples": 1, "evaluation_samples": 1, "class_conditional": False}
    assert autoencoder.Settings()._asdict() == defaults
