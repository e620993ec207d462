"""Masked models: the loss and the bound by hand with a network that is a formula, decoding, and refusals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from specs import data_spec

from configs import maskgit
from jaxgen.autoregressive import masking
from jaxgen.core import keys
from jaxgen.core.contract import Context, Env
from jaxgen.methods.autoregressive import masked

KEY = keys.root_key(0)
LEVELS, TOKENS, CLASSES = 3, 3, 2
SPEC = data_spec((1, 3, 1), CLASSES, levels=LEVELS)
OF_PLACE = np.array([[0.3, -0.5, 0.1], [0.0, 0.4, -0.2], [0.7, 0.2, -0.6]], np.float32)
OF_CLASS = np.array([[1.0, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 0.0]], np.float32)  # the last is the null class


class FormulaNetwork(nn.Module):
    """Logits of a place: a table's, plus those of the mean of what is seen, its number, and the class."""

    vocabulary: int
    num_classes: int = 0
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens, label=None, *, train, dropout_keys=None):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * formula(jnp, tokens, label)


def formula(np_, tokens, label):
    seen = tokens != LEVELS
    number = seen.sum(-1, keepdims=True)
    total = np_.where(seen, tokens, 0).sum(-1, keepdims=True)
    drive = (total + 0.5 * number)[:, :, None] * np.array([0.2, -0.3, 0.4], np.float32)[None, None]
    of_class = OF_CLASS[np.full(len(tokens), CLASSES)] if label is None else np_.asarray(OF_CLASS)[label]
    return OF_PLACE[None] + drive + of_class[:, None]


def config_of(**sections):
    config = maskgit.get_config("tiny")
    config.model = {"dropout": 0.0}
    config.masked.update({"schedule": "linear", "label_dropout": 0.0, "likelihood_passes": TOKENS})
    config.sampler.update({"num_steps": 2, "guidance_scale": 1.0})
    for name, settings in sections.items():
        config[name].update(settings)
    return config


def make(spec=SPEC, **sections):
    return masked.make(config_of(**sections), spec, Env())


@pytest.fixture(autouse=True)
def formula_network(monkeypatch):
    monkeypatch.setattr(masked, "MaskedTransformer", FormulaNetwork)


def image_of(tokens):
    return (np.asarray(tokens, np.float32) - 1.0).reshape(-1, 1, 3, 1)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def in_order(tokens, order, label):
    """The log-probability of tokens, decided one by one in an order."""
    total, known = 0.0, np.full(TOKENS, LEVELS)
    for place in order:
        total += log_softmax(formula(np, known[None], np.array([label])))[0, place, tokens[place]]
        known[place] = tokens[place]
    return total


PARAMS = {"scale": jnp.float32(1.0)}
ALL = np.array(list(itertools.product(range(LEVELS), repeat=TOKENS)))
ORDERS = list(itertools.permutations(range(TOKENS)))


def test_the_bound_is_the_mean_over_orders_which_is_below_the_likelihood_of_their_mixture():
    label = np.arange(len(ALL)) % CLASSES
    by_order = np.array(
        [[in_order(tokens, order, c) for order in ORDERS] for tokens, c in zip(ALL, label, strict=True)]
    )
    exact, bound = np.log(np.exp(by_order).mean(1)), by_order.mean(1)
    every = np.array([[np.exp(in_order(tokens, order, 0)) for order in ORDERS] for tokens in ALL])
    np.testing.assert_allclose(every.mean(1).sum(), 1.0, rtol=1e-6)  # over all images of a class
    draws = 400

    def estimates(model):
        def one(key):
            own_keys = keys.per_example(key, jnp.arange(len(ALL)))
            return model.log_prob(own_keys, PARAMS, jnp.asarray(image_of(ALL)), {"label": jnp.asarray(label)})

        return np.asarray(jax.jit(lambda: jax.lax.map(one, jax.random.split(KEY, draws)))())

    assert make().spec.likelihood == "lower_bound"
    deviations = []
    for passes in (TOKENS, 1):  # each number of masked tokens once, or any one of them
        found = estimates(make(masked={"likelihood_passes": passes}))
        deviations.append(found.std(0))
        assert (np.abs(found.mean(0) - bound) < 5.0 * found.std(0) / math.sqrt(draws) + 1e-5).all()
    assert np.mean(deviations[1]) > 1.2 * np.mean(deviations[0])
    assert (bound <= exact + 1e-9).all()
    assert (exact - bound).max() > 0.01


def test_the_loss_is_the_cross_entropy_of_masked_tokens_by_hand():
    model = make(masked={"label_smoothing": 0.3, "schedule": "cosine"})
    tokens, label = ALL[[5, 14, 22, 7]], np.array([0, 1, 1, 0])
    index = jnp.array([3, 1, 0, 7])
    batch = {"image": jnp.asarray(image_of(tokens)), "index": index, "label": jnp.asarray(label)}
    loss, (_, metrics) = jax.jit(lambda: model.objective(Context(KEY, jnp.zeros((), jnp.int32)), PARAMS, {}, batch))()
    example_keys = keys.per_example(KEY, index)
    losses, entropies, hits = [], [], []
    for i, key in enumerate(example_keys):
        progress = float(jax.random.uniform(keys.stream(key, "progress")))
        number = math.ceil(math.cos(progress * math.pi / 2) * TOKENS)
        scores = np.asarray(jax.random.uniform(keys.stream(key, "mask"), (TOKENS,)))
        mask = np.isin(np.arange(TOKENS), np.argsort(scores)[:number])
        logits = log_softmax(formula(np, np.where(mask, LEVELS, tokens[i])[None], label[i : i + 1]))[0]
        nats = -logits[np.arange(TOKENS), tokens[i]]
        losses.append((0.7 * nats - 0.3 * logits.mean(-1))[mask].mean())
        entropies.append(nats[mask].mean())
        hits.append((logits.argmax(-1) == tokens[i])[mask].mean())
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/cross_entropy"], np.mean(entropies), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(hits), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_numbers_of_masked_tokens_in_training(schedule):
    """By `linear` each number is as likely; by `cosine` a number m is from acos(m / 3) to acos((m - 1) / 3)."""
    progress = (np.arange(3000) + 0.5) / 3000
    part = np.asarray(masking.masked_part(schedule, jnp.asarray(progress)))
    expected = {"cosine": np.cos(progress * np.pi / 2), "linear": 1.0 - progress}[schedule]
    np.testing.assert_allclose(part, expected, atol=1e-6)
    limits = {"cosine": np.arccos(np.arange(4) / 3) * 2 / np.pi, "linear": 1.0 - np.arange(4) / 3}[schedule]
    np.testing.assert_allclose(np.bincount(np.ceil(part * 3).astype(int))[1:] / 3000, -np.diff(limits), atol=2e-3)


def test_labels_are_dropped_at_their_rate():
    model = make(masked={"label_dropout": 1.0, "schedule": "linear"}, sampler={"guidance_scale": 1.0})
    assert model.spec.conditioning["label"].null
    batch = {"image": jnp.asarray(image_of(ALL)), "index": jnp.arange(len(ALL))}
    told, untold = (
        model.objective(Context(KEY, jnp.zeros((), jnp.int32)), PARAMS, {}, {**batch, "label": jnp.full(len(ALL), c)})[
            0
        ]
        for c in (0, 1)
    )
    np.testing.assert_allclose(told, untold)


@pytest.mark.parametrize(
    ("schedule", "steps", "tokens", "expected"),
    [
        ("cosine", 4, 16, [14, 11, 6, 0]),  # 16 cos(pi / 2 (1/4, 2/4, 3/4)) = 14.8, 11.3, 6.1
        ("linear", 4, 16, [12, 8, 4, 0]),
        ("cosine", 1, 5, [0]),
        ("cosine", 5, 5, [4, 3, 2, 1, 0]),  # one at a time
        ("linear", 3, 4, [2, 1, 0]),
        ("linear", 5, 10, [8, 6, 4, 2, 0]),  # exactly, where 1 - 3/5 is a little less than 4/10
    ],
)
def test_numbers_of_masked_tokens_after_each_step(schedule, steps, tokens, expected):
    np.testing.assert_array_equal(masking.masked_after_steps(schedule, steps, tokens), expected)


COUNT = 6_000
SAMPLE_KEYS = keys.per_example(KEY, jnp.arange(COUNT))


def frequencies(model, label=0):
    """How often each image is drawn, in the order of `ALL`."""
    cond = {"label": jnp.full(COUNT, label)}
    drawn = np.asarray(jax.jit(model.sample)(SAMPLE_KEYS, PARAMS, cond)).reshape(COUNT, TOKENS)
    tokens = np.rint(drawn + 1.0).astype(int)
    np.testing.assert_allclose(drawn, tokens - 1.0, atol=1e-6)
    return np.bincount(tokens @ [9, 3, 1], minlength=27) / COUNT


def assert_frequencies(found, expected):
    np.testing.assert_allclose(expected.sum(), 1.0, rtol=1e-5)
    np.testing.assert_array_less(np.abs(found - expected), 5.0 * np.sqrt(expected / COUNT) + 1e-3)


def test_one_token_at_a_time_in_random_order_draws_from_the_mixture_of_orders():
    model = make(sampler={"num_steps": TOKENS, "order": "random"})
    expected = np.exp([[in_order(tokens, order, 1) for order in ORDERS] for tokens in ALL]).mean(1)
    assert_frequencies(frequencies(model, 1), expected)


def independent(logits):
    """Probabilities of all images if every token is drawn alone from logits [places, levels]."""
    log_probs = log_softmax(logits)
    return np.exp([log_probs[np.arange(TOKENS), tokens].sum() for tokens in ALL])


ONE = {"num_steps": 1, "schedule": "cosine"}
NOTHING = np.full((1, TOKENS), LEVELS)


def test_one_step_draws_all_tokens_alone_by_temperature_and_guidance():
    logits, null = formula(np, NOTHING, np.array([1]))[0], formula(np, NOTHING, None)[0]
    assert_frequencies(frequencies(make(sampler=ONE), 1), independent(logits))
    assert_frequencies(frequencies(make(sampler={**ONE, "temperature": 0.5}), 1), independent(logits / 0.5))
    guided = make(masked={"label_dropout": 0.1}, sampler={**ONE, "guidance_scale": 2.5})
    assert_frequencies(frequencies(guided, 1), independent(null + 2.5 * (logits - null)))


def test_the_tokens_of_the_largest_confidence_are_decided_first():
    """Two steps of linear schedule: after the first, one of three tokens is masked: the least probable draw."""
    model = make(sampler={"num_steps": 2, "schedule": "linear", "choice_temperature": 0.0})
    first, expected = log_softmax(formula(np, NOTHING, np.array([0]))[0]), np.zeros(27)
    for drawn in ALL:
        confidence = first[np.arange(TOKENS), drawn]
        last = confidence.argmin()
        known = np.where(np.arange(TOKENS) == last, LEVELS, drawn)
        second = np.exp(log_softmax(formula(np, known[None], np.array([0]))[0, last]))
        for level in range(LEVELS):
            whole = np.where(np.arange(TOKENS) == last, level, drawn)
            expected[whole @ [9, 3, 1]] += np.exp(confidence.sum()) * second[level]
    cold = frequencies(model)
    assert_frequencies(cold, expected)
    hot = frequencies(make(sampler={"num_steps": 2, "schedule": "linear", "choice_temperature": 1e6}))
    any_order = frequencies(make(sampler={"num_steps": 2, "schedule": "linear", "order": "random"}))
    assert np.abs(hot - any_order).sum() < 0.12
    assert np.abs(hot - cold).sum() > 0.12


def test_three_steps_by_hand():
    """The temperature is that of draws, not of confidences; their noise is 2/3 of the first, then 1/3, then none."""
    count, label = 200, np.arange(200) % CLASSES
    sampler = {"num_steps": TOKENS, "schedule": "linear", "temperature": 0.6, "choice_temperature": 1.5}
    found = jax.jit(make(sampler=sampler).sample)(SAMPLE_KEYS[:count], PARAMS, {"label": jnp.asarray(label)})
    tokens = np.full((count, TOKENS), LEVELS)
    for step, left in enumerate((2, 1, 0)):
        own = keys.fold_each(SAMPLE_KEYS[:count], step)
        logits = formula(np, tokens, label)
        drawn = jax.vmap(jax.random.categorical)(keys.fold_each(own, "token"), jnp.float32(logits / 0.6))
        proposed = np.where(tokens == LEVELS, drawn, tokens)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (TOKENS,)))(keys.fold_each(own, "choice"))
        confidence = np.take_along_axis(log_softmax(logits), proposed[..., None], axis=-1)[..., 0]
        heat = 1.5 * (1 - (step + 1) / TOKENS)
        confidence = np.where(tokens == LEVELS, confidence + heat * np.asarray(noise), np.inf)
        np.put_along_axis(proposed, np.argsort(confidence, axis=1)[:, :left], LEVELS, axis=1)
        tokens = proposed
    np.testing.assert_array_equal(np.rint(np.asarray(found).reshape(count, TOKENS) + 1.0), tokens)


def test_the_passes_of_a_bound_by_hand():
    """Numbers of masked tokens are spread evenly from one random start; each pass has a mask of its own."""
    tokens, label, own_keys = ALL[[5, 14, 22, 7]], np.array([0, 1, 1, 0]), SAMPLE_KEYS[:4]
    model = make(masked={"likelihood_passes": 2})
    found = model.log_prob(own_keys, PARAMS, jnp.asarray(image_of(tokens)), {"label": jnp.asarray(label)})
    start, total = np.asarray(keys.uniform(keys.fold_each(own_keys, "progress"))), np.zeros(4)
    for i in range(2):
        number = 1 + np.floor((i + start) / 2 * TOKENS)
        scores = np.asarray(keys.uniform(keys.fold_each(keys.fold_each(own_keys, "mask"), i), (TOKENS,)))
        mask = scores.argsort(axis=1).argsort(axis=1) < number[:, None]
        log_probs = log_softmax(formula(np, np.where(mask, LEVELS, tokens), label))
        chosen = np.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
        total += (chosen * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(found, TOKENS * total / 2, rtol=1e-5)


def test_defaults_and_the_type_of_the_computation():
    assert masked.Settings() == ("cosine", 0.0, False, 0.0, 0)
    assert masked.SamplerSettings() == (8, "cosine", "confidence", 1.0, 4.5, 1.0)
    config = config_of()
    config.train.compute_dtype = "bfloat16"
    network = masked._model(config, masked.Settings(class_conditional=True), SPEC).network
    assert network == FormulaNetwork(LEVELS, CLASSES, dtype="bfloat16")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"masked": {"label_smoothing": 1.0}}, r"masked\.label_smoothing is 1\.0, but must lie in \[0, 1\)"),
        ({"masked": {"label_dropout": 1.5}}, r"masked\.label_dropout is 1\.5, but must lie in \[0, 1\]"),
        ({"masked": {"likelihood_passes": -1}}, r"masked\.likelihood_passes is -1, but must be at least 0"),
        ({"masked": {"schedule": "sine"}}, r"masked\.schedule is 'sine', but must be of type"),
        (
            {"masked": {"class_conditional": False, "label_dropout": 0.1}},
            r"masked\.label_dropout is 0\.1, but has no effect without masked\.class_conditional=True",
        ),
        ({"sampler": {"num_steps": 4}}, r"sampler\.num_steps is 4, but must lie in \[1, 3\]"),
        ({"sampler": {"num_steps": 0}}, r"sampler\.num_steps is 0, but must lie in \[1, 3\]"),
        ({"sampler": {"temperature": 0.0}}, r"sampler\.temperature is 0\.0, but must be positive"),
        ({"sampler": {"choice_temperature": -1.0}}, r"sampler\.choice_temperature is -1\.0, but must be at least 0"),
        ({"sampler": {"guidance_scale": 2.0}}, r"guidance_scale is 2\.0, but the model is not trained without classes"),
        (
            {"sampler": {"order": "random", "choice_temperature": 1.0}},
            r"sampler\.choice_temperature is 1\.0, but has no effect without sampler\.order=confidence",
        ),
        ({"sampler": {"num_steps": 1, "schedule": "linear"}}, r"sampler\.schedule is 'linear', but has no effect with"),
        (
            {"sampler": {"num_steps": 1, "schedule": "cosine", "order": "random"}},
            r"sampler\.order is 'random', but has",
        ),
        (
            {"sampler": {"num_steps": 1, "schedule": "cosine", "choice_temperature": 1.0}},
            r"choice_temperature is 1\.0, b",
        ),
    ],
)
def test_refusals(sections, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**sections)


def test_real_numbers_are_refused_and_images_without_classes_too():
    with pytest.raises(ValueError, match="predicts levels or codes, but these latents are real numbers"):
        make(SPEC._replace(continuous=True))
    with pytest.raises(ValueError, match=r"masked\.class_conditional is True, but the data has no classes"):
        make(data_spec((1, 3, 1), levels=LEVELS))
    model = make(data_spec((1, 3, 1), levels=LEVELS), masked={"class_conditional": False, "likelihood_passes": 0})
    assert (model.log_prob, model.spec.likelihood, dict(model.spec.conditioning)) == (None, None, {})
