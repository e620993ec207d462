"""The training loss of consistency models, its gradient and its metrics, with every option, written out in NumPy.

The network is the formula of `formula_network`; the draws are those of `core.keys`, and nothing else is shared with the
code under test but the uniforms, which have tests of their own.
"""

import functools

import formula_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula_network import NUM_CLASSES, OF_CLASS, Recorder, assert_gradient, column, formula, gains
from scipy.special import erf
from scipy.stats import norm
from specs import data_spec, finished
from tiny_runs import train_by_sgd

from configs import consistency as consistency_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env
from jaxgen.diffusion.process import uniforms
from jaxgen.methods.denoising import consistency

SHAPE, N = (2, 3, 2), 6
SPEC = data_spec(SHAPE, NUM_CLASSES)
INDEX, LABEL = np.array([3, 0, 5, 1, 2, 4], np.int32), np.array([1, 3, 0, 2, 0, 1], np.int32)
IMAGE = np.random.default_rng(0).integers(0, 256, (N, *SHAPE)).astype(np.uint8)
X0 = IMAGE / 127.5 - 1.0
KEY = keys.root_key(11)
LOW, HIGH, DATA, HUBER = 0.02, 10.0, 0.75, 0.03
RANGE = f"sigma_min={LOW}, sigma_max={HIGH}"
NUM_STEPS, MICROBATCHES, DONE = 5, 2, 3
"""Steps of the run, microbatches of each, and steps that are done."""


@pytest.fixture(autouse=True)
def formulas(monkeypatch):
    monkeypatch.setattr(consistency, "make_network", formula_network.make_formula)


def build(env=Env(), spec=SPEC, microbatches=MICROBATCHES, **changes):
    config = consistency_config.get_config("tiny")
    train_by_sgd(config.optimizer, learning_rate=1.0, b1=0.0, schedule="constant", clip_norm=None)
    config.data.batch_size, config.train.num_steps, config.train.microbatches = N, NUM_STEPS, microbatches
    config.sampler.sigmas = ()
    own = {"sigma_min": LOW, "sigma_max": HIGH, "sigma_data": DATA, "huber": HUBER, "noise_label": "log_sigma"}
    own["label_dropout"] = 0.5 if changes.get("class_conditional", True) else 0.0
    for name, value in {**own, "curriculum": f"ect({RANGE})", **changes}.items():
        config.consistency[name] = value
    return build_model(config, spec, env)


def batch():
    arrays = {"image": IMAGE, "index": INDEX, "label": LABEL}
    return {name: jnp.asarray(x.reshape(MICROBATCHES, -1, *x.shape[1:])) for name, x in arrays.items()}


@functools.cache
def draws():
    """Uniforms, noise, factors for dropout, and which labels are hidden."""
    example_keys = keys.per_example(KEY, jnp.asarray(INDEX))
    fold = functools.partial(keys.fold_each, example_keys)
    eps, gain = keys.normal(fold("eps"), SHAPE), gains(fold("dropout"))
    u, hidden = uniforms.independent(example_keys), np.asarray(keys.bernoulli(fold("label_dropout"), 0.5))
    assert 0 < hidden.sum() < N  # of both kinds
    return *(np.asarray(x, np.float64) for x in (u, eps, gain)), hidden


def ct(u, progress):
    """Song et al. 2023, appendix C: N(k) levels, n uniform."""
    count = int(np.ceil(np.sqrt(progress * (13**2 - 2**2) + 2**2) - 1)) + 1
    levels = karras(count)
    n = np.floor(u * (count - 1)).astype(int)
    return levels[n], levels[n + 1]


def ict(u, progress):
    """Song and Dhariwal 2024, eqs. 8 to 10: N(k) levels, n log-normal."""
    count = min(3 * 2 ** int(np.floor(progress * (np.floor(np.log2(12 // 3)) + 1))), 12) + 1
    levels = karras(count)
    p = np.diff(erf((np.log(levels) + 0.5) / (np.sqrt(2) * 1.5)))
    n = np.searchsorted(np.cumsum(p / p.sum()), u, side="right")
    return levels[n], levels[n + 1]


def ect(u, progress):
    """Geng et al. 2024, eq. 12: t log-normal, r a ratio of it."""
    t = np.clip(np.exp(-0.2 + 1.4 * norm.ppf(u)), 2 * LOW, HIGH)
    stage = 1 + min(np.floor(progress * 4), 3)
    ratio = 1 - (1 + 2.0 / (1 + np.exp(0.5 * t))) / 2.0**stage
    return np.maximum(ratio * t, LOW), t


def karras(count):
    steps = np.arange(count) / (count - 1)
    return (LOW ** (1 / 7) + steps * (HIGH ** (1 / 7) - LOW ** (1 / 7))) ** 7


CURRICULA = {
    "ct": (f"ct({RANGE}, start=2, end=12)", ct),
    "ict": (f"ict({RANGE}, start=3, end=12, mean=-0.5, std=1.5)", ict),
    "ect": (f"ect({RANGE}, stages=4, k=2.0, b=0.5, mean=-0.2, std=1.4)", ect),
}
WEIGHTS = {
    "uniform": lambda r, t: np.ones(len(t)),
    "inverse_step": lambda r, t: 1 / (t - r),  # Song and Dhariwal 2024, section 3.1
    "edm": lambda r, t: 1 / t**2 + 1 / DATA**2,  # Geng et al. 2024
}


def pairs(curriculum, done=DONE):
    """The levels r and t of both microbatches, which are as far along."""
    return curriculum(draws()[0], done / NUM_STEPS)


LABELS = {
    "log_sigma": lambda sigma: np.log(sigma) / 4,
    "time(scale=5.0)": lambda sigma: 5 * (sigma ** (1 / 7) - LOW ** (1 / 7)) / (HIGH ** (1 / 7) - LOW ** (1 / 7)),
}


def start(params, x, sigma, of_class, gain, noise_label):
    """f(x, sigma) of Song et al. 2023, appendix C."""
    c_skip = DATA**2 / ((sigma - LOW) ** 2 + DATA**2)
    c_out = DATA * (sigma - LOW) / np.sqrt(sigma**2 + DATA**2)
    seen = x / column(np.sqrt(sigma**2 + DATA**2))
    f = formula(params["network"], seen, LABELS[noise_label](sigma), of_class, gain=gain, outputs=2)
    return column(c_skip) * x + column(c_out) * f


def written_out(params, target_params, r, t, weighting, x_r=None, of_class=None, noise_label="log_sigma"):
    """The loss, and the mean squared difference."""
    _, eps, gain, hidden = draws()
    of_class = OF_CLASS[np.where(hidden, NUM_CLASSES, LABEL)] if of_class is None else of_class
    x_t = X0 + column(t) * eps
    x_r = X0 + column(r) * eps if x_r is None else x_r
    of_both = (of_class, gain, noise_label)
    difference = start(params, x_t, t, *of_both) - start(target_params, x_r, r, *of_both)
    c = HUBER * np.sqrt(12)
    huber = np.sqrt(np.sum(difference**2, axis=(1, 2, 3)) + c**2) - c  # Song and Dhariwal 2024, eq. 7
    return np.mean(WEIGHTS[weighting](r, t) * huber), np.mean(difference**2)


def update(model, done=DONE, frozen=()):
    """The parameters before an update, the gradient, and the metrics."""
    before = model.init(keys.root_key(0), batch(), frozen)
    assert before.model_state == {}
    before = before._replace(step=jnp.int32(done))
    assert model.microbatches == MICROBATCHES
    after, metrics = jax.jit(model.update)(KEY, before, batch())
    gradient = jax.tree.map(lambda old, new: np.asarray(old - new), before.params, after.params)
    return jax.tree.map(np.asarray, before.params), gradient, metrics


def assert_metrics(metrics, loss, error, r, t):
    assert set(metrics) == {"loss", "grad_norm", "consistency_error", "relative_step"}
    np.testing.assert_allclose(metrics["loss"], loss, rtol=5e-4)
    np.testing.assert_allclose(metrics["consistency_error"], error, rtol=5e-4)
    np.testing.assert_allclose(metrics["relative_step"], np.mean(1 - r / t), rtol=5e-4)


@pytest.mark.parametrize(("name", "weighting", "noise_label"), [
    ("ct", "uniform", "time(scale=5.0)"),
    ("ict", "inverse_step", "log_sigma"),
    ("ect", "edm", "log_sigma"),
])  # fmt: skip
def test_the_loss_from_scratch(name, weighting, noise_label):
    text, curriculum = CURRICULA[name]
    params, gradient, metrics = update(build(curriculum=text, weighting=weighting, noise_label=noise_label))
    r, t = pairs(curriculum)
    assert_metrics(metrics, *written_out(params, params, r, t, weighting, noise_label=noise_label), r, t)
    assert_gradient(gradient, lambda p: written_out(p, params, r, t, weighting, noise_label=noise_label)[0], params)


def test_an_unconditional_model_sees_no_class():
    text, curriculum = CURRICULA["ect"]
    params, _, metrics = update(build(curriculum=text, class_conditional=False), done=0)
    r, t = pairs(curriculum, done=0)
    assert_metrics(metrics, *written_out(params, params, r, t, "inverse_step", of_class=np.zeros(N)), r, t)


def teach(variables, x, sigma, cond=None, xp=jnp):
    """A teacher's denoiser, which depends on all that it is given; without a label, on none."""
    shift = 0.4 * sigma / (1.0 + sigma)
    if cond:
        shift = shift + xp.asarray(OF_CLASS)[cond["label"]]
    return variables["gain"] * xp.tanh(x) + column(shift)


def heun(denoise, x, t, r):
    """Karras et al. 2022, algorithm 1, without churn: one step of dx/dsigma = (x - D(x, sigma)) / sigma."""
    d = (x - denoise(x, t)) / column(t)
    euler = x + column(r - t) * d
    return x + column(r - t) * 0.5 * (d + (euler - denoise(euler, r)) / column(r))


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"label_dropout": -0.1}, r"label_dropout is -0\.1, but must lie in \[0, 1\]"),
    ({"huber": 0.0}, r"huber is 0\.0, but must be positive"),
    ({"teacher_guidance": 2.0}, r"teacher_guidance is 2\.0, but has no effect without a frozen\.teacher"),
])  # fmt: skip
def test_settings_that_would_do_nothing_or_harm_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**changes)


def test_guidance_of_a_teacher_without_classes_is_refused():
    env = Env(frozen={"teacher": finished(teach, SHAPE, sigma_data=DATA)})
    with pytest.raises(ValueError, match=r"guidance is 2\.0, but the teacher is not told the class"):
        build(env, teacher_guidance=2.0)
    with pytest.raises(
        ValueError, match=r"teacher_guidance is 2\.0, but has no effect without .*class_conditional=True"
    ):
        build(env, teacher_guidance=2.0, class_conditional=False)


@pytest.mark.parametrize("conditional", [True, False])
def test_distillation_takes_a_heun_step_of_the_guided_teacher(conditional):
    text, curriculum = CURRICULA["ict"]
    student = {"a": np.array([0.3, -0.8], np.float32), "b": np.float32(-0.6)}
    variables = {"gain": np.float32(0.6), "network": student}
    teacher = finished(teach, SHAPE, NUM_CLASSES if conditional else 0, sigma_data=DATA)
    changes = {"curriculum": text, "teacher_guidance": 2.5 if conditional else 1.0}
    model = build(Env(frozen={"teacher": teacher}), **changes)
    params, gradient, metrics = update(model, frozen={"teacher": variables})
    jax.tree.map(np.testing.assert_array_equal, params, {"network": student})
    r, t = pairs(curriculum)
    _, eps, _, hidden = draws()
    label = np.where(hidden, NUM_CLASSES, LABEL)

    def denoise(x, sigma):
        if not conditional:
            return teach(variables, x, sigma, xp=np)
        null, of_label = (teach(variables, x, sigma, {"label": y}, xp=np) for y in (np.full(N, NUM_CLASSES), label))
        return null + 2.5 * (of_label - null)

    x_r = heun(denoise, X0 + column(t) * eps, t, r)
    assert_metrics(metrics, *written_out(params, params, r, t, "inverse_step", x_r), r, t)
    assert_gradient(gradient, lambda p: written_out(p, params, r, t, "inverse_step", x_r)[0], params)


def test_labels_are_hidden_at_their_rate_whatever_the_noise_and_alike_for_both_levels(monkeypatch):
    seen, n = [], 4000
    monkeypatch.setattr(
        consistency, "make_network", lambda *args, out_channels, **rest: Recorder(seen.append, out_channels)
    )
    model = build(spec=data_spec((1, 1, 1), NUM_CLASSES), microbatches=1, label_dropout=0.3)
    label = np.arange(n) % 4
    arrays = {"image": np.full((n, 1, 1, 1), 200, np.uint8), "index": np.arange(n), "label": label}
    data = {name: jnp.asarray(x[None]) for name, x in arrays.items()}
    jax.block_until_ready(jax.jit(model.update)(KEY, model.init(keys.root_key(0), data), data))
    jax.effects_barrier()
    (_, noise_label, labels), (_, other_noise_label, other_labels) = seen
    np.testing.assert_array_equal(labels, other_labels)
    hidden, bound = labels == NUM_CLASSES, 4 / np.sqrt(n)
    np.testing.assert_array_equal(labels[~hidden], label[~hidden])
    assert abs(hidden.mean() - 0.3) < bound * np.sqrt(0.21)
    for fact in (noise_label, other_noise_label, label):
        assert abs(np.corrcoef(hidden, fact)[0, 1]) < bound
