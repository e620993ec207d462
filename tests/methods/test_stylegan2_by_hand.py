"""Whole updates and samples of StyleGAN2 by hand: networks that are formulas, everything else in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
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

from configs import stylegan2 as stylegan2_config
from jaxgen.core import keys
from jaxgen.core.contract import CONSTANT, Env, Phase
from jaxgen.losses.adversarial import LOSSES
from jaxgen.methods.gan import stylegan2
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator

KEY = keys.root_key(0)
SPEC = data_spec((2, 2, 1), 3)
PLAYERS = ("discriminator", "generator")
BOTH, GENERATOR, NOBODY = Phase(PLAYERS), Phase(("generator",)), CONSTANT
LAYERS, PIXELS = 3, 4
M, A, B = waves(3, 2, phase=0.3), waves(LAYERS, 2, PIXELS, phase=1.1) / 2, waves(LAYERS, 2, PIXELS, phase=2.3) / 2
C, K = waves(PIXELS, phase=2.0), waves(PIXELS, phase=0.9)
G_CLASSES, D_CLASSES = waves(3, phase=1.0), waves(3, phase=0.1)
RATES, MOMENTUM, NUM_STEPS, STEP = {"generator": 0.05, "discriminator": 0.1}, 0.5, 10, 3
R1_EVERY, PATH_EVERY, GAMMA, PATH_WEIGHT, PATH_DECAY, W_DECAY, MIXING = 3, 2, 0.3, 0.7, 0.25, 0.6, 0.6
START = {"generator": {"style": 0.8, "gain": 1.3}, "discriminator": {"scale": 0.6}}
W_AVG, PATH_LENGTH = np.array([0.3, -0.2]), 0.5


class FormulaGenerator(nn.Module):
    """One style for each of three layers, an image that is quadratic in them, and one number of noise an image."""

    image_shape: tuple[int, int, int]
    z_dim: int
    num_classes: int
    w_dim: int = 2
    num_mapping_layers: int = 1
    channel_base: int = 1
    channel_max: int = 1
    clamp: float | None = None
    dtype: str = "float32"

    def setup(self):
        self.style, self.gain = (self.param(name, nn.initializers.normal(), ()) for name in ("style", "gain"))
        self.w_avg = self.variable("buffers", "w_avg", jnp.zeros, (2,))

    def styles(self, z, label=None):
        shift = jnp.zeros(len(z)) if label is None else jnp.float32(G_CLASSES)[label]
        w = self.style * jnp.tanh(z @ jnp.float32(M)) + shift[:, None]
        return jnp.repeat(w[:, None], LAYERS, axis=1)

    def synthesize(self, ws, *, noise_keys=None, noise_mode="const"):
        modes = {"const": lambda: 0.1 * jnp.ones(len(ws)), "none": lambda: jnp.zeros(len(ws))}
        noise = modes.get(noise_mode, lambda: 0.2 * jax.vmap(jax.random.normal)(noise_keys))()
        linear, bent = (jnp.einsum("bld,ldp->bp", ws, jnp.float32(weights)) for weights in (A, B))
        return (self.gain * linear + bent**2 / 2 + noise[:, None]).reshape(-1, *self.image_shape)

    def __call__(self, z, label=None, *, truncation_psi=1.0, truncation_cutoff=None, **noise):
        ws, w_avg = self.styles(z, label), self.w_avg.value[None, None]
        kept = ws[:, LAYERS if truncation_cutoff is None else truncation_cutoff :]
        ws = jnp.concatenate([(w_avg + truncation_psi * (ws - w_avg))[:, : LAYERS - kept.shape[1]], kept], axis=1)
        return self.synthesize(ws, **noise)


class FormulaDiscriminator(Discriminator):
    """Quadratic in the image, its linear part scaled by the class."""

    @nn.compact
    def __call__(self, x, label=None):
        scale, x = self.param("scale", nn.initializers.normal(), ()), x.reshape(len(x), -1)
        factor = jnp.ones(len(x)) if label is None else 1.0 + jnp.float32(D_CLASSES)[label]
        return scale * (factor * (x @ jnp.float32(C)) + x**2 @ jnp.float32(K) / 4)


def styles(g, z, classes):
    return np.repeat((g["style"] * np.tanh(z @ M) + classes[:, None])[:, None], LAYERS, axis=1)


def synthesize(g, ws, noise):
    linear, bent = (np.einsum("bld,ldp->bp", ws, weights) for weights in (A, B))
    return g["gain"] * linear + bent**2 / 2 + noise[:, None]


def lengths_of(g, ws, y):
    """J^T y by the derivative of `synthesize`, with y over the root of 2 x 2 pixels."""
    slopes = g["gain"] * A + np.einsum("bke,kep,ldp->bldp", ws, B, B)
    return np.sqrt((np.einsum("bldp,bp->bld", slopes, y / 2.0) ** 2).sum(2).mean(1))


def judge(d, x, classes):
    return d["scale"] * ((1 + classes) * (x @ C) + x**2 @ K / 4)


def r1_of(d, x, classes):
    return ((d["scale"] * ((1 + classes)[:, None] * C + x * K / 2)) ** 2).sum(1)


@partial(jax.jit, static_argnames="stream")
def draws(stream, index):
    example_keys = keys.per_example(keys.stream(KEY, stream), index)
    mixing_keys = keys.fold_each(example_keys, "style_mixing")
    crossover_keys = keys.fold_each(mixing_keys, "crossover")
    return {
        "z": keys.normal(keys.fold_each(example_keys, "latent"), (3,)),
        "other": keys.normal(keys.fold_each(mixing_keys, "latent"), (3,)),
        "mixed": jax.vmap(lambda key: jax.random.bernoulli(key, MIXING))(keys.fold_each(mixing_keys, "whether")),
        "crossover": jax.vmap(lambda key: jax.random.randint(key, (), 1, LAYERS))(crossover_keys),
        "noise": 0.2 * jax.vmap(jax.random.normal)(example_keys),
        "y": keys.normal(keys.fold_each(example_keys, "path"), (PIXELS,)),
    }


class ByHand:
    """One update: parameters, momenta and the two averages, player by player; two microbatches each turn."""

    def __init__(self, batch, *, conditional, mixing):
        self.x = np.array(batch["image"], np.float64).reshape(2, 4, PIXELS)
        self.label, self.index = np.array(batch["label"]), batch["index"]
        self.conditional, self.mixing = conditional, mixing
        self.params = {name: float64(params) for name, params in START.items()}
        self.momentum = {name: dict.fromkeys(params, 0.0) for name, params in START.items()}
        self.w_avg, self.path_length, self.metrics = W_AVG, PATH_LENGTH, {}

    def classes(self, table, k, stride=1):
        return self.conditional * table[self.label[k, ::stride]]

    def draw(self, stream, k, stride=1):
        return float64(draws(stream, self.index[k, ::stride]))

    def ws(self, g, drawn, classes):
        ws = styles(g, drawn["z"], classes)
        other = np.arange(LAYERS)[None] >= np.where(drawn["mixed"], drawn["crossover"], LAYERS)[:, None]
        return np.where(other[:, :, None], styles(g, drawn["other"], classes), ws) if self.mixing else ws

    def average(self, drawn, classes):
        """Of styles, before mixing."""
        mean = styles(self.params["generator"], drawn["z"], classes)[:, 0].mean(0)
        self.w_avg = W_DECAY * self.w_avg + (1 - W_DECAY) * mean

    def descend(self, name, label, loss, every):
        """By momentum, with the rate and the momentum of lazy regularization."""
        c = every / (every + 1)
        gradient = slope(loss, self.params[name])
        self.metrics[f"loss/{label}"] = loss(self.params[name])
        self.metrics[f"grad_norm/{label}"] = np.sqrt(sum(g**2 for g in gradient.values()))
        velocity = {key: MOMENTUM**c * old + gradient[key] for key, old in self.momentum[name].items()}
        self.momentum[name] = velocity
        self.params[name] = descend(self.params[name], velocity, c * RATES[name] * (1 - STEP / NUM_STEPS))

    def discriminator(self):
        g, fakes = self.params["generator"], []
        for k in range(2):
            drawn, classes = self.draw("discriminator", k), self.classes(G_CLASSES, k)
            fakes.append(synthesize(g, self.ws(g, drawn, classes), drawn["noise"]))
            self.average(drawn, classes)

        def logits(d, images):
            return np.stack([judge(d, images[k], self.classes(D_CLASSES, k)) for k in range(2)])

        d = self.params["discriminator"]
        self.metrics |= {"logits/real": logits(d, self.x).mean(), "logits/fake": logits(d, fakes).mean()}
        self.descend(
            "discriminator",
            "discriminator",
            lambda d: np.mean(GAMES["non_saturating"][1](logits(d, self.x), logits(d, fakes))),
            R1_EVERY,
        )

    def discriminator_regularizer(self):
        def penalty(d):
            return np.mean([r1_of(d, self.x[k], self.classes(D_CLASSES, k)) for k in range(2)])

        self.metrics["r1"] = penalty(self.params["discriminator"])
        loss = lambda d: GAMMA / 2 * R1_EVERY * penalty(d)  # noqa: E731
        self.descend("discriminator", "discriminator_regularizer", loss, R1_EVERY)

    def generator(self):
        d = self.params["discriminator"]
        drawn = [(self.draw("generator", k), self.classes(G_CLASSES, k), self.classes(D_CLASSES, k)) for k in range(2)]
        for draw, classes, _ in drawn:
            self.average(draw, classes)

        def loss(g):
            fakes = [(synthesize(g, self.ws(g, draw, own), draw["noise"]), theirs) for draw, own, theirs in drawn]
            return np.mean([GAMES["non_saturating"][0](judge(d, fake, theirs)) for fake, theirs in fakes])

        self.descend("generator", "generator", loss, PATH_EVERY)

    def generator_regularizer(self):
        drawn = [(self.draw("generator_regularizer", k, 2), self.classes(G_CLASSES, k, 2)) for k in range(2)]
        for draw, classes in drawn:
            self.average(draw, classes)

        def lengths(g, k):
            return lengths_of(g, self.ws(g, *drawn[k]), drawn[k][0]["y"])

        means = [lengths(self.params["generator"], k).mean() for k in range(2)]
        averages = [self.path_length]  # constants to the batches that follow
        for mean in means:
            averages.append(averages[-1] + PATH_DECAY * (mean - averages[-1]))

        def loss(g):
            gaps = []
            for k in range(2):
                own = lengths(g, k)
                gaps.append(own - (averages[k] + PATH_DECAY * (own.mean() - averages[k])))
            return PATH_WEIGHT * PATH_EVERY * np.mean(np.square(gaps))

        self.metrics["path_length"], self.path_length = np.mean(means), averages[-1]
        self.descend("generator", "generator_regularizer", loss, PATH_EVERY)


def formulas(monkeypatch, **gan):
    """A model of formulas whose every option is on."""
    monkeypatch.setattr(stylegan2, "Generator", FormulaGenerator)
    monkeypatch.setattr(stylegan2, "Discriminator", FormulaDiscriminator)
    config = stylegan2_config.get_config("tiny")
    config.gan.update({"style_mixing": MIXING, "w_avg_decay": W_DECAY, "r1_gamma": GAMMA, "r1_every_steps": R1_EVERY})
    config.gan.update({"path_length_weight": PATH_WEIGHT, "path_length_every_steps": PATH_EVERY})
    config.gan.update({"path_length_decay": PATH_DECAY, "class_conditional": False})
    config.gan.update(gan)
    config.train.update({"microbatches": 2, "num_steps": NUM_STEPS})
    config.generator = {"z_dim": 3}
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": MOMENTUM, "b2": 0.999, "schedule": "linear"})
    return config, stylegan2.make(config, SPEC, Env())


def state_of(model, batch):
    state = jax.eval_shape(model.init, KEY, batch)
    params = jax.tree.map(jnp.float32, START)
    model_state = {"generator": {"w_avg": jnp.float32(W_AVG)}, "path_length": jnp.float32(PATH_LENGTH)}
    opt_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state.opt_state)
    assert jax.tree.structure((state.params, state.model_state)) == jax.tree.structure((params, model_state))
    return state._replace(step=jnp.int32(STEP), params=params, opt_state=opt_state, model_state=model_state)


@pytest.mark.parametrize(("phase", "conditional", "mixing"), [(BOTH, True, MIXING), (GENERATOR, False, 0.0)])
def test_an_update_of_formulas_by_hand(monkeypatch, phase, conditional, mixing):
    _, model = formulas(monkeypatch, class_conditional=conditional, style_mixing=mixing)
    assert (model.microbatches, model.spec.num_classes) == (2, 3 * conditional)
    index = jnp.array([[5, 2, 9, 12], [1, 0, 7, 15]])
    batch = {"image": jax.random.uniform(KEY, (2, 4, 2, 2, 1), minval=-0.5), "index": index, "label": index % 3}
    after, metrics = jax.jit(model.update, static_argnames="phase")(KEY, state_of(model, batch), batch, phase=phase)
    hand = ByHand(batch, conditional=conditional, mixing=mixing)
    for player in ("discriminator", "generator"):
        getattr(hand, player)()
        if player in phase.regularized:
            getattr(hand, f"{player}_regularizer")()
    assert_close(metrics, hand.metrics)
    for player in PLAYERS:
        assert_close(after.params[player], hand.params[player])
    np.testing.assert_allclose(after.model_state["generator"]["w_avg"], hand.w_avg, rtol=1e-4)
    np.testing.assert_allclose(after.model_state["path_length"], hand.path_length, rtol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "factors", "noise"),
    [
        ({}, [1.0, 1.0, 1.0], "random"),
        ({"truncation_psi": 0.4, "noise_mode": "const"}, [0.4, 0.4, 0.4], "const"),
        ({"truncation_psi": 0.4, "truncation_cutoff": 2, "noise_mode": "none"}, [0.4, 0.4, 1.0], "none"),
    ],
)
def test_samples_of_formulas_by_hand(monkeypatch, sampler, factors, noise):
    """The class, truncation of the first layers, the noise, which is constant in the place of random in `decode`."""
    config, _ = formulas(monkeypatch)
    config.gan.class_conditional = True
    config.sampler.update(sampler)
    model = stylegan2.make(config, SPEC, Env())
    loud = START["generator"] | {"gain": 4.0}
    variables = {"params": jax.tree.map(jnp.float32, loud), "buffers": {"w_avg": jnp.float32(W_AVG)}}
    sample_keys, label = jax.random.split(KEY, 3), jnp.array([2, 0, 1])
    z = keys.normal(keys.fold_each(sample_keys, "latent"), (3,))
    ws = styles(loud, np.array(z, np.float64), G_CLASSES[label])
    ws = W_AVG + np.array(factors)[None, :, None] * (ws - W_AVG)
    levels = {
        "random": 0.2 * np.array(jax.vmap(jax.random.normal)(sample_keys)),
        "const": np.full(3, 0.1),
        "none": np.zeros(3),
    }
    images = synthesize(loud, ws, levels[noise]).reshape(3, 2, 2, 1)
    assert np.abs(images).max() > 1.0
    drawn = model.sample(sample_keys, variables, {"label": label})
    np.testing.assert_allclose(drawn, np.clip(images, -1, 1), rtol=1e-4, atol=1e-6)
    decoded = synthesize(loud, ws, levels["const" if noise == "random" else noise])
    decoded = np.clip(decoded.reshape(3, 2, 2, 1), -1, 1)
    np.testing.assert_allclose(model.decode(variables, z, {"label": label}), decoded, rtol=1e-4, atol=1e-6)


def test_a_player_without_a_regularizer_keeps_its_rate_and_there_is_no_average_length(monkeypatch):
    config, _ = formulas(monkeypatch)
    config.gan.update({"r1_gamma": 0.0, "r1_every_steps": 16, "path_length_weight": 0.0})
    config.gan.update({"path_length_every_steps": 4, "path_length_decay": 0.01})
    model = stylegan2.make(config, SPEC, Env())
    assert model.phase(0) == NOBODY
    batch = {"image": jnp.ones((2, 4, 2, 2, 1)), "index": jnp.arange(8).reshape(2, 4), "label": jnp.zeros((2, 4), int)}
    state = jax.jit(model.init)(KEY, batch)
    state = state._replace(params=jax.tree.map(jnp.float32, START))
    assert set(state.model_state) == {"generator"}
    # eval_variables takes the generator's part of both.
    chosen = model.eval_variables(state)
    assert chosen == {"params": state.params["generator"], "buffers": state.model_state["generator"]}
    after, metrics = jax.jit(model.update)(KEY, state, batch)
    fell = state.params["discriminator"]["scale"] - after.params["discriminator"]["scale"]
    np.testing.assert_allclose(jnp.abs(fell), RATES["discriminator"] * metrics["grad_norm/discriminator"], rtol=1e-4)
    fell = optax.tree.norm(jax.tree.map(jnp.subtract, state.params["generator"], after.params["generator"]))
    np.testing.assert_allclose(fell, RATES["generator"] * metrics["grad_norm/generator"], rtol=1e-4)


def test_networks_get_their_settings_and_the_run():
    config = stylegan2_config.get_config("tiny")
    config.generator.z_dim, config.discriminator.group_size, config.train.compute_dtype = 6, 2, "bfloat16"
    settings = stylegan2.Settings("hinge")
    networks = stylegan2._networks(config, settings, SPEC._replace(image_shape=(8, 8, 1)), Env(axis_name="shards"))
    shared = {"num_classes": 3, "dtype": "bfloat16", "channel_base": 256, "channel_max": 4, "num_mapping_layers": 1}
    assert networks.generator == Generator((8, 8, 1), z_dim=6, w_dim=4, **shared)
    assert networks.discriminator == Discriminator(group_size=2, axis_name="shards", **shared)
    assert (networks.loss, networks.settings, networks.axis_name) == (LOSSES["hinge"], settings, "shards")
    x = jnp.arange(24.0).reshape(2, 4, 3) ** 2
    mapped = jax.vmap(lambda x: stylegan2._batch_mean(networks, x), axis_name="shards")(x)
    np.testing.assert_allclose(mapped, [x.mean((0, 1))] * 2, rtol=1e-6)
    np.testing.assert_allclose(stylegan2._batch_mean(networks._replace(axis_name=None), x[0]), x[0].mean(0), rtol=1e-6)
    assert stylegan2.Settings() == ("non_saturating", False, 0.9, 0.995, 10.0, 16, 2.0, 4, 2, 0.01)
    assert stylegan2.SamplerSettings() == (1.0, None, "random")


def test_the_start_the_norms_and_the_names_of_sections(monkeypatch):
    config = stylegan2_config.get_config("tiny")
    sections = ("gan", "sampler", "generator", "discriminator", "optimizer.generator", "optimizer.discriminator")
    assert_sections_name_themselves(stylegan2.make, config, SPEC, *sections)
    config.gan.class_conditional = True
    with pytest.raises(ValueError, match=r"gan\.class_conditional is True, but the data has no classes"):
        stylegan2.make(config, SPEC._replace(conditioning={}), Env())
    config, model = formulas(monkeypatch, class_conditional=True)
    batch = {"image": jnp.ones((2, 4, 2, 2, 1)), "index": jnp.arange(8).reshape(2, 4), "label": jnp.zeros((2, 4), int)}
    names = {f"{player}/{name}" for player, params in START.items() for name in params}
    assert norms_of(stylegan2.make, config, SPEC, batch) == names
    state = model.init(KEY, batch)
    generator = FormulaGenerator((2, 2, 1), 3, 0).init(keys.stream(KEY, "generator"), jnp.zeros((4, 3)))["params"]
    judged = FormulaDiscriminator().init(keys.stream(KEY, "discriminator"), batch["image"][0])["params"]
    for name, expected in {"generator": generator, "discriminator": judged}.items():
        for key, value in expected.items():
            np.testing.assert_allclose(state.params[name][key], value, rtol=1e-6)
    np.testing.assert_array_equal(state.model_state["path_length"], 0.0)
    np.testing.assert_array_equal(state.model_state["generator"]["w_avg"], 0.0)
