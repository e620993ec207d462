"""FactorVAE by hand: a linear autoencoder, and a discriminator that is a single linear layer."""

import jax
import jax.numpy as jnp
import linear_vae
import numpy as np
import pytest
from by_hand import log_sigmoid
from linear_vae import LATENTS, PIXELS, SPEC, decoder_weights, encode
from scipy import stats

from configs import factor_vae as factor_config
from configs import vae as vae_config
from jaxgen.core import keys
from jaxgen.core.contract import Env
from jaxgen.losses.maximum_mean_discrepancy import mmd
from jaxgen.methods.vae import factor_vae
from jaxgen.variational.density_ratio import permuted

KEY, STEP, B, SIGMA, RATE = keys.root_key(5), 2, 6, 0.5, 0.05
BATCH = {
    "image": jax.random.randint(KEY, (1, B, 2, 2, 1), 0, 17) / 8.0 - 1.0,
    "index": jnp.array([[5, 2, 9, 7, 0, 3]]),
}
X = np.float64(BATCH["image"][0]).reshape(B, PIXELS)
KERNEL, BIAS = np.array([[0.8], [-0.5]]), 0.1


def config_of(**settings):
    linear = linear_vae.config_of(sigma=SIGMA, learn_sigma=False, **settings)
    config = factor_config.factor(linear, weight=1.0, hidden=())
    config.optimizer.discriminator.update({"name": "sgd", "learning_rate": RATE, "b1": 0.0, "b2": 0.999})
    return config


def latents_of(player):
    key = keys.stream(KEY, player)
    mean, logvar = encode(0.7 * X)
    example_keys = keys.fold_each(keys.per_example(key, BATCH["index"][0]), "latent")
    z = mean + np.exp(logvar / 2) * np.float64(keys.normal(example_keys, (LATENTS,)))
    return key, mean, logvar, z


def test_an_update(monkeypatch):
    linear_vae.use(monkeypatch)
    config = config_of(beta=2.0, terms=("mmd(weight=3.0)",))
    config.factor.weight = "linear(start=0.0, end=6.0, steps=4)"
    model = factor_vae.make(config, SPEC, Env())

    @jax.jit
    def update():
        state = model.init(KEY, BATCH)._replace(step=jnp.int32(STEP))
        player = {name: {"scale": jnp.float32(0.7)} for name in ("encoder", "decoder")}
        linear = {"out": {"kernel": jnp.float32(KERNEL), "bias": jnp.float32([BIAS])}}
        return model.update(KEY, state._replace(params={"generator": player, "discriminator": linear}), BATCH)

    after, metrics = update()
    key, _, _, z = latents_of("discriminator")
    fake = np.float64(permuted(keys.stream(key, "permutation"), jnp.float32(z)))
    logits = [(rows @ KERNEL)[:, 0] + BIAS for rows in (z, fake)]
    loss = -0.5 * (log_sigmoid(logits[0]) + log_sigmoid(-logits[1])).mean()
    np.testing.assert_allclose(metrics["loss/discriminator"], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["logits/joint"], logits[0].mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["logits/permuted"], logits[1].mean(), rtol=1e-4)
    # d/dlogit of the loss is (sigmoid - 1) / 2 of latents and sigmoid / 2 of permuted ones.
    slopes = [(1 / (1 + np.exp(-logits[0])) - 1) / 2, 1 / (1 + np.exp(-logits[1])) / 2]
    kernel = KERNEL - RATE * (z.T @ slopes[0] + fake.T @ slopes[1])[:, None] / B
    bias = BIAS - RATE * (slopes[0] + slopes[1]).mean()
    np.testing.assert_allclose(after.params["discriminator"]["out"]["kernel"], kernel, rtol=1e-4)

    key, mean, logvar, z = latents_of("generator")  # sees the discriminator after its update
    reconstruction = -stats.norm.logpdf(X, 0.7 * z @ decoder_weights(1), SIGMA).sum(1).mean()
    divergence = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1).mean()
    correlation = (z @ kernel).mean() + bias
    np.testing.assert_allclose(metrics["loss/total_correlation"], correlation, rtol=1e-4)
    prior = keys.normal(keys.fold_each(keys.per_example(key, BATCH["index"][0]), "mmd"), (LATENTS,))
    np.testing.assert_allclose(metrics["loss/mmd"], mmd(jnp.float32(z), prior), rtol=1e-4)
    weight = 6.0 * STEP / 4
    expected = reconstruction + 2.0 * divergence + weight * correlation + 3.0 * float(metrics["loss/mmd"])
    np.testing.assert_allclose(metrics["loss/generator"], expected, rtol=1e-4)
    assert model.eval_variables(after) is after.params["generator"]


def test_each_dimension_is_permuted_on_its_own():
    rows = jnp.arange(30.0).reshape(10, 3)
    moved = np.asarray(permuted(KEY, rows))
    np.testing.assert_array_equal(np.sort(moved, axis=0), rows)
    order = [np.argsort(moved[:, j]).tolist() for j in range(3)]
    assert len({tuple(o) for o in order} | {tuple(range(10))}) == 4


def test_refusals():
    config = config_of()
    config.factor.weight = -1.0
    with pytest.raises(ValueError, match=r"factor\.weight is -1\.0, but must be at least 0"):
        factor_vae.make(config, SPEC, Env())
    with pytest.raises(ValueError, match=r"vae\.importance_samples must be 1 in FactorVAE"):
        factor_vae.make(config_of(importance_samples=2), SPEC, Env())


def test_the_discriminator_has_the_widths_of_its_section_and_the_type_of_the_run(monkeypatch):
    given = []
    original = factor_vae.MLP
    monkeypatch.setattr(factor_vae, "MLP", lambda *args, **more: given.append((args, more)) or original(*args, **more))
    assert factor_vae.Settings() == (10.0, (1000,) * 6)
    config = factor_config.factor(vae_config.tiny(), weight=1.0, hidden=(7, 3))
    config.train.compute_dtype = "bfloat16"
    model = factor_vae.make(config, linear_vae.data_spec((8, 8, 1), 3), Env())
    assert given == [((1, (7, 3)), {"dtype": "bfloat16"})]
    batch = {
        "image": jnp.zeros((1, 2, 8, 8, 1)),
        "index": jnp.zeros((1, 2), jnp.int32),
        "label": jnp.zeros((1, 2), jnp.int32),
    }
    discriminator = jax.eval_shape(model.init, KEY, batch).params["discriminator"]
    shapes = {name: layer["kernel"].shape for name, layer in discriminator.items()}
    assert shapes == {"hidden_0": (4, 7), "hidden_1": (7, 3), "out": (3, 1)}
