"""Generative adversarial networks: whole updates by hand, samples, the pieces that a config names, refusals."""

import chex
import formula_players as formulas
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_close, assert_sections_name_themselves, norms_of, sigmoid
from flax import linen as nn
from formula_players import CLASSES, LATENT_DIM, SHAPE
from game_by_hand import KEY, GameByHand, binary_cross_entropy
from specs import data_spec

from configs import dcgan as dcgan_config
from configs import gan as gan_config
from jaxgen.adversarial.builder import Settings
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, TrainState
from jaxgen.methods.gan import gan
from jaxgen.nn import dcgan

SPEC = data_spec(SHAPE, CLASSES)
RATES, NUM_STEPS, STEP = {"generator": 0.5, "discriminator": 0.25}, 10, 3
INDEX = np.array([[5, 2, 9], [1, 0, 7], [3, 11, 4], [8, 6, 10]], np.int32)
SECTIONS = ("gan", "sampler", "generator", "discriminator", "optimizer.generator", "optimizer.discriminator")


def config_of(**settings):
    config = gan_config.get_config("tiny")
    config.gan.update({"latent_dim": LATENT_DIM, "n_critic": 1, **settings})
    config.train.num_steps = NUM_STEPS
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0, "schedule": "linear"})
    return config


def batch_of(index=INDEX):
    images = np.random.default_rng(0).uniform(-0.6, 1.2, (*index.shape, *SHAPE))
    batch = {"image": np.float32(images), "index": index, "label": index % CLASSES}
    return {name: jnp.asarray(array) for name, array in batch.items()}


def state_of(model, batch, **more):
    """The formulas' parameters and statistics, which `init` makes the like of."""
    state = jax.eval_shape(model.init, KEY, batch)
    params = jax.tree.map(jnp.float32, formulas.PARAMS)
    stats = {name: {"batch_stats": {"mean": jnp.float32(value)}} for name, value in formulas.STATS.items()}
    model_state = {**stats, "terms": {}, "augment": {}, **more}
    assert jax.tree.structure((state.params, state.model_state)) == jax.tree.structure((params, model_state))
    return state._replace(step=jnp.int32(STEP), params=params, model_state=model_state)


def largest(losses, logits, count):
    """The mean of the losses of the images that look most real."""
    return losses[np.argsort(-logits)[:count]].mean()


def assert_examples_are_drawn_for_by_their_index(update, batch):
    """Whatever their places, and not for others."""
    permuted = {name: value[:, np.array([2, 0, 1])] for name, value in batch.items()}
    after, moved = update(batch), update({**batch, "index": batch["index"] + 8})
    chex.assert_trees_all_close(after, update(permuted), rtol=1e-5, atol=1e-6)
    assert abs(after[1]["logits/fake"] - moved[1]["logits/fake"]) > 1e-3


GAMES = {
    "minimax(label_smoothing=0.3)": (
        lambda real, fake: np.log(1 - sigmoid(fake)),
        lambda real, fake: binary_cross_entropy(real, fake, 0.3),
    ),
    "hinge": (
        lambda real, fake: largest(-fake, fake, 2),  # three quarters of the way from .2 to .8, of three images
        lambda real, fake: np.maximum(1 - real, 0) + np.maximum(1 + fake, 0),
    ),
    "relativistic_average": (
        lambda real, fake: 0.3 * binary_cross_entropy(fake - real.mean(), real - fake.mean()),
        lambda real, fake: binary_cross_entropy(real - fake.mean(), fake - real.mean()),
    ),
}
"""Generator and discriminator."""


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("minimax(label_smoothing=0.3)", {}),
        ("hinge", {"class_conditional": True, "top_share": "linear(start=0.2, end=0.8, steps=4)"}),
        ("relativistic_average", {"class_conditional": True, "weight": "linear(start=0.0, end=0.4, steps=4)"}),
    ],
)
def test_an_update_by_hand(monkeypatch, loss, settings):
    """Two updates of the discriminator, each on two microbatches of its own, then one of the generator on the last.

    Real images are judged before generated ones. The generator's statistics move in all turns, the discriminator's in
    its own.
    """
    formulas.use(monkeypatch, gan)
    config = config_of(loss=loss, n_critic=2, **settings)
    config.train.microbatches = 2
    model, batch = gan.make(config, SPEC, Env()), batch_of()
    conditional = settings.get("class_conditional", False)
    assert model.microbatches == 4
    assert model.spec == data_spec(SHAPE, CLASSES * conditional, latent_shape=(LATENT_DIM,))
    state, update = state_of(model, batch), jax.jit(model.update)
    after, metrics = update(KEY, state, batch)
    if loss == "hinge":
        assert_examples_are_drawn_for_by_their_index(lambda batch: update(KEY, state, batch), batch)

    rates = {name: rate * (1 - STEP / NUM_STEPS) for name, rate in RATES.items()}
    hand = GameByHand(batch, conditional=conditional, losses=GAMES[loss], rates=rates, step=STEP)
    for critic in ((0, 1), (2, 3)):
        hand.turn("discriminator", critic)
    hand.turn("generator", (2, 3))
    expected = hand.averages()
    assert_close({name: metrics[name] for name in expected}, expected)
    assert set(metrics) - set(expected) == {"grad_norm/discriminator", "grad_norm/generator"}
    for player in formulas.PARAMS:
        assert_close(after.params[player], hand.params[player])
        np.testing.assert_allclose(after.model_state[player]["batch_stats"]["mean"], hand.state[player], rtol=1e-4)
    variables = model.eval_variables(after)
    assert variables == {"params": after.params["generator"], **after.model_state["generator"]}


SAMPLE_KEYS = jax.random.split(KEY, 3)
LABEL = jnp.array([2, 0, 1])


@pytest.mark.parametrize("truncation", [None, 0.4])
def test_samples_are_of_the_keys_own_latents_and_of_the_running_statistics(monkeypatch, truncation):
    formulas.use(monkeypatch, gan)
    config = config_of(class_conditional=True)
    config.sampler.truncation = truncation
    model = gan.make(config, SPEC, Env())
    variables = {"params": formulas.PARAMS["generator"], "batch_stats": {"mean": 0.6}}
    latent_keys = keys.fold_each(SAMPLE_KEYS, "latent")
    latents = keys.normal(latent_keys, (LATENT_DIM,))
    if truncation:
        assert jnp.abs(latents).max() > truncation
        latents = jax.vmap(lambda key: jax.random.truncated_normal(key, -0.4, 0.4, (LATENT_DIM,)))(latent_keys)
        assert jnp.abs(latents).max() < truncation
    z = np.array(latents, np.float64)
    expected = formulas.generate(np, variables["params"], z, formulas.G_CLASSES[LABEL], np.zeros(3), 0.6)
    images = model.sample(SAMPLE_KEYS, variables, {"label": LABEL})
    np.testing.assert_allclose(images, expected.reshape(3, *SHAPE), rtol=1e-5)
    np.testing.assert_allclose(model.decode(variables, latents, {"label": LABEL}), images, rtol=1e-6)


def test_images_are_clipped(monkeypatch):
    wide = lambda section, **given: _Wide(**given)  # noqa: E731
    formulas.use(monkeypatch, gan)
    monkeypatch.setattr(gan, "make_generator", wide)
    model = gan.make(config_of(), SPEC, Env())
    images = model.decode({}, jnp.array([[-3.0, 0.5, 2.0]]))
    np.testing.assert_array_equal(np.unique(images), [-1.0, 0.5, 1.0])


class _Wide(formulas.Generator):
    """Whose images are the latents, one a row."""

    def __call__(self, latents, label=None, *, train, keys=None):
        return jnp.tile(latents, 8)[:, :8].reshape(-1, *SHAPE)


def test_standing_statistics_are_those_of_batches_in_training_mode(monkeypatch):
    """Of the given weights and fixed keys, on from the statistics of training, also where a run is by pmap."""
    formulas.use(monkeypatch, gan)
    config = config_of(class_conditional=True)
    config.sampler.update({"standing_batches": 3, "standing_batch_size": 5})
    for env in (Env(), Env(axis_name="shards")):
        model = gan.make(config, SPEC, env)
        state = state_of(model, batch_of(INDEX[:1]))
        variables = model.eval_variables(state)
        running = formulas.STATS["generator"]
        for i in range(3):
            running = 0.75 * running + 0.25 * float(standing_latents(i).mean())
        np.testing.assert_allclose(variables["batch_stats"]["mean"], running, rtol=1e-5)
        assert variables["params"] is state.params["generator"]
    config.generator.name = "mlp.Generator"
    monkeypatch.undo()
    model = build_model(config, data_spec((8, 8, 1), 10))
    batch = {"image": jnp.zeros((1, 3, 8, 8, 1), jnp.uint8), "index": INDEX[:1], "label": INDEX[:1]}
    with pytest.raises(ValueError, match=r"sampler\.standing_batches is 3, but mlp\.Generator has no batch statistics"):
        jax.eval_shape(model.init, KEY, batch)


@jax.jit
def standing_latents(i):
    example_keys = keys.per_example(keys.at_step(keys.root_key(0), i), jnp.arange(5))
    return keys.normal(keys.fold_each(example_keys, "latent"), (LATENT_DIM,))


class _Counting(formulas.Generator):
    """Whose running statistic is the mean class."""

    @nn.compact
    def __call__(self, latents, label=None, *, train, keys=None):
        self.variable("batch_stats", "mean", jnp.zeros, ()).value = jnp.mean(jnp.float32(label))
        return jnp.zeros((len(latents), *SHAPE))


def test_standing_batches_are_of_random_classes(monkeypatch):
    monkeypatch.setattr(gan, "make_generator", lambda section, **given: _Counting(**given))
    config = config_of(class_conditional=True)
    config.sampler.update({"standing_batches": 2, "standing_batch_size": 40})
    model = gan.make(config, SPEC, Env())
    states = {"generator": {"batch_stats": {"mean": jnp.zeros(())}}}
    state = TrainState(jnp.int32(0), {"generator": {}}, (), states)

    @jax.jit
    def drawn():
        example_keys = keys.per_example(keys.at_step(keys.root_key(0), 1), jnp.arange(40))
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, CLASSES))(keys.fold_each(example_keys, "label"))

    labels = drawn()
    assert set(np.asarray(labels)) == set(range(CLASSES))
    np.testing.assert_allclose(model.eval_variables(state)["batch_stats"]["mean"], labels.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("section", "settings", "sentence"),
    [
        ("gan", {"loss": "hing"}, r"gan\.loss.*'hing'.* Did you mean hinge"),
        ("gan", {"loss": "hinge(margin=2.0)"}, r"gan\.loss.*margin"),
        ("gan", {"n_critic": 0}, r"gan\.n_critic is 0, but must be at least 1"),
        ("gan", {"latent_dim": 0}, r"gan\.latent_dim is 0, but must be at least 1"),
        ("gan", {"top_share": 1.5}, r"gan\.top_share is 1\.5, but must be at least 0 and at most 1"),
        ("gan", {"weight": -1.0}, r"gan\.weight is -1\.0, but must be at least 0"),
        ("generator", {"dropout": 0.5}, r"generator\.dropout is not a setting; generator takes"),
        ("sampler", {"truncation": 0.0}, r"sampler\.truncation is 0\.0, but must be positive, or None for none"),
        ("sampler", {"standing_batches": -1}, r"sampler\.standing_batches is -1, but must be at least 0"),
        (
            "sampler",
            {"standing_batches": 2, "standing_batch_size": 0},
            r"sampler\.standing_batch_size is 0, but must be at least 1",
        ),
        (
            "sampler",
            {"standing_batch_size": 5},
            r"sampler\.standing_batch_size is 5, but has no effect without a?.*sampler\.standing_batches",
        ),
    ],
)
def test_refusals(section, settings, sentence):
    config = gan_config.get_config("tiny")
    config[section].update(settings)
    with pytest.raises(ValueError, match=sentence):
        gan.make(config, data_spec((8, 8, 1), 10), Env())


def test_a_conditional_model_needs_classes():
    with pytest.raises(ValueError, match=r"gan\.class_conditional is True, but the data has no classes"):
        gan.make(config_of(class_conditional=True), data_spec(SHAPE, 0), Env())


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_networks_get_the_settings_of_their_sections_and_of_the_run(monkeypatch, compute_dtype):
    built = []
    monkeypatch.setattr(gan, "players_of", lambda *networks: built.extend(networks))
    monkeypatch.setattr(gan, "make_training", lambda players, settings, *rest: pytest.fail(str(settings)))
    config = dcgan_config.get_config("tiny")
    config.gan.update({"latent_dim": 7, "class_conditional": True})
    config.generator.update({"width": 3, "momentum": 0.5})
    config.discriminator.update({"width": 5, "batch_norm": False})
    config.train.compute_dtype = compute_dtype
    with pytest.raises(pytest.fail.Exception, match="latent_dim=7"):
        gan.make(config, data_spec((8, 8, 1), 3), Env(axis_name="shards"))
    shared = {"base_side": 2, "num_classes": 3, "axis_name": "shards", "dtype": compute_dtype}
    assert built == [
        dcgan.Generator((8, 8, 1), 7, width=3, momentum=0.5, **shared),
        dcgan.Discriminator(width=5, batch_norm=False, **shared),
    ]


class _Drawn(nn.Module):
    """A player with a parameter that is drawn, and batch statistics that only training moves."""

    latent_dim: int = LATENT_DIM

    @nn.compact
    def __call__(self, x, label=None, *, train, keys=None):
        self.param("drawn", lambda key: jax.random.uniform(key) + jnp.mean(x) + label.sum())
        self.variable("batch_stats", "mean", lambda: jnp.full((), 3.0)).value += float(train)
        return x


def test_the_start_the_norms_and_the_names_of_sections(monkeypatch):
    """Networks start by keys of their own."""
    config, spec, batch = dcgan_config.get_config("tiny"), data_spec((8, 8, 1), 3), batch_of(INDEX[:1])
    assert_sections_name_themselves(gan.make, config, spec, *SECTIONS)
    for name in ("generator", "discriminator"):
        monkeypatch.setattr(gan, f"make_{name}", lambda section, **given: _Drawn())
    config.gan.class_conditional = True
    images = {**batch, "image": jnp.ones((1, 3, 8, 8, 1))}
    state = jax.jit(gan.make(config, spec, Env()).init)(KEY, images)
    given = {"generator": jnp.zeros((3, LATENT_DIM)), "discriminator": images["image"][0]}
    for name, x in given.items():
        expected = _Drawn().init(keys.stream(KEY, name), x, batch["label"][0], train=False)
        chex.assert_trees_all_close(state.params[name], expected["params"], rtol=1e-6)
        chex.assert_trees_all_equal(state.model_state[name], {"batch_stats": expected["batch_stats"]})
    assert (state.model_state["terms"], state.model_state["augment"]) == ({}, {})
    formulas.use(monkeypatch, gan)
    names = {f"{player}/{name}" for player, params in formulas.PARAMS.items() for name in params}
    assert norms_of(gan.make, config_of(), SPEC, batch) == names


def test_the_average_is_of_the_generator_alone():
    model = build_model(dcgan_config.get_config("tiny"), data_spec((8, 8, 1), 3))
    batch = {**batch_of(INDEX[:1]), "image": jnp.zeros((1, 3, 8, 8, 1), jnp.uint8)}
    names = jax.eval_shape(model.init, KEY, batch).ema
    assert all("/generator/" in name for name in names)
    assert any(name.startswith("model_state/generator/batch_stats/") for name in names)


def test_the_mnist_networks_are_the_official_ones():
    model = build_model(gan_config.get_config("mnist"), data_spec((28, 28, 1), 10))
    example = {
        "image": jax.ShapeDtypeStruct((1, 1, 28, 28, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1, 1), jnp.int32),
    }
    params = jax.eval_shape(model.init, keys.root_key(0), example).params
    relu = (100 + 1) * 1200 + (1200 + 1) * 1200 + (1200 + 1) * 784
    maxout = (784 + 1) * 240 * 5 + (240 + 1) * 240 * 5 + (240 + 1)
    assert trees.count(params["generator"]) == relu
    assert trees.count(params["discriminator"]) == maxout


def test_the_defaults_are_these_and_no_others():
    assert Settings() == (100, "non_saturating", 1.0, (), (), 1, False, 1.0)
    assert gan.LatentSampler() == (None, 0, 64)


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        (("path_length",), "path_length, which needs a generator of styles"),
        (("auxiliary_classifier",), "auxiliary_classifier, which needs gan.class_conditional=True and a discriminator"),
        (("multi_hinge",), "multi_hinge, which needs gan.class_conditional=True and a discriminator with scores"),
        (("data_to_data",), "data_to_data, which needs gan.class_conditional=True and a discriminator with scores"),
    ],
)
def test_terms_refuse_networks_that_lack_what_they_need_before_any_update(terms, sentence):
    config = gan_config.get_config("tiny")
    config.gan.terms = terms
    model = gan.make(config, data_spec((8, 8, 1), 10), Env())
    batch = {"image": jnp.zeros((2, 4, 8, 8, 1)), "index": jnp.zeros((2, 4), jnp.int32)}
    with pytest.raises(ValueError, match=f"gan.terms has {sentence}"):
        jax.eval_shape(model.init, KEY, batch)
