"""Every term of the losses by hand, on formula players: value, gradient, metrics, what it keeps, each argument."""

import formula_players as formulas
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import assert_close, float64, slope
from formula_players import CLASSES, LATENT_DIM, PARAMS, SHAPE

from jaxgen.adversarial.players import Styled
from jaxgen.adversarial.terms import consistency
from jaxgen.adversarial.turn import Cost, Turn
from jaxgen.core import keys
from jaxgen.core.config import call_text, module_names
from jaxgen.core.contract import Context
from jaxgen.losses.classes import data_to_data_cross_entropy

N, STEP, KEY = 5, 3, jax.random.key(3)
KEYS = jax.random.split(jax.random.key(8), N)
LABEL = np.array([2, 0, 1, 1, 0])
REAL = np.array(0.9 * jax.random.normal(jax.random.key(1), (N, *SHAPE)), np.float64)
LATENTS = np.array(jax.random.normal(jax.random.key(2), (N, LATENT_DIM)), np.float64)
FACTORS = {name: np.linspace(start, 0.8, N) for name, start in (("real", -0.3), ("fake", 0.5), ("plain", 0.1))}
LEVELS = {"real": 0.3, "fake": -0.2, "plain": 0.1}


def turn_of(xp, params, player="discriminator", state=(), *, label=LABEL, changed=lambda critique: critique) -> Turn:
    """A turn of the formula players; `changed` changes critiques."""
    g, d = params["generator"], params["discriminator"]

    def generate(latents):
        noise = np.linspace(-1.0, 1.0, N)
        return formulas.generate(xp, g, latents, formulas.G_CLASSES[LABEL], noise, 0.2).reshape(-1, *SHAPE)

    def critic_of(name):
        factor = xp.asarray(FACTORS[name])
        own = formulas.D_CLASSES[LABEL]
        return lambda x: changed(formulas.judge(xp, d, x.reshape(len(x), -1), own, factor, LEVELS[name]))

    real, latents = xp.asarray(REAL), xp.asarray(LATENTS)
    fake = generate(latents)
    discriminate_real, discriminate_fake = critic_of("real"), critic_of("fake")
    context = Context(KEY, jnp.int32(STEP))
    return Turn(
        context,
        player,
        params,
        KEYS,
        {},
        None if label is None else xp.asarray(label),
        real,
        fake,
        latents,
        discriminate_real(real),
        discriminate_fake(fake),
        discriminate_real=discriminate_real,
        discriminate_fake=discriminate_fake,
        discriminate=critic_of("plain"),
        generate=generate,
        styled=None,
        mean=lambda x: x.mean(0),
        state=state,
    )


def flat(x):
    return np.array(x, np.float64).reshape(len(x), -1)


def gradients(turn, at, name):
    """Of the logits at some images, by the discriminator of that name."""
    return formulas.slopes(turn.params["discriminator"], flat(at), FACTORS[name], 0.0)


def squares(turn, at, name):
    return (gradients(turn, at, name) ** 2).sum(1)


def r1(weight):
    return lambda s, _: penalized(weight / 2, "r1", squares(s, s.real, "real").mean())


def r2(weight):
    return lambda s, _: penalized(weight / 2, "r2", squares(s, s.fake, "fake").mean())


def penalized(weight, name, penalty, state=()):
    return Cost(weight * penalty, state, {name: penalty})


UNIFORM = np.array(jax.vmap(jax.random.uniform)(KEYS), np.float64)[:, None, None, None]


def gradient_penalty(weight, target=1.0, one_sided=False):
    def formula(s, _):
        norms = np.sqrt(squares(s, s.real + UNIFORM * (s.fake - s.real), "real")) / target - 1.0
        return penalized(weight, "gradient_penalty", (np.maximum(norms, 0) if one_sided else norms).__pow__(2).mean())

    return formula


LINE = np.array(jax.vmap(jax.random.uniform)(keys.fold_each(KEYS, "line")), np.float64)[:, None, None, None]
CLOUD = np.array(jax.vmap(lambda key: jax.random.uniform(key, SHAPE))(KEYS), np.float64)


def dragan(weight, scale=0.5):
    def formula(s, _):
        norms = np.sqrt(squares(s, s.real + LINE * scale * s.real.std() * CLOUD, "real"))
        return penalized(weight, "dragan", ((norms - 1.0) ** 2).mean())

    return formula


def drift(weight):
    return lambda s, _: Cost(weight * (s.real_critique.logits**2).mean())


def bcr(real, fake, *, flip=True, shift=4):
    def formula(s, _):
        loss, metrics = 0.0, {}
        for name, weight, images in (("real", real, s.real), ("fake", fake, s.fake)):
            if weight:
                own = keys.fold_each(KEYS, name)
                changed = np.array(consistency.moved(own, jnp.float32(images), flip=flip, shift=shift), np.float64)
                change = ((s.discriminate(changed).logits - s.discriminate(images).logits) ** 2).mean()
                loss, metrics = loss + weight * change, {**metrics, f"consistency/{name}": change}
        return Cost(loss, metrics=metrics)

    return formula


NOISE = np.array(keys.normal(KEYS, (LATENT_DIM,)), np.float64)


def zcr(player, weight, deviation=0.03):
    def formula(s, _):
        other = s.generate(s.latents + deviation * NOISE)
        if player == "generator":
            change = ((s.fake - other) ** 2).mean()
            return Cost(-weight * change, metrics={"latent_consistency/images": change})
        change = ((s.discriminate(s.fake).logits - s.discriminate(other).logits) ** 2).mean()
        return Cost(weight * change, metrics={"latent_consistency/logits": change})

    return formula


AVERAGES = {"real": 0.7, "fake": -0.4}


def lecam(weight, decay=0.99):
    def formula(s, frozen):
        means = {"real": frozen.real_critique.logits.mean(), "fake": frozen.fake_critique.logits.mean()}
        state = {name: decay * AVERAGES[name] + (1 - decay) * means[name] for name in means}
        real, fake = s.real_critique.logits - state["fake"], s.fake_critique.logits - state["real"]
        penalty = (real**2).mean() + (fake**2).mean()
        return Cost(weight * penalty, state, {"lecam": penalty})

    return formula


def feature_matching(weight):
    def formula(s, _):
        gap = s.fake_critique.features.mean(0) - s.real_critique.features.mean(0)
        return penalized(weight, "feature_matching", (gap**2).sum())

    return formula


PAST = {
    "generator": {"scale": 0.1, "shift": 0.9},
    "discriminator": {"scale": -0.3, "tilt": 0.3},
}


def historical_averaging(weight):
    """The mean of four: of three in the past, and of the parameters, which is a constant."""

    def formula(s, frozen):
        own, now, past = s.params[s.player], frozen.params[s.player], PAST[s.player]
        mean = {name: (3 * past[name] + now[name]) / 4 for name in past}
        return Cost(weight * sum((own[name] - mean[name]) ** 2 for name in past), {**PAST, s.player: mean})

    return formula


def classified(scores):
    return (np.log(np.exp(scores).sum(1)) - scores[np.arange(N), LABEL]).mean()


def classifier(player, weight, *, fakes=True):
    def formula(s, _):
        real, fake = classified(s.real_critique.classes), classified(s.fake_critique.classes)
        if player == "generator":
            return penalized(weight, "classifier/fake", fake)
        return Cost(weight * (real + (fake if fakes else 0.0)), metrics={"classifier/real": real})

    return formula


def hinged(critique, target):
    scores = np.concatenate([critique.classes, -critique.logits[:, None]], axis=1)
    own = np.eye(CLASSES + 1, dtype=bool)[target]
    return np.maximum(1 - scores[own] + np.where(own, -np.inf, scores).max(1), 0).mean()


def multi_hinge(player, weight):
    def formula(s, _):
        loss = hinged(s.fake_critique, LABEL)
        if player == "discriminator":
            loss = hinged(s.real_critique, LABEL) + hinged(s.fake_critique, np.full(N, CLASSES))
        return penalized(weight, f"multi_hinge/{player}", loss)

    return formula


def d2d(player, weight, temperature=0.5, positive_margin=0.98, negative_margin=-0.05):
    """The loss itself is tested beside its file; here it is on the embedding and the scores of either kind."""

    def formula(s, _):
        critique, kind = (s.real_critique, "real") if player == "discriminator" else (s.fake_critique, "fake")
        with jax.enable_x64(True):
            losses = data_to_data_cross_entropy(
                jnp.asarray(critique.embedding),
                jnp.asarray(critique.classes),
                jnp.asarray(LABEL),
                temperature=temperature,
                positive_margin=positive_margin,
                negative_margin=negative_margin,
            )
        return penalized(weight, f"data_to_data/{kind}", np.array(losses).mean())

    return formula


BOTH = ("discriminator", "generator")
SCHEDULE = '"linear(start=0.0, end=8.0, steps=4)"'  # 6 at step 3
CASES = [
    ("r1", "discriminator", r1(10.0)),
    ("r1(gamma=3.0)", "discriminator", r1(3.0)),
    (f"r1(gamma={SCHEDULE})", "discriminator", r1(6.0)),
    ("r2", "discriminator", r2(10.0)),
    (f"r2(gamma={SCHEDULE})", "discriminator", r2(6.0)),
    ("gradient_penalty", "discriminator", gradient_penalty(10.0)),
    (f"gradient_penalty(weight={SCHEDULE})", "discriminator", gradient_penalty(6.0)),
    ("gradient_penalty(weight=2.0, target=1.4)", "discriminator", gradient_penalty(2.0, 1.4)),
    ("gradient_penalty(target=1.4, one_sided=True)", "discriminator", gradient_penalty(10.0, 1.4, True)),
    ("dragan", "discriminator", dragan(10.0)),
    (f"dragan(weight={SCHEDULE}, scale=1.5)", "discriminator", dragan(6.0, 1.5)),
    ("drift", "discriminator", drift(0.001)),
    ("drift(weight=0.4)", "discriminator", drift(0.4)),
    ("consistency(shift=1)", "discriminator", bcr(10.0, 0.0, shift=1)),
    (f"consistency(real_weight={SCHEDULE}, fake_weight=2.0, flip=False, shift=1)", "discriminator",
     bcr(6.0, 2.0, flip=False, shift=1)),
    (f"consistency(real_weight=0.0, fake_weight={SCHEDULE}, shift=0)", "discriminator", bcr(0.0, 6.0, shift=0)),
    ("latent_consistency", "discriminator", zcr("discriminator", 5.0)),
    ("latent_consistency", "generator", zcr("generator", 0.5)),
    ("latent_consistency(discriminator_weight=2.0, generator_weight=9.0, deviation=0.4)", "discriminator",
     zcr("discriminator", 2.0, 0.4)),
    ("latent_consistency(discriminator_weight=2.0, generator_weight=9.0, deviation=0.4)", "generator",
     zcr("generator", 9.0, 0.4)),
    ("lecam", "discriminator", lecam(0.3)),
    ("lecam(weight=2.0, decay=0.6, from_step=3)", "discriminator", lecam(2.0, 0.6)),
    ("feature_matching", "generator", feature_matching(1.0)),
    ("feature_matching(weight=0.3)", "generator", feature_matching(0.3)),
    *[("historical_averaging", player, historical_averaging(1e-4)) for player in BOTH],
    *[("historical_averaging(weight=0.7)", player, historical_averaging(0.7)) for player in BOTH],
    *[("auxiliary_classifier", player, classifier(player, 1.0)) for player in BOTH],
    ("auxiliary_classifier(generator_weight=0.2)", "generator", classifier("generator", 0.2)),
    ("auxiliary_classifier(discriminator_weight=0.2, fakes=False)", "discriminator",
     classifier("discriminator", 0.2, fakes=False)),
    ("multi_hinge", "generator", multi_hinge("generator", 0.05)),
    ("multi_hinge", "discriminator", multi_hinge("discriminator", 1.0)),
    ("multi_hinge(generator_weight=2.0, discriminator_weight=3.0)", "generator", multi_hinge("generator", 2.0)),
    ("multi_hinge(generator_weight=2.0, discriminator_weight=3.0)", "discriminator",
     multi_hinge("discriminator", 3.0)),
    *[("data_to_data", player, d2d(player, 1.0)) for player in BOTH],
    ("data_to_data(discriminator_weight=3.0, temperature=0.25)", "discriminator", d2d("discriminator", 3.0, 0.25)),
    ("data_to_data(generator_weight=3.0, positive_margin=0.6, negative_margin=0.1)", "generator",
     d2d("generator", 3.0, 0.5, 0.6, 0.1)),
]  # fmt: skip

STATES = {"lecam": AVERAGES, "historical_averaging": PAST}


def term_of(text):
    return call_text("jaxgen.adversarial.terms", text, where="gan.terms")


@pytest.mark.parametrize(("text", "player", "formula"), CASES, ids=[f"{text}-{player}" for text, player, _ in CASES])
def test_a_term_by_hand(text, player, formula):
    name = text.partition("(")[0]
    term, state = term_of(text), jax.tree.map(jnp.float32, STATES.get(name, ()))
    params = jax.tree.map(jnp.float32, PARAMS)

    def loss(own):
        cost = getattr(term, player)(turn_of(jnp, {**params, player: own}, player, state))
        return cost.loss, cost

    (_, cost), gradient = jax.value_and_grad(loss, has_aux=True)(params[player])
    start = float64(PARAMS)
    frozen = turn_of(np, start, player)
    expected = formula(frozen, frozen)
    np.testing.assert_allclose(cost.loss, expected.loss, rtol=1e-4)
    assert_close(dict(cost.metrics), dict(expected.metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), cost.state, expected.state)
    slopes = slope(lambda own: formula(turn_of(np, {**start, player: own}, player), frozen).loss, start[player])
    assert_close(gradient, slopes, rtol=1e-3)
    assert max(np.abs(value) for value in slopes.values()) > 1e-6
    assert term.every_steps == 1


TURNS = {
    "auxiliary_classifier": BOTH,
    "consistency": ("discriminator",),
    "data_to_data": BOTH,
    "dragan": ("discriminator",),
    "drift": ("discriminator",),
    "feature_matching": ("generator",),
    "gradient_penalty": ("discriminator",),
    "historical_averaging": BOTH,
    "latent_consistency": BOTH,
    "lecam": ("discriminator",),
    "multi_hinge": BOTH,
    "orthogonal": ("generator",),
    "path_length": ("generator",),
    "r1": ("discriminator",),
    "r2": ("discriminator",),
}


def test_terms_are_in_the_turns_of_their_players_and_every_term_has_cases_here():
    assert set(TURNS) == set(module_names("jaxgen.adversarial.terms"))
    for name, players in TURNS.items():
        term = term_of(name)
        assert tuple(player for player in BOTH if getattr(term, player) is not None) == players, name
    assert set(TURNS) - {"orthogonal", "path_length"} == {text.partition("(")[0] for text, *_ in CASES}


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty", "dragan", "path_length"])
def test_terms_may_be_lazy(name):
    assert term_of(f"{name}(every_steps=5)").every_steps == 5


def test_what_terms_keep_starts_at_zero_or_at_the_parameters():
    assert term_of("lecam").init(PARAMS) == {"real": 0.0, "fake": 0.0}
    assert term_of("path_length").init(PARAMS) == 0.0
    start = term_of("historical_averaging").init(jax.tree.map(jnp.float32, PARAMS))
    assert start == jax.tree.map(jnp.float32, PARAMS)
    assert term_of("r1").init(PARAMS) == ()


def test_lecam_takes_averages_before_it_counts():
    turn = turn_of(jnp, jax.tree.map(jnp.float32, PARAMS), state=jax.tree.map(jnp.float32, AVERAGES))
    costs = [term_of(f"lecam(decay=0.6, from_step={step})").discriminator(turn) for step in (3, 4)]
    assert costs[0].loss > 0
    assert costs[1].loss == 0.0
    assert costs[0].state == costs[1].state


KERNELS = {"a": {"kernel": np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 0.3]]), "bias": np.array([9.0, 9.0])},
           "b": {"kernel": np.arange(8.0).reshape(2, 2, 2) / 5, "scale": np.ones((2, 2))}}  # fmt: skip


def turn_with(params):
    """A turn of other networks, whose parameters alone are looked at."""
    return turn_of(np, float64(PARAMS))._replace(params=jax.tree.map(jnp.float32, params))


@pytest.mark.parametrize(
    ("text", "chosen", "weight", "diagonal"),
    [
        ("orthogonal", ("a", "b"), 1e-4, False),
        ("orthogonal(weight=0.3, diagonal=True)", ("a", "b"), 0.3, True),
        ("orthogonal(weight=0.3, include='a/.*', players='discriminator')", ("a",), 0.3, False),
    ],
)
def test_orthogonal_regularization_by_hand(text, chosen, weight, diagonal):
    """Of every kernel's filters, its last axis; a bias has none."""
    term = term_of(text)
    of_others = jax.tree.map(lambda leaf: 0.7 * leaf + 0.1, KERNELS)
    params = {"generator": KERNELS, "discriminator": of_others}
    player = "discriminator" if "players" in text else "generator"
    assert [name for name in BOTH if getattr(term, name) is not None] == [player]
    total = 0.0
    for name in chosen:
        w = params[player][name]["kernel"].reshape(-1, 2)
        gap = w.T @ w - np.eye(2)
        total += (gap**2).sum() if diagonal else 2 * gap[0, 1] ** 2
    np.testing.assert_allclose(getattr(term, player)(turn_with(params)).loss, weight * total, rtol=1e-5)


def test_orthogonal_regularization_of_both_players_and_of_none():
    term = term_of("orthogonal(players='both', weight=1.0)")
    turn = turn_with({"generator": KERNELS, "discriminator": {"kernel": 2.0 * np.ones((1, 2))}})
    np.testing.assert_allclose(term.discriminator(turn).loss, 2 * 16.0)
    np.testing.assert_allclose(term.generator(turn).loss, term_of("orthogonal(weight=1.0)").generator(turn).loss)
    with pytest.raises(ValueError, match=r"orthogonal with include='\.\*bias', which matches no kernel"):
        term_of("orthogonal(include='.*bias')").generator(turn)


def test_images_are_mirrored_or_not_and_shifted_with_a_reflected_border():
    """Of 600 draws: half are mirrored, every shift is as frequent as every other, and each is its key's."""
    image, many = jnp.arange(24.0).reshape(4, 6, 1), jax.random.split(KEY, 600)
    images = jnp.broadcast_to(image[None], (600, *image.shape))
    seen = np.array(jax.jit(lambda own: consistency.moved(own, images, flip=True, shift=2))(many))
    padded = {flip: np.pad(np.array(image)[:, :: -1 if flip else 1], ((2, 2), (2, 2), (0, 0)), mode="reflect")
              for flip in (False, True)}  # fmt: skip
    counts = np.zeros((2, 5, 5))
    for flip, whole in padded.items():
        for i, j in np.ndindex(5, 5):
            counts[int(flip), i, j] = (seen == whole[i : i + 4, j : j + 6]).all((1, 2, 3)).sum()
    assert counts.sum() == 600
    np.testing.assert_allclose(counts.sum((1, 2)), [300, 300], atol=60)
    np.testing.assert_allclose(counts.sum((0, 1)), 120, atol=50)
    np.testing.assert_allclose(counts.sum((0, 2)), 120, atol=50)
    kept = np.array(consistency.moved(many[:4], images[:4], flip=False, shift=2))
    for one in kept:
        assert any((one == padded[False][i : i + 4, j : j + 6]).all() for i, j in np.ndindex(5, 5))
    only = np.array(consistency.moved(many[:4], images[:4], flip=True, shift=0))
    flipped = (only == np.array(image)[None, :, ::-1]).all((1, 2, 3))
    assert ((only == np.array(image)[None]).all((1, 2, 3)) | flipped).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("r1(gamma=-1.0)", r"r1's gamma is -1\.0, but must be at least 0"),
        ("r2(gamma=-1.0)", r"r2's gamma is -1\.0, but must be at least 0"),
        ("gradient_penalty(weight=-1.0)", r"gradient_penalty's weight is -1\.0, but must be at least 0"),
        ("gradient_penalty(target=0.0)", r"gradient_penalty has target=0\.0, but it must be positive"),
        ("dragan(scale=0.0)", r"dragan has scale=0\.0, but it must be positive"),
        ("dragan(weight=-2.0)", r"dragan's weight is -2\.0, but must be at least 0"),
        (
            "consistency(flip=False, shift=0)",
            r"consistency has flip=False and shift=0, but it needs a flip, or a shift",
        ),
        ("consistency(shift=-1)", r"consistency has flip=True and shift=-1, but"),
        ("consistency(real_weight=-1.0)", r"consistency's real_weight is -1\.0"),
        ("consistency(fake_weight=-1.0)", r"consistency's fake_weight is -1\.0"),
        ("latent_consistency(deviation=0.0)", r"latent_consistency has deviation=0\.0, but it must be positive"),
        ("lecam(decay=1.0)", r"lecam has decay=1\.0, but it must lie in \[0, 1\)"),
        ("data_to_data(temperature=0.0)", r"data_to_data has temperature=0\.0, but it must be positive"),
        ("path_length(decay=1.01)", r"path_length has decay=1\.01, but it must lie in \[0, 1\]"),
        ("path_length(shrink=0)", r"path_length has shrink=0, but it must be at least 1"),
        ("orthogonal(players='all')", r"players.*'all'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        term_of(text)


def test_ends_of_ranges_are_taken():
    for text in ("path_length(decay=1.0, shrink=1)", "path_length(decay=0.0)", "lecam(decay=0.0)", "r1(gamma=0.0)"):
        term_of(text)


PLAIN = {"classes": None, "embedding": None}
OF_CLASSES = r"needs gan\.class_conditional=True and a discriminator with scores of classes"


@pytest.mark.parametrize(
    ("name", "player", "without", "label", "sentence"),
    [
        *[(name, player, PLAIN, LABEL, f"{name}, which {OF_CLASSES}")
          for name in ("auxiliary_classifier", "multi_hinge", "data_to_data") for player in BOTH],
        *[(name, "discriminator", {}, None, f"{name}, which {OF_CLASSES}")
          for name in ("auxiliary_classifier", "multi_hinge", "data_to_data")],
        ("data_to_data", "generator", {"embedding": None}, LABEL, r"needs discriminator\.conditioning='cosine'"),
        ("path_length", "generator", {}, LABEL, r"path_length, which needs a generator of styles"),
        ("consistency(shift=2)", "discriminator", {}, LABEL, r"shift=2, but it must be less than the images' 2x2"),
    ],
)  # fmt: skip
def test_players_that_lack_what_a_term_needs_are_refused(name, player, without, label, sentence):
    turn = turn_of(
        jnp,
        jax.tree.map(jnp.float32, PARAMS),
        player,
        label=label,
        changed=lambda critique: critique._replace(**without),
    )
    with pytest.raises(ValueError, match=sentence):
        getattr(term_of(name), player)(turn)


def test_path_lengths_by_hand():
    """With the defaults, of every other image of a generator that is linear in its styles; the official settings."""
    matrices = np.cos(1.0 + 1.7 * np.arange(3 * 2 * 8)).reshape(3, 2, *SHAPE)  # layers, length of a style
    styled = Styled(
        lambda context, params, state, z, label, own: (jnp.tile(params["scale"] * z[:, None, :2], (1, 3, 1)), state),
        lambda params, state, ws, own: params["scale"] * jnp.einsum("bld,ldhwc->bhwc", ws, jnp.float32(matrices)),
    )
    turn = turn_of(jnp, jax.tree.map(jnp.float32, PARAMS), "generator", jnp.float32(0.7))
    part = {name: getattr(turn, name)[:4] for name in ("keys", "fake", "latents", "label")}
    cost = term_of("path_length").generator(turn._replace(styled=styled, generator_state={}, **part))
    noise = np.array(keys.normal(keys.fold_each(KEYS[:4:2], "path"), SHAPE), np.float64) / 2.0  # root of 2 x 2 pixels
    pulled = PARAMS["generator"]["scale"] * np.einsum("ldhwc,bhwc->bld", matrices, noise)
    lengths = np.sqrt((pulled**2).sum(2).mean(1))
    average = 0.7 + 0.01 * (lengths.mean() - 0.7)
    np.testing.assert_allclose(cost.loss, 2.0 * ((lengths - average) ** 2).mean(), rtol=1e-4)
    np.testing.assert_allclose(cost.state, average, rtol=1e-5)
    assert_close(dict(cost.metrics), {"path_length": lengths.mean()})
    assert term_of("path_length").every_steps == 4
