"""The first GAN: whole updates by hand, a discriminator that cannot tell, the official networks' sizes, refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
    GAMES,
    assert_close,
    assert_sections_name_themselves,
    descend,
    float64,
    norms_of,
    slope,
    waves,
)
from flax import linen as nn
from specs import data_spec

from configs import gan
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.losses.adversarial import LOSSES
from jaxgen.methods.gan import gan as gan_method
from jaxgen.nn.mlp import MLP

DIGITS = data_spec((8, 8, 1), 10)


def batch(microbatches):
    images = np.random.default_rng(0).integers(0, 256, (microbatches, 4, 8, 8, 1)).astype(np.uint8)
    return {"image": jnp.asarray(images), "index": jnp.arange(microbatches * 4).reshape(microbatches, 4)}


def with_last_layer(params, kernel, bias):
    return {**params, "out": {"kernel": jnp.full_like(params["out"]["kernel"], kernel), "bias": bias}}


def test_a_discriminator_that_cannot_tell_pays_log_4():
    """Goodfellow et al. 2014, theorem 1: at D = 1/2 the value of the game is -log 4; the generator then pays log 2."""
    config = gan.get_config("tiny")
    config.gan.n_critic, config.optimizer.discriminator.learning_rate = 1, 0.0
    model = build_model(config, DIGITS)
    state = model.init(keys.root_key(0), batch(1))
    blind = with_last_layer(state.params["discriminator"], 0.0, jnp.zeros(1))
    state = state._replace(params={**state.params, "discriminator": blind})
    _, metrics = jax.jit(model.update)(keys.root_key(1), state, batch(1))
    np.testing.assert_allclose(metrics["loss/discriminator"], np.log(4), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/generator"], np.log(2), rtol=1e-6)


def test_samples_are_the_tanh_of_the_generators_output_row_by_row():
    model = build_model(gan.get_config("tiny"), DIGITS)
    variables = model.eval_variables(model.init(keys.root_key(0), batch(2)))
    bias = jnp.linspace(-2.0, 2.0, 64)
    images = model.sample(keys.per_example(keys.root_key(0), jnp.arange(3)), with_last_layer(variables, 0.0, bias))
    np.testing.assert_allclose(images[2], np.tanh(bias).reshape(8, 8, 1), rtol=1e-6)


def test_the_mnist_networks_are_the_official_ones():
    model = build_model(gan.get_config("mnist"), data_spec((28, 28, 1), 10))
    example = {
        "image": jax.ShapeDtypeStruct((1, 1, 28, 28, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1, 1), jnp.int32),
    }
    params = jax.eval_shape(model.init, keys.root_key(0), example).params
    relu = (100 + 1) * 1200 + (1200 + 1) * 1200 + (1200 + 1) * 784
    maxout = (784 + 1) * 240 * 5 + (240 + 1) * 240 * 5 + (240 + 1)
    assert trees.count(params["generator"]) == relu
    assert trees.count(params["discriminator"]) == maxout


# Whole updates by hand: networks that are formulas, everything else in NumPy.
G_WEIGHTS, D_WEIGHTS = waves(3, 8, phase=0.3), waves(8, phase=2.0)
RATES, NUM_STEPS, STEP = {"generator": 0.5, "discriminator": 0.25}, 10, 3
KEY = keys.root_key(5)


class Formula(nn.Module):
    """A generator of 8 values or a discriminator; with `dropout_keys`, the output is multiplied by 1 + u."""

    outputs: int
    hidden: tuple[int, ...] = (256, 256)
    pieces: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, *, dropout_keys=None):
        scale, shift = self.param("scale", nn.initializers.normal(), ()), self.param("shift", nn.initializers.zeros, ())
        weights = jnp.float32(G_WEIGHTS if self.outputs > 1 else D_WEIGHTS[:, None])
        y = scale * (x.reshape(len(x), -1) @ weights + shift) + 0.3 * shift**2
        return y if dropout_keys is None else y * (1.0 + jax.vmap(jax.random.uniform)(dropout_keys))[:, None]


def generate(params, z):
    return np.tanh(params["scale"] * (z @ G_WEIGHTS + params["shift"]) + 0.3 * params["shift"] ** 2)


def judge(params, x, u):
    return (params["scale"] * (x @ D_WEIGHTS + params["shift"]) + 0.3 * params["shift"] ** 2) * (1 + u)


@partial(jax.jit, static_argnames="stream")
def draws(stream, index):
    """Latents and the factors of dropout."""
    example_keys = keys.per_example(keys.stream(KEY, stream), index)
    uniform = {
        name: jax.vmap(jax.random.uniform)(keys.fold_each(example_keys, f"dropout_{name}")) for name in ("real", "fake")
    }
    return {"z": keys.normal(keys.fold_each(example_keys, "latent"), (3,)), **uniform}


START = {
    "generator": {"scale": jnp.array(0.7), "shift": jnp.array(0.2)},
    "discriminator": {"scale": jnp.array(0.4), "shift": jnp.array(-0.3)},
}


@pytest.mark.parametrize("loss", GAMES)
def test_an_update_by_hand(monkeypatch, loss):
    """Two updates of the discriminator, each on two microbatches of its own, then one of the generator on the last."""
    monkeypatch.setattr(gan_method, "MLP", Formula)
    config = gan.get_config("tiny")
    config.gan.update({"n_critic": 2, "loss": loss, "latent_dim": 3})
    config.train.update({"microbatches": 2, "num_steps": NUM_STEPS})
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0, "schedule": "linear"})
    model = gan_method.make(config, data_spec((2, 2, 2), 10), Env())
    assert model.microbatches == 4
    assert model.spec == data_spec((2, 2, 2), 0, latent_shape=(3,))
    images = 0.8 * jax.random.uniform(KEY, (4, 3, 2, 2, 2), minval=-0.5)
    index = jnp.array([[5, 2, 9], [1, 0, 7], [3, 11, 4], [8, 6, 10]])
    batch = {"image": images, "index": index}
    state = jax.eval_shape(model.init, KEY, batch)._replace(step=jnp.int32(STEP), params=START)
    after, metrics = jax.jit(model.update)(KEY, state, batch)

    x, rate = float64({"x": images.reshape(4, 3, 8)})["x"], {k: v * (1 - STEP / NUM_STEPS) for k, v in RATES.items()}
    g, d = float64(START["generator"]), float64(START["discriminator"])
    losses, logits = [], []
    for critic in ((0, 1), (2, 3)):
        drawn = {k: float64(draws("discriminator", index[k])) for k in critic}
        fake = {k: generate(g, drawn[k]["z"]) for k in critic}

        def both(d, k, drawn=drawn, fake=fake):
            return judge(d, x[k], drawn[k]["real"]), judge(d, fake[k], drawn[k]["fake"])

        def objective(d, critic=critic, both=both):
            return np.mean([GAMES[loss][1](*both(d, k)).mean() for k in critic])

        losses.append(objective(d))
        logits.append([np.mean(both(d, k), axis=1) for k in critic])
        d = descend(d, slope(objective, d), rate["discriminator"])
    drawn = {k: float64(draws("generator", index[k])) for k in (2, 3)}

    def of_generator(g):
        fake = [judge(d, generate(g, draw["z"]), draw["fake"]) for draw in drawn.values()]
        return np.mean([GAMES[loss][0](logit).mean() for logit in fake])

    assert_close(after.params["discriminator"], d)
    assert_close(after.params["generator"], descend(g, slope(of_generator, g), rate["generator"]))
    np.testing.assert_allclose(metrics["loss/discriminator"], np.mean(losses), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss/generator"], of_generator(g), rtol=1e-5, atol=1e-6)
    means = np.mean(logits, axis=(0, 1))
    np.testing.assert_allclose([metrics["logits/real"], metrics["logits/fake"]], means, rtol=1e-5, atol=1e-6)
    assert np.abs(means[0] - means[1]) > 0.1
    assert model.eval_variables(after) is after.params["generator"]


def test_samples_are_of_the_keys_own_latents(monkeypatch):
    monkeypatch.setattr(gan_method, "MLP", Formula)
    config = gan.get_config("tiny")
    config.gan.latent_dim = 3
    model = gan_method.make(config, ModelSpec((2, 2, 2)), Env())
    sample_keys = jax.random.split(KEY, 4)
    latents = keys.normal(sample_keys, (3,))
    expected = generate(float64(START["generator"]), float64({"z": latents})["z"]).reshape(4, 2, 2, 2)
    np.testing.assert_allclose(model.sample(sample_keys, START["generator"]), expected, rtol=1e-5)
    np.testing.assert_allclose(model.decode(START["generator"], latents), expected, rtol=1e-5)


def test_networks_get_the_settings_of_their_sections(monkeypatch):
    config = gan.get_config("tiny")
    config.discriminator.update({"hidden": (6, 5), "pieces": 3, "dropout": 0.25})
    config.generator.hidden = (7,)
    config.train.compute_dtype = "bfloat16"
    networks = gan_method._networks(config, gan_method.Settings(latent_dim=3, loss="hinge"), ModelSpec((2, 3, 2)))
    assert networks.discriminator == MLP(1, (6, 5), 3, 0.25, "bfloat16")
    assert networks.generator == MLP(12, (7,), 1, 0.0, "bfloat16")
    assert networks.loss == LOSSES["hinge"]


@pytest.mark.parametrize(
    ("section", "settings", "sentence"),
    [
        ("gan", {"loss": "hing"}, r"gan\.loss is 'hing'.* Did you mean hinge"),
        ("gan", {"n_critic": 0}, r"gan\.n_critic is 0, but must be at least 1"),
        ("generator", {"dropout": 0.5}, r"generator\.dropout is not a setting; generator takes"),
    ],
)
def test_refusals(section, settings, sentence):
    config = gan.get_config("tiny")
    config[section].update(settings)
    with pytest.raises(ValueError, match=sentence):
        gan_method.make(config, DIGITS, Env())


SECTIONS = ("gan", "generator", "discriminator", "optimizer.generator", "optimizer.discriminator")


def test_the_start_the_norms_and_the_names_of_sections(monkeypatch):
    """Networks start by keys of their own; settings that are left out are those of the docstring."""
    assert gan_method.Settings() == (100, "non_saturating", 1)
    config, spec = gan.get_config("tiny"), ModelSpec((2, 2, 2))
    assert_sections_name_themselves(gan_method.make, config, spec, *SECTIONS)
    monkeypatch.setattr(gan_method, "MLP", Formula)
    config.gan.latent_dim = 3
    batch = {"image": jnp.ones((2, 3, 2, 2, 2)), "index": jnp.arange(6).reshape(2, 3)}
    names = {f"{player}/{name}" for player in START for name in ("scale", "shift")}
    assert norms_of(gan_method.make, config, spec, batch) == names
    state = gan_method.make(config, spec, Env()).init(KEY, batch)
    for name, network, x in (("generator", Formula(8), (1, 3)), ("discriminator", Formula(1), (3, 8))):
        expected = network.init(keys.stream(KEY, name), jnp.zeros(x))["params"]
        np.testing.assert_allclose(state.params[name]["scale"], expected["scale"], rtol=1e-6)
