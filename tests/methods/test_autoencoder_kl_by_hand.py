"""Whole updates of the KL autoencoder by hand: networks that are formulas, everything else in NumPy."""

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
from ml_collections import ConfigDict
from scipy import stats
from specs import data_spec

from configs import autoencoder_kl as config_file
from configs import common
from jaxgen.adversarial.patches import PatchSettings
from jaxgen.core import keys
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.methods.vae import autoencoder_kl
from jaxgen.nn.autoencoder_kl import AutoencoderKL
from jaxgen.nn.patch_discriminator import PatchDiscriminator

KEY = keys.root_key(3)
SPEC = data_spec((4, 4, 1), 3)
LATENTS, PIXELS = 8, 16  # latents are 2 x 2 x 2
MEAN, SPREAD, DECODER = waves(16, 8, phase=0.3) / 3, waves(16, 8, phase=1.3) / 2, waves(8, 16, phase=2.0) / 2
LOGITS, FIRST, SECOND = waves(16, 4, phase=0.5) / 2, waves(16, 8, phase=1.9) / 2, waves(16, 3, phase=2.9) / 2
RATES, NUM_STEPS = {"generator": 0.05, "discriminator": 0.2}, 10
SCALE, KL_WEIGHT, WEIGHT, FEATURE_WEIGHT, START_STEPS = 0.7, 0.3, 0.4, 0.9, 4
START = {"generator": {"encoder": 0.8, "decoder": 1.3}, "discriminator": {"logits": 0.9, "features": 0.6}}


class FormulaAutoencoder(AutoencoderKL):
    """Linear both ways, with latents of half the side."""

    def setup(self):
        self.encoder, self.decoder = (self.param(name, nn.initializers.normal(), ()) for name in ("encoder", "decoder"))

    def encode(self, x):
        x = x.reshape(len(x), -1)
        mean, logvar = self.encoder * (x @ jnp.float32(MEAN)), self.encoder * (x @ jnp.float32(SPREAD)) - 0.5
        return mean.reshape(-1, 2, 2, 2), logvar.reshape(-1, 2, 2, 2)

    def decode(self, z):
        return (self.decoder * (z.reshape(len(z), -1) @ jnp.float32(DECODER)) + 0.1).reshape(-1, 4, 4, 1)

    def __call__(self, x):
        return self.decode(self.encode(x)[0])


class FormulaDiscriminator(PatchDiscriminator):
    """Four logits and two layers of features; `features` bends the first and shifts the second."""

    @nn.compact
    def __call__(self, x):
        logits, bend = (self.param(name, nn.initializers.normal(), ()) for name in ("logits", "features"))
        x = x.reshape(len(x), -1)
        first, second = x @ jnp.float32(FIRST), x @ jnp.float32(SECOND) + bend
        maps = (first + bend * first**2).reshape(-1, 2, 2, 2), second.reshape(-1, 1, 1, 3)
        return logits * (x @ jnp.float32(LOGITS)).reshape(-1, 2, 2), maps


def encode(g, x):
    return g["encoder"] * (x @ MEAN), g["encoder"] * (x @ SPREAD) - 0.5


def decode(g, z):
    return g["decoder"] * (z @ DECODER) + 0.1


def logits_of(d, x):
    return d["logits"] * (x @ LOGITS)


def features_of(d, x):
    first = x @ FIRST
    return (first + d["features"] * first**2).reshape(-1, 4, 2), (x @ SECOND + d["features"]).reshape(-1, 1, 3)


def feature_distance(d, x, other):
    """Squared distance of unit vectors, averaged over positions, summed over layers."""
    units = [[f / np.linalg.norm(f, axis=-1, keepdims=True) for f in features_of(d, images)] for images in (x, other)]
    return sum(((a - b) ** 2).sum(-1).mean(1) for a, b in zip(*units, strict=True))


class ByHand:
    """The losses on two microbatches, each with the noise of one player's turn."""

    def __init__(self, batch, stream, density):
        turn = keys.stream(KEY, stream) if stream else KEY
        example_keys = [keys.fold_each(keys.per_example(turn, index), "latent") for index in batch["index"]]
        self.eps = [np.array(keys.normal(own, (2, 2, 2)), np.float64).reshape(4, LATENTS) for own in example_keys]
        self.x, self.density = np.array(batch["image"], np.float64).reshape(2, 4, PIXELS), density

    def fakes(self, g):
        moments = [encode(g, x) for x in self.x]
        return [decode(g, m + np.exp(v / 2) * eps) for (m, v), eps in zip(moments, self.eps, strict=True)]

    def terms(self, g):
        """Reconstruction and divergence in nats per value, and the absolute error."""
        fakes, scale = self.fakes(g), np.exp(g["log_scale"]) if "log_scale" in g else SCALE
        log_density = np.mean([self.density.logpdf(x, fake, scale) for x, fake in zip(self.x, fakes, strict=True)])
        divergence = np.mean([(m**2 + np.exp(v) - 1 - v).sum(1) / 2 for m, v in (encode(g, x) for x in self.x)])
        return {
            "loss/reconstruction": -log_density,
            "loss/kl": divergence / PIXELS,
            "absolute_error": np.mean(np.abs(self.x - np.stack(fakes))),
        }

    def autoencoder(self, g):
        terms = self.terms(g)
        return terms["loss/reconstruction"] + KL_WEIGHT * terms["loss/kl"]

    def adversarial(self, g, d):
        return np.mean([GAMES["hinge"][0](logits_of(d, fake)) for fake in self.fakes(g)])

    def features(self, g, d):
        pairs = zip(self.fakes(g), self.x, strict=True)
        return np.mean([feature_distance(d, fake, x) for fake, x in pairs])

    def logits(self, g, d):
        return np.stack([[logits_of(d, x), logits_of(d, fake)] for x, fake in zip(self.x, self.fakes(g), strict=True)])


BATCH = {
    "image": jax.random.uniform(KEY, (2, 4, 4, 4, 1), minval=-1.0),
    "index": jnp.array([[5, 2, 9, 7], [1, 0, 8, 3]]),
}
DENSITIES = {"laplace": stats.laplace, "gaussian": stats.norm}


def build(monkeypatch, *, game, **autoencoder):
    monkeypatch.setattr(autoencoder_kl, "AutoencoderKL", FormulaAutoencoder)
    monkeypatch.setattr(autoencoder_kl, "PatchDiscriminator", FormulaDiscriminator)
    config = config_file.get_config("tiny")
    config.autoencoder.update({"scale": SCALE, "kl_weight": KL_WEIGHT, **autoencoder})
    config.gan.update({"weight": WEIGHT, "feature_weight": FEATURE_WEIGHT, "start_steps": START_STEPS})
    config.train.update({"microbatches": 2, "num_steps": NUM_STEPS})
    config.optimizer = ConfigDict({name: common.optimizer() for name in RATES})
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0, "schedule": "linear"})
    if not game:
        config.gan.update({"weight": 0.0, "feature_weight": 0.0, "start_steps": 0})
        config.optimizer = config.optimizer.generator
    return autoencoder_kl.make(config, SPEC, Env()), config


def contract(generator):
    """The parameters of the autoencoder, as the model has them."""
    network = {name: jnp.float32(generator[name]) for name in ("encoder", "decoder")}
    return {"network": network} | {k: jnp.float32(v) for k, v in generator.items() if k == "log_scale"}


def flat(params):
    return params["network"] | {k: v for k, v in params.items() if k == "log_scale"}


@pytest.mark.parametrize(("likelihood", "learned"), [("laplace", True), ("gaussian", False), ("gaussian", True)])
def test_an_update_without_a_discriminator_by_hand(monkeypatch, likelihood, learned):
    model, _ = build(monkeypatch, game=False, likelihood=likelihood, learn_scale=learned)
    assert model.microbatches == 2
    g = float64(START["generator"] | ({"log_scale": -0.6} if learned else {}))
    state = jax.eval_shape(model.init, KEY, BATCH)
    assert jax.tree.structure(state.params) == jax.tree.structure(contract(g))
    after, metrics = jax.jit(model.update)(KEY, state._replace(step=jnp.int32(3), params=contract(g)), BATCH)
    hand = ByHand(BATCH, None, DENSITIES[likelihood])
    gradient = slope(hand.autoencoder, g)
    assert_close(flat(after.params), descend(g, gradient, RATES["generator"] * 0.7))
    norm = np.sqrt(sum(value**2 for value in gradient.values()))
    assert_close(metrics, {"loss": hand.autoencoder(g), "grad_norm": norm, **hand.terms(g)})
    assert model.eval_variables(after) is after.params


@pytest.fixture
def game(monkeypatch):
    """A model with a discriminator, and its compiled update."""
    model, _ = build(monkeypatch, game=True, likelihood="laplace", learn_scale=True)
    return model, jax.jit(model.update)


def test_updates_with_a_discriminator_by_hand(game):
    """Before `start_steps` the discriminator rests, and neither its logits nor its features count; then both do."""
    model, update = game
    assert model.microbatches == 2
    g, start_d = float64(START["generator"] | {"log_scale": -0.6}), float64(START["discriminator"])
    params = {"generator": contract(g), "discriminator": jax.tree.map(jnp.float32, START["discriminator"])}
    state = jax.eval_shape(model.init, KEY, BATCH)
    assert jax.tree.structure(state.params) == jax.tree.structure(params)
    turns = {name: ByHand(BATCH, name, stats.laplace) for name in ("discriminator", "generator")}
    for step in (START_STEPS - 1, START_STEPS, START_STEPS + 1):
        started, rate = float(step >= START_STEPS), {name: r * (1 - step / NUM_STEPS) for name, r in RATES.items()}
        begin = state._replace(step=jnp.int32(step), params=params)
        after, metrics = update(KEY, begin, BATCH)
        logits = turns["discriminator"].logits(g, start_d)
        assert (np.abs(logits) > 1).any()

        def judge_loss(d, started=started):
            real, fake = turns["discriminator"].logits(g, d).swapaxes(0, 1)
            return started * np.mean(GAMES["hinge"][1](real, fake))

        d = descend(start_d, slope(judge_loss, start_d), rate["discriminator"])
        own = turns["generator"]

        def loss(g, d=d, started=started, own=own):
            judged = WEIGHT * own.adversarial(g, d) + FEATURE_WEIGHT * own.features(g, d)
            return own.autoencoder(g) + started * judged

        gradients = {"generator": slope(loss, g), "discriminator": slope(judge_loss, start_d)}
        assert_close(after.params["discriminator"], d)
        assert_close(flat(after.params["generator"]), descend(g, gradients["generator"], rate["generator"]))
        expected = {"loss/discriminator": judge_loss(start_d), "loss/generator": loss(g), **own.terms(g)}
        expected |= {"loss/adversarial": own.adversarial(g, d), "loss/features": own.features(g, d)}
        expected |= {"logits/real": logits[:, 0].mean(), "logits/fake": logits[:, 1].mean()}
        for name, gradient in gradients.items():
            expected[f"grad_norm/{name}"] = np.sqrt(sum(value**2 for value in gradient.values()))
        assert_close(metrics, expected)
        assert after.step == step + 1
        assert model.eval_variables(after) is after.params["generator"]


def test_the_discriminator_counts_from_its_step_on_in_a_run_that_is_restored(game):
    """Steps are those of the run, whatever microbatches there are: a state that was on the host goes on as it was."""
    model, update = game
    state = model.init(KEY, BATCH)
    moved, restored = [], None
    for step in range(START_STEPS + 2):
        if step == START_STEPS - 1:
            restored = jax.tree.map(jnp.asarray, jax.device_get(state))
        after, metrics = update(jax.random.fold_in(KEY, step), state, BATCH)
        moved.append(bool(metrics["loss/discriminator"]))
        assert moved[-1] == (not jax.tree.all(jax.tree.map(np.array_equal, *players(state, after))))
        state = after
    assert moved == [False] * START_STEPS + [True] * 2
    for step in range(START_STEPS - 1, START_STEPS + 2):
        restored, _ = update(jax.random.fold_in(KEY, step), restored, BATCH)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def players(*states):
    return [state.params["discriminator"] for state in states]


def test_start_of_a_run(game, monkeypatch):
    """The scale is that of the settings; a state has the two players, and the weights depend on nothing else."""
    model, _ = game
    state = model.init(KEY, BATCH)
    network = FormulaAutoencoder().init(keys.stream(KEY, "network"), BATCH["image"][0])["params"]
    judged = FormulaDiscriminator().init(keys.stream(KEY, "discriminator"), BATCH["image"][0])["params"]
    assert_close(state.params["generator"]["network"], network)
    assert_close(state.params["discriminator"], judged)
    np.testing.assert_allclose(state.params["generator"]["log_scale"], np.log(SCALE), rtol=1e-6)
    assert set(state.params) == set(state.opt_state) == {"generator", "discriminator"}
    assert (state.step, state.model_state) == (0, {})
    fixed, config = build(monkeypatch, game=False, learn_scale=False)
    assert set(jax.eval_shape(fixed.init, KEY, BATCH).params) == {"network"}
    assert norms_of(autoencoder_kl.make, config, SPEC, BATCH) == {"network"}
    _, config = build(monkeypatch, game=True)
    names = {"generator/network", "generator/log_scale", "discriminator/logits", "discriminator/features"}
    assert norms_of(autoencoder_kl.make, config, SPEC, BATCH) == names


def test_networks_get_the_settings_of_their_sections():
    config = config_file.get_config("tiny")
    config.model.update({"latent_channels": 3, "block_channels": (4, 8, 8), "num_res_blocks": 2})
    config.discriminator.update({"width": 6, "num_halvings": 2})
    config.train.compute_dtype = "bfloat16"
    first_stage = autoencoder_kl._first_stage(config, ModelSpec((8, 12, 5)))
    assert first_stage.network == AutoencoderKL(5, 3, (4, 8, 8), 2, 2, "bfloat16")
    assert first_stage.discriminator == PatchDiscriminator(6, 2, 2, "bfloat16")
    assert autoencoder_kl._latent_shape(first_stage.network, ModelSpec((8, 12, 5))) == (2, 3, 3)
    assert autoencoder_kl.Settings() == ("laplace", 1.0, False, 1e-6)
    assert PatchSettings() == (0.0, 0.0, 0, False)


def test_a_misspelt_setting_is_refused_by_the_name_of_its_section():
    sections = ("autoencoder", "gan", "model", "discriminator")
    for variant, optimizers in {
        "tiny": ("optimizer.generator", "optimizer.discriminator"),
        "digits": ("optimizer",),
    }.items():
        config = config_file.get_config(variant)
        assert_sections_name_themselves(autoencoder_kl.make, config, ModelSpec((8, 8, 1)), *sections, *optimizers)


def test_encoding_decoding_and_sampling_by_hand(monkeypatch):
    """The mean of q(z | x), clipped means of p(x | z), standard normal latents by key, mean and deviation of q."""
    model, _ = build(monkeypatch, game=True)
    assert model.spec == data_spec((4, 4, 1), 0, latent_shape=(2, 2, 2))
    g, sample_keys = float64(START["generator"] | {"decoder": 2.0}), jax.random.split(KEY, 4)
    mean, logvar = encode(g, np.array(BATCH["image"][0], np.float64).reshape(4, PIXELS))
    shape = (4, 2, 2, 2)
    encoded = model.encode(sample_keys, contract(g), BATCH["image"][0])
    np.testing.assert_allclose(encoded, mean.reshape(shape), rtol=1e-4, atol=1e-6)
    moments = model.posterior(contract(g), BATCH["image"][0])
    np.testing.assert_allclose(moments[0], mean.reshape(shape), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments[1], np.exp(logvar / 2).reshape(shape), rtol=1e-4)
    z = keys.normal(sample_keys, (2, 2, 2))
    images = decode(g, np.array(z, np.float64).reshape(4, LATENTS)).reshape(4, 4, 4, 1)
    assert images.max() > 1.0 > -1.0 > images.min()
    np.testing.assert_allclose(model.decode(contract(g), z), np.clip(images, -1, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.sample(sample_keys, contract(g)), np.clip(images, -1, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "settings", "sentence"),
    [
        ("autoencoder", {"scale": -1.0}, r"autoencoder\.scale is -1\.0, but must be positive"),
        (
            "gan",
            {"start_steps": 3},
            r"gan\.start_steps is 3, but has no effect without a gan\.weight above 0: set it to 0",
        ),
        ("gan", {"feature_weight": 0.5}, r"gan\.feature_weight is 0\.5, but has no effect without a gan\.weight"),
    ],
)
def test_refusals(section, settings, sentence):
    config = config_file.get_config("digits")
    config[section].update(settings)
    with pytest.raises(ValueError, match=sentence):
        autoencoder_kl.make(config, ModelSpec((8, 8, 1)), Env())


def test_the_defaults_are_these_and_no_others():
    assert autoencoder_kl.Settings() == ("laplace", 1.0, False, 1e-06)
    assert PatchSettings() == (0.0, 0.0, 0, False)
