"""GANs of styles: whole updates and samples by hand, official networks put together, refusals."""

import formula_players as formulas
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_close, assert_sections_name_themselves, float64, norms_of
from formula_players import CLASSES, LATENT_DIM, SHAPE, STYLED, W_AVG
from game_by_hand import KEY, StyledGameByHand, binary_cross_entropy
from specs import data_spec

from configs import stylegan2 as stylegan2_config
from configs import stylegan3 as stylegan3_config
from jaxgen.adversarial.players import players_of
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import CONSTANT, Env, ModelSpec, Phase
from jaxgen.methods.gan import style_based
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator

SPEC, DIGITS = data_spec(SHAPE, CLASSES), data_spec((8, 8, 1), 3)
BOTH, GENERATOR = Phase(("discriminator", "generator")), Phase(("generator",))
RATES, NUM_STEPS, STEP = {"generator": 0.05, "discriminator": 0.1}, 10, 3
R1_EVERY, PATH_EVERY, PATH_LENGTH = 3, 2, 0.5
TERMS = (
    f"r1(gamma=0.3, every_steps={R1_EVERY})",
    f"path_length(weight=0.7, decay=0.25, shrink=2, every_steps={PATH_EVERY})",
)
SECTIONS = ("gan", "sampler", "generator", "discriminator", "optimizer.generator", "optimizer.discriminator")


def config_of(**settings):
    config = stylegan2_config.get_config("tiny")
    config.gan.update({"latent_dim": LATENT_DIM, "terms": TERMS, **settings})
    config.train.num_steps = NUM_STEPS
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0, "b2": 0.999, "schedule": "linear"})
    return config


def r1_by_hand(turn):
    d, drawn = turn.params["discriminator"], turn.drawn
    slopes = formulas.slopes(d, turn.real, drawn["discriminate_real"], 2.0 / formulas.PIXELS)
    return 0.15 * np.mean((slopes**2).sum(1)), ()


def path_by_hand(hand):
    """Of every other image, by its own draws; the average is a constant to the batches after it."""

    def cost(turn):
        g, drawn = turn.params["generator"], turn.drawn
        ws = hand.styles(g, turn.latents[::2], turn.k, drawn["path_length/style"][::2], stride=2)
        lengths = formulas.lengths(g, ws, drawn["path_length/path"][::2])
        average = turn.state["path_length"] + 0.25 * (lengths.mean() - turn.state["path_length"])
        return 0.7 * np.mean((lengths - average) ** 2), average

    return cost


@pytest.mark.parametrize(("phase", "conditional"), [(BOTH, True), (GENERATOR, False)])
def test_an_update_by_hand(monkeypatch, phase, conditional):
    """Two microbatches; lazy R1 and path lengths, whose moving average goes from one to the next; the average style."""
    formulas.use(monkeypatch, style_based, formulas.StyleGenerator)
    config = config_of(class_conditional=conditional)
    config.train.microbatches = 2
    model = style_based.make(config, SPEC, Env())
    assert model.spec == data_spec(SHAPE, CLASSES * conditional, latent_shape=(LATENT_DIM,))
    assert model.microbatches == 2
    index = jnp.array([[5, 2, 9, 12], [1, 0, 7, 15]])
    images = jax.random.uniform(KEY, (*index.shape, *SHAPE), minval=-0.5)
    batch = {"image": images, "index": index, "label": index % CLASSES}
    state = jax.eval_shape(model.init, KEY, batch)
    params = {"generator": STYLED, "discriminator": formulas.PARAMS["discriminator"]}
    params = jax.tree.map(jnp.float32, params)
    model_state = {
        "generator": {"buffers": {"w_avg": jnp.float32(W_AVG)}},
        "discriminator": {"batch_stats": {"mean": jnp.float32(formulas.STATS["discriminator"])}},
        "terms": {"path_length": jnp.float32(PATH_LENGTH)},
        "augment": {},
    }
    assert jax.tree.structure((state.params, state.model_state)) == jax.tree.structure((params, model_state))
    state = state._replace(step=jnp.int32(STEP), params=params, model_state=model_state)
    after, metrics = jax.jit(model.update, static_argnames="phase")(KEY, state, batch, phase=phase)

    every = {"discriminator": R1_EVERY, "generator": PATH_EVERY}
    hand = StyledGameByHand(
        batch,
        conditional=conditional,
        losses=(lambda r, f: binary_cross_entropy(f, np.full_like(f, -np.inf)), binary_cross_entropy),
        rates={name: rate * every[name] / (every[name] + 1) * (1 - STEP / NUM_STEPS) for name, rate in RATES.items()},
        step=STEP,
        terms={"path_length": PATH_LENGTH},
    )
    hand.costs = {"r1": {"discriminator": r1_by_hand}, "path_length": {"generator": path_by_hand(hand)}}
    for player, name in (("discriminator", "r1"), ("generator", "path_length")):
        hand.turn(player, (0, 1))
        if player in phase.regularized:
            hand.turn(player, (0, 1), names=(name,), lazy=every[player])
    expected = hand.averages()
    assert_close({name: metrics[name] for name in expected}, expected)
    for player in params:
        assert_close(after.params[player], hand.params[player])
    np.testing.assert_allclose(after.model_state["generator"]["buffers"]["w_avg"], hand.state["generator"], rtol=1e-4)
    statistics = after.model_state["discriminator"]["batch_stats"]["mean"]
    np.testing.assert_allclose(statistics, hand.state["discriminator"], rtol=1e-4)
    lengths = after.model_state["terms"]["path_length"]
    np.testing.assert_allclose(lengths, hand.state["terms"]["path_length"], rtol=1e-4)
    added = {"path_length", "r1"} & set(metrics)
    assert added == ({"path_length", "r1"} if phase == BOTH else {"path_length"})


def test_terms_count_in_their_phases_only(monkeypatch):
    formulas.use(monkeypatch, style_based, formulas.StyleGenerator)

    def phases(*terms):
        model = style_based.make(config_of(terms=terms), SPEC, Env())
        return [model.phase(step) for step in range(5)]

    discriminator = Phase(("discriminator",))
    assert phases("r1(every_steps=4)", "path_length(every_steps=2)") == [BOTH, CONSTANT, GENERATOR, CONSTANT, BOTH]
    of_one = phases("r1(every_steps=3)", "path_length(every_steps=1)")
    assert of_one == [discriminator, CONSTANT, CONSTANT, discriminator, CONSTANT]
    assert phases() == [CONSTANT] * 5


@pytest.mark.parametrize(
    ("sampler", "factors", "noise"),
    [
        ({}, [1.0, 1.0, 1.0], "random"),
        ({"truncation_psi": 0.4, "noise_mode": "const"}, [0.4, 0.4, 0.4], "const"),
        ({"truncation_psi": 0.4, "truncation_cutoff": 2, "noise_mode": "none"}, [0.4, 0.4, 1.0], "none"),
    ],
)
def test_samples_by_hand(monkeypatch, sampler, factors, noise):
    """The class, truncation of the first layers, the noise, which is constant where there are no keys for it."""
    formulas.use(monkeypatch, style_based, formulas.StyleGenerator)
    config = config_of(class_conditional=True)
    config.sampler.update(sampler)
    model = style_based.make(config, SPEC, Env())
    loud = STYLED | {"gain": 120.0}
    variables = {"params": jax.tree.map(jnp.float32, loud), "buffers": {"w_avg": jnp.float32(W_AVG)}}
    sample_keys, label = jax.random.split(KEY, 3), jnp.array([2, 0, 1])
    z = keys.normal(keys.fold_each(sample_keys, "latent"), (LATENT_DIM,))
    ws = formulas.styles(np, loud, float64({"z": z})["z"], formulas.G_CLASSES[label])
    ws = W_AVG + np.array(factors)[None, :, None] * (ws - W_AVG)
    levels = {
        "random": np.array(jax.vmap(jax.random.uniform)(sample_keys)),
        "const": np.full(3, 0.1),
        "none": np.zeros(3),
    }
    images = formulas.synthesize(np, loud, ws, levels[noise]).reshape(3, *SHAPE)
    assert np.abs(images).max() > 1.0
    drawn = model.sample(sample_keys, variables, {"label": label})
    np.testing.assert_allclose(drawn, np.clip(images, -1, 1), rtol=1e-4, atol=1e-5)
    decoded = formulas.synthesize(np, loud, ws, levels["const" if noise == "random" else noise])
    decoded = np.clip(decoded.reshape(3, *SHAPE), -1, 1)
    np.testing.assert_allclose(model.decode(variables, z, {"label": label}), decoded, rtol=1e-4, atol=1e-5)
    styles = model.styles(variables, z, {"label": label})
    np.testing.assert_allclose(styles, ws, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.synthesize(variables, styles), decoded, rtol=1e-4, atol=1e-5)


def test_batches_and_images_that_do_not_fit_are_refused(monkeypatch):
    formulas.use(monkeypatch, style_based, formulas.StyleGenerator)
    model = style_based.make(config_of(terms=("path_length(shrink=3, every_steps=1)",)), SPEC, Env())
    batch = {"image": jnp.ones((1, 4, *SHAPE)), "index": jnp.arange(4)[None], "label": jnp.zeros((1, 4), jnp.int32)}
    state = jax.eval_shape(model.init, KEY, batch)
    with pytest.raises(ValueError, match="shrink=3, but it must divide the batch of each device, which is 4 "):
        jax.eval_shape(lambda state: model.update(KEY, state, batch), state)
    monkeypatch.undo()
    config = stylegan2_config.get_config("tiny")
    config.gan.class_conditional = False
    model = build_model(config, ModelSpec((28, 28, 1)))
    with pytest.raises(ValueError, match="these are 28x28"):
        jax.eval_shape(model.init, KEY, {"image": jnp.zeros((1, 2, 28, 28, 1), jnp.uint8)})


@pytest.mark.parametrize(
    ("section", "settings", "sentence"),
    [
        (
            "sampler",
            {"truncation_cutoff": 2},
            r"sampler\.truncation_cutoff is 2, but has no effect without .*psi other than 1: set it to None",
        ),
        ("sampler", {"truncation": 0.5}, r"sampler\.truncation is not a setting; "),
        ("gan", {"loss": "hing"}, r"gan\.loss.*'hing'.* Did you mean hinge"),
    ],
)
def test_refusals(section, settings, sentence):
    config = stylegan2_config.get_config("tiny")
    with config.unlocked():
        config[section].update(settings)
    with pytest.raises(ValueError, match=sentence):
        style_based.make(config, DIGITS, Env())


def test_generators_without_styles_are_refused_and_so_are_penalties_on_them():
    config = stylegan2_config.get_config("tiny")
    config.generator = {"name": "mlp.Generator"}
    with pytest.raises(ValueError, match=r"generator\.name is 'mlp\.Generator', which has no styles: set method"):
        style_based.make(config, DIGITS, Env())
    config = stylegan3_config.get_config("tiny")
    for mode in ("const", "none"):
        config.sampler = {"noise_mode": mode}
        with pytest.raises(
            ValueError, match=rf"sampler\.noise_mode is '{mode}', but the generator has no noise: leave"
        ):
            style_based.make(config, DIGITS, Env())
    config.sampler = {"noise_mode": "random"}
    style_based.make(config, DIGITS, Env())


def test_penalties_see_images_with_the_noise_of_their_own_keys():
    generator = formulas.StyleGenerator()
    players = style_based._styled(players_of(generator, formulas.Discriminator()), generator)
    own_keys, ws = jax.random.split(KEY, 3), jax.random.normal(KEY, (3, formulas.LAYERS, formulas.STYLE_DIM))
    state = {"buffers": {"w_avg": jnp.float32(W_AVG)}}
    images = players.styled.synthesize(jax.tree.map(jnp.float32, STYLED), state, ws, own_keys)
    noise = np.array(jax.vmap(jax.random.uniform)(own_keys), np.float64)
    expected = formulas.synthesize(np, STYLED, np.array(ws, np.float64), noise)
    np.testing.assert_allclose(images, expected.reshape(3, *SHAPE), rtol=1e-4, atol=1e-5)


def test_networks_get_the_settings_of_their_sections_and_of_the_run(monkeypatch):
    built = []
    monkeypatch.setattr(style_based, "players_of", lambda *networks: built.extend(networks))
    monkeypatch.setattr(style_based, "_styled", lambda players, generator: players)
    monkeypatch.setattr(style_based, "make_training", lambda players, settings, *rest: pytest.fail(str(settings)))
    config = stylegan2_config.get_config("tiny")
    config.gan.latent_dim, config.discriminator.group_size, config.train.compute_dtype = 6, 2, "bfloat16"
    with pytest.raises(pytest.fail.Exception, match="latent_dim=6"):
        style_based.make(config, DIGITS, Env(axis_name="shards"))
    shared = {"num_classes": 3, "dtype": "bfloat16", "channel_base": 256, "channel_max": 4, "num_mapping_layers": 1}
    shared["axis_name"] = "shards"
    assert built == [
        Generator((8, 8, 1), latent_dim=6, w_dim=4, style_mixing=0.9, w_avg_decay=0.995, **shared),
        Discriminator(group_size=2, **shared),
    ]


def test_the_start_the_norms_and_the_names_of_sections(monkeypatch):
    config = stylegan2_config.get_config("tiny")
    assert_sections_name_themselves(style_based.make, config, DIGITS, *SECTIONS)
    config.gan.class_conditional = True
    with pytest.raises(ValueError, match=r"gan\.class_conditional is True, but the data has no classes"):
        style_based.make(config, DIGITS._replace(conditioning={}), Env())
    formulas.use(monkeypatch, style_based, formulas.StyleGenerator)
    batch = {"image": jnp.ones((1, 4, *SHAPE)), "index": jnp.arange(4)[None], "label": jnp.zeros((1, 4), jnp.int32)}
    names = {"generator/style", "generator/gain", "discriminator/scale", "discriminator/tilt"}
    assert norms_of(style_based.make, config_of(), SPEC, batch) == names
    state = style_based.make(config_of(), SPEC, Env()).init(KEY, batch)
    assert state.model_state["terms"] == {"path_length": 0.0}
    np.testing.assert_array_equal(state.model_state["generator"]["buffers"]["w_avg"], [0.0, 0.0])
    assert style_based.StyleSampler() == (1.0, None, "random")
