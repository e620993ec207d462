"""The game: what each term and the augmentation see in a turn, by hand; lazy updates; rules from settings; refusals."""

import functools
from types import SimpleNamespace

import formula_players as formulas
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_close
from formula_players import CLASSES, LATENT_DIM, SHAPE
from game_by_hand import KEY, GameByHand
from specs import data_spec

from configs import gan as gan_config
from configs import stylegan2 as stylegan2_config
from jaxgen.adversarial import builder
from jaxgen.adversarial.augmentation.piece import Augmentation
from jaxgen.adversarial.builder import Rules, Settings, lazy_steps, make_rules
from jaxgen.adversarial.turn import Cost, Term
from jaxgen.core.contract import CONSTANT, Env, Phase
from jaxgen.core.schedules import Curve
from jaxgen.losses.adversarial import relativistic_pairing
from jaxgen.methods.gan import gan, style_based

RATES, STEP = {"generator": 0.05, "discriminator": 0.04}, 6
INDEX = jnp.array([[5, 2, 9]])
START = {"probe": 0.4, "lazy": -0.7, "augment": 0.3}


def cost(xp, turn, index, drawn, once, kept):
    """A number that depends on everything in a turn, and what is kept after it."""
    own = turn.params[turn.player]["scale"]
    of_judges = (
        0.3 * xp.mean(turn.discriminate_real(0.5 * turn.real).logits),
        0.5 * xp.mean(turn.discriminate_fake(0.7 * turn.fake + 0.1).logits),
        0.2 * xp.mean(turn.discriminate(turn.real - turn.fake).logits ** 2),
        xp.mean(drawn * turn.real_critique.logits),
        0.1 * turn.mean(turn.fake_critique.logits) ** 2,
        0.2 * xp.mean(turn.label * turn.fake_critique.features[:, 0]),
    )
    of_generator = 0.9 * once * xp.mean(turn.generate(turn.latents + 0.3) ** 2)
    weight = 0.1 * kept + 0.02 * turn.context.step + 0.01 * xp.mean(index * drawn)
    return sum(of_judges) + of_generator + weight * own**2, 0.5 * kept + once


def probe(name, *players, every_steps=1, keeps=True):
    """A term with this cost for some players."""

    def of(turn):
        drawn, once = jax.vmap(jax.random.uniform)(turn.keys), jax.random.uniform(turn.context.key)
        kept = turn.state if keeps else 0.2
        loss, after = cost(jnp, turn, turn.batch["index"], drawn, once, kept)
        return Cost(loss, after if keeps else (), {f"{name}/{turn.player}": loss})

    init = (lambda params: params["generator"]["scale"] + params["discriminator"]["tilt"]) if keeps else Term().init
    return Term(**dict.fromkeys(players, of), init=init, every_steps=every_steps)


def by_hand(name, keeps=True):
    """The same in NumPy."""

    def of(turn):
        kept = turn.state[name] if keeps else 0.2
        loss, after = cost(np, turn, turn.index, turn.drawn[name], turn.drawn[f"{name}/once"], kept)
        return loss, after if keeps else ()

    return {"generator": of, "discriminator": of}


def column(x, images):
    return x.reshape(-1, *[1] * (images.ndim - 1))


def augment_real(state, drawn, real, fake, step):
    return (1.0 + state * column(drawn, real)) * real + 0.1 * fake + 0.02 * step


def augment_fake(state, drawn, images, step):
    return (1.0 - state * column(drawn, images)) * images + 0.05 * step


def adapt(state, logits, *, step, batch_size=3, mean=np.mean):
    return 0.9 * state + 0.02 * mean(logits) + 0.001 * batch_size + 0.01 * step


def jax_augmentation():
    def uniform(keys):
        return jax.vmap(jax.random.uniform)(keys)

    def update(state, real_logits, *, step, axis_name, batch_size):
        mean = jnp.mean if axis_name is None else lambda x: jax.lax.pmean(jnp.mean(x), axis_name)
        return adapt(state, real_logits, step=step, batch_size=batch_size, mean=mean)

    return Augmentation(
        init=lambda: jnp.float32(START["augment"]),
        real=lambda state, keys, real, fake, step: augment_real(state, uniform(keys), real, fake, step),
        fake=lambda state, keys, images, step: augment_fake(state, uniform(keys), images, step),
        update=update,
        metrics=lambda state, step: {"augment/strength": state + step},
    )


HAND_AUGMENTATION = SimpleNamespace(
    real=augment_real, fake=lambda state, drawn, x, fake, step: augment_fake(state, drawn, x, step), update=adapt
)

TERMS = {
    "probe": probe("probe", "discriminator", "generator"),
    "lazy": probe("lazy", "discriminator", every_steps=3),
    "forgetful": probe("forgetful", "generator", every_steps=2, keeps=False),
}


def model_of(monkeypatch):
    """A game with these terms and augmentation, each on in every turn that it can be."""
    formulas.use(monkeypatch, gan)
    rules = Rules(relativistic_pairing(), Curve.of(1.0, where=""), TERMS, jax_augmentation(), Curve.of(1.0, where=""))
    monkeypatch.setattr(builder, "make_rules", lambda settings, image_shape: rules)
    config = gan_config.get_config("tiny")
    config.gan.update({"latent_dim": LATENT_DIM, "n_critic": 1, "class_conditional": True})
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0, "schedule": "constant"})
    return gan.make(config, data_spec(SHAPE, CLASSES), Env())


def batch_of(index=INDEX):
    images = 0.6 * jax.random.uniform(KEY, (*index.shape, *SHAPE), minval=-0.5)
    return {"image": images, "index": index, "label": index % CLASSES}


def state_of(model, batch):
    state = jax.eval_shape(model.init, KEY, batch)
    stats = {name: {"batch_stats": {"mean": jnp.float32(value)}} for name, value in formulas.STATS.items()}
    terms = {name: jnp.float32(START[name]) for name in ("probe", "lazy")}
    model_state = {**stats, "terms": terms, "augment": jnp.float32(START["augment"])}
    assert jax.tree.structure(state.model_state) == jax.tree.structure(model_state)
    return state._replace(
        step=jnp.int32(STEP), params=jax.tree.map(jnp.float32, formulas.PARAMS), model_state=model_state
    )


ALL, GENERATOR = Phase(("discriminator", "generator")), Phase(("generator",))


def test_what_terms_and_augmentation_see_by_hand(monkeypatch):
    """The loss is relativistic; both players have lazy turns, and rates corrected for these."""
    model, batch = model_of(monkeypatch), batch_of()
    after, metrics = jax.jit(model.update, static_argnames="phase")(KEY, state_of(model, batch), batch, phase=ALL)
    losses = (lambda r, f: np.log1p(np.exp(r - f)), lambda r, f: np.log1p(np.exp(f - r)))
    every = {"discriminator": 3, "generator": 2}
    hand = GameByHand(
        batch,
        conditional=True,
        losses=losses,
        rates={name: rate * every[name] / (every[name] + 1) for name, rate in RATES.items()},
        step=STEP,
        costs={"probe": by_hand("probe"), "lazy": by_hand("lazy"), "forgetful": by_hand("forgetful", keeps=False)},
        augment=HAND_AUGMENTATION,
        terms={"probe": START["probe"], "lazy": START["lazy"]},
    )
    hand.state["augment"] = START["augment"]
    for player, lazy in (("discriminator", "lazy"), ("generator", "forgetful")):
        hand.turn(player, (0,), names=("probe",))
        hand.turn(player, (0,), names=(lazy,), lazy=every[player])
    expected = hand.averages()
    assert_close({name: metrics[name] for name in expected}, expected)
    for player in formulas.PARAMS:
        assert_close(after.params[player], hand.params[player])
        np.testing.assert_allclose(after.model_state[player]["batch_stats"]["mean"], hand.state[player], rtol=1e-4)
    np.testing.assert_allclose(after.model_state["augment"], hand.state["augment"], rtol=1e-5)
    kept = {name: value for name, value in hand.state["terms"].items() if name in ("probe", "lazy")}
    assert_close(after.model_state["terms"], kept)
    for name, player in (("lazy", "discriminator"), ("forgetful", "generator")):
        assert {key for key in metrics if key.startswith(f"{name}/")} == {f"{name}/{player}"}
        loss = metrics[f"loss/{player}_regularizer"]
        np.testing.assert_allclose(every[player] * metrics[f"{name}/{player}"], loss, rtol=1e-5)


def test_what_terms_keep_starts_from_the_parameters_of_both_players(monkeypatch):
    model, batch = model_of(monkeypatch), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    start = formulas.PARAMS["generator"]["scale"] + formulas.PARAMS["discriminator"]["tilt"]
    assert_close(state.model_state["terms"], {"probe": start, "lazy": start})
    np.testing.assert_allclose(state.model_state["augment"], START["augment"])


def test_phases_are_those_of_the_lazy_terms(monkeypatch):
    model = model_of(monkeypatch)
    discriminator = Phase(("discriminator",))
    assert [model.phase(step) for step in range(7)] == [
        ALL,
        CONSTANT,
        GENERATOR,
        discriminator,
        GENERATOR,
        CONSTANT,
        ALL,
    ]
    assert model.microbatches == 1


MAPPED = ("lecam(weight=0.5)", "dragan(weight=0.7, every_steps=2)", "feature_matching(weight=0.8)",
          "path_length(every_steps=2)")  # fmt: skip


def test_training_on_a_mapped_axis_follows_that_of_one_device(monkeypatch):
    """What is a mean over the batch is one over all devices; the augmentation gets the number of images on all."""
    formulas.use(monkeypatch, style_based, formulas.StyleGenerator)
    monkeypatch.setattr(builder, "make_augmentation", lambda settings, image_shape: jax_augmentation())
    config = stylegan2_config.get_config("tiny")
    config.gan.update({"latent_dim": LATENT_DIM, "terms": MAPPED, "loss": "relativistic_average"})
    for name, section in config.optimizer.items():
        section.update({"name": "sgd", "learning_rate": RATES[name], "b1": 0.0, "b2": 0.999})
    batch = batch_of(jnp.array([[5, 2, 9, 12]]))

    def updated(env, spread):
        model = style_based.make(config, data_spec(SHAPE, CLASSES), env)
        state = jax.eval_shape(model.init, KEY, batch)
        state = jax.tree.map(lambda leaf: 0.3 * jnp.ones(leaf.shape, leaf.dtype), state)
        return spread(lambda batch: model.update(KEY, state._replace(step=jnp.int32(STEP)), batch, phase=ALL))

    expected = updated(Env(), jax.jit)(batch)
    halves = jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2, axis=1)), batch)
    pmap = functools.partial(jax.pmap, axis_name="devices", devices=jax.devices()[:2])
    both = updated(Env(axis_name="devices"), pmap)(halves)
    for device in range(2):
        there = jax.tree.map(lambda x, device=device: x[device], both)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), there, expected)
    assert set(expected[0].model_state["terms"]) == {"lecam", "path_length"}


def test_rules_are_what_the_settings_name():
    settings = Settings(
        loss="hinge", weight=0.5, terms=("r1(gamma=2.0)", "drift", "path_length(every_steps=8)"), top_share=0.5
    )
    rules = make_rules(settings, SHAPE)
    np.testing.assert_array_equal(rules.loss.generator(jnp.zeros(2), jnp.array([1.0, 2.0])), [-1.0, -2.0])
    assert [*rules.terms] == ["r1", "drift", "path_length"]
    assert [term.every_steps for term in rules.terms.values()] == [1, 1, 8]
    assert (rules.weight(0), rules.top_share(0)) == (0.5, 0.5)
    assert lazy_steps(rules.terms) == {"generator": 8}
    assert rules.augmentation.init() == {}
    assert set(make_rules(Settings(augment="cutout"), (8, 8, 1)).augmentation.init()) == {"cutout"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"terms": ("r1", "drift", "r1(gamma=1.0)")}, r"gan\.terms has r1 twice: name every term once\."),
        ({"terms": ("r3",)}, r"gan\.terms.*'r3', but must be one of .*r1"),
        ({"terms": ("r1(gama=1.0)",)}, r"gan\.terms.*gama"),
        ({"terms": ("r1(gamma=-1.0)",)}, r"r1's gamma is -1\.0, but must be at least 0"),
        ({"terms": ("r1(every_steps=0)",)}, r"gan\.terms has r1 with every_steps=0, but at least 1 is needed\."),
        ({"loss": "hing"}, r"gan\.loss.*'hing'.* Did you mean hinge"),
        ({"weight": -0.1}, r"gan\.weight is -0\.1, but must be at least 0"),
        ({"top_share": "linear(start=0.5, end=1.1, steps=3)"}, r"gan\.top_share is .*at most 1 at every step"),
    ],
)
def test_rules_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        make_rules(Settings(**settings), SHAPE)
    assert "\n" not in str(caught.value)


def test_lazy_terms_of_a_player_must_have_one_distance():
    terms = make_rules(Settings(terms=("r1(every_steps=16)", "r2(every_steps=8)", "drift")), SHAPE).terms
    with pytest.raises(
        ValueError, match=r"discriminator's terms have different every_steps, r1 every 16, r2 every 8: give them the"
    ):
        lazy_steps(terms)
    alike = make_rules(Settings(terms=("r1(every_steps=4)", "dragan(every_steps=4)", "path_length")), SHAPE).terms
    assert lazy_steps(alike) == {"discriminator": 4, "generator": 4}
    assert lazy_steps(make_rules(Settings(terms=("r1", "drift")), SHAPE).terms) == {}
