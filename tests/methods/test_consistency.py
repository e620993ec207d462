"""Consistency models with a network that is a formula: losses by hand, from scratch and by distillation; samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from specs import data_spec, finished

from configs import consistency as consistency_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.conditioning import classes
from jaxgen.core.contract import Context, Env, ModelSpec
from jaxgen.methods.denoising import consistency

DIGITS = data_spec((8, 8, 1), 10)
EXAMPLE_KEYS = keys.per_example(keys.root_key(7), jnp.arange(6))
A, B, C = 0.7, -0.2, 0.3
DATA, LOW = 0.75, 0.01
T, R = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 9.0]), np.array([0.1, 0.9, 1.0, 2.0, 4.0, 0.01])


class Formula(nn.Module):
    """A c_in x + B ln(sigma) + C [no class]; learns A."""

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        assert train == (dropout_keys is not None)
        a = self.param("a", lambda key: jnp.float32(A))
        label = jnp.full(len(x), 10) if label is None else label
        return a * x + (B * noise_label + C * (label == 10))[:, None, None, None]


PARAMS = {"network": {"a": jnp.float32(A)}}


def process(**settings):
    names = {"sigma_min": LOW, "sigma_max": 10.0, "sigma_data": DATA, "class_conditional": True, "huber": 0.01}
    return consistency.ConsistencyModel(
        Formula(),
        consistency.Settings(**{**names, **settings}),
        lambda u, progress: (jnp.float32(R) + 0.0 * u, jnp.float32(T)),
        lambda schedule, sigma: jnp.log(sigma),
        {"label": classes(10, null=True)},
    )


def objective_of(model, ode_step=consistency.data_step, num_steps=100, step=3, frozen=()):
    """The objective at a step, as a function of the parameters and the batch."""
    objective = consistency._objective(model, ode_step, num_steps)
    return lambda params, batch: objective(Context(keys.root_key(7), jnp.int32(step), frozen=frozen), params, {}, batch)


def batch():
    images = jax.random.uniform(jax.random.key(3), (6, 8, 8, 1), minval=-1.0)
    return {"image": images, "index": jnp.arange(6), "label": jnp.arange(6)}


def column(values):
    return np.asarray(values)[:, None, None, None]


def start(x, sigma, null=0.0):
    """f(x, sigma) of Song et al. 2023, appendix C."""
    sigma = column(sigma)
    f = A * x / np.sqrt(sigma**2 + DATA**2) + B * np.log(sigma) + C * null
    c_skip = DATA**2 / ((sigma - LOW) ** 2 + DATA**2)
    return c_skip * x + DATA * (sigma - LOW) / np.sqrt(sigma**2 + DATA**2) * f


def drawn():
    eps = np.asarray(keys.normal(keys.fold_each(EXAMPLE_KEYS, "eps"), (8, 8, 1)))
    return eps, np.asarray(batch()["image"])


def huber(difference, c):
    return np.sqrt(np.sum(difference**2, axis=(1, 2, 3)) + c**2) - c


@pytest.mark.parametrize(("weighting", "weight"), [
    ("uniform", np.ones(6)),
    ("inverse_step", 1.0 / (T - R)),
    ("edm", T**-2 + DATA**-2),
])  # fmt: skip
def test_the_loss_from_scratch_compares_two_points_with_the_same_noise(weighting, weight):
    eps, x0 = drawn()
    difference = start(x0 + column(T) * eps, T) - start(x0 + column(R) * eps, R)
    loss, (model_state, metrics) = jax.jit(objective_of(process(weighting=weighting)))(PARAMS, batch())
    np.testing.assert_allclose(loss, np.mean(weight * huber(difference, c=0.01 * 8)), rtol=1e-4)
    np.testing.assert_allclose(metrics["relative_step"], np.mean(1.0 - R / T), rtol=1e-4)
    assert model_state == {}


def test_dropped_labels_and_the_start_of_the_path():
    eps, x0 = drawn()
    loss, _ = jax.jit(objective_of(process(label_dropout=1.0)))(PARAMS, batch())
    difference = start(x0 + column(T) * eps, T, 1.0) - start(x0 + column(R) * eps, R, 1.0)
    np.testing.assert_allclose(loss, np.mean(huber(difference, c=0.01 * 8) / (T - R)), rtol=1e-4)
    np.testing.assert_array_equal(jax.jit(process().__call__)(PARAMS, batch()["image"], jnp.full(6, LOW), {}), x0)


def test_no_gradient_goes_through_the_less_noisy_point():
    eps, x0 = drawn()
    x_t = x0 + column(T) * eps
    difference = start(x_t, T) - start(x0 + column(R) * eps, R)
    objective = objective_of(process(weighting="uniform"))
    gradient = jax.jit(jax.grad(lambda params: objective(params, batch())[0]))(PARAMS)
    slope = column(DATA * (T - LOW) / (T**2 + DATA**2)) * x_t  # df(x_t, t) / dA
    unit = difference / column(huber(difference, 0.08) + 0.08)
    np.testing.assert_allclose(gradient["network"]["a"], np.mean(np.sum(unit * slope, axis=(1, 2, 3))), rtol=1e-4)


def test_distillation_goes_along_the_path_of_its_teacher():
    eps, x0 = drawn()

    def denoise(variables, x, sigma, cond=None):
        return variables * jnp.ones_like(x) * (cond["label"] == 10)[:, None, None, None]

    # Guided, the classes' point 0 and the null token's 0.5 give 0.5 + 3 (0 - 0.5): the paths to it are straight.
    step = consistency.teacher_step(finished(denoise, (8, 8, 1), 10), 3.0)
    objective = objective_of(process(), step, frozen={"teacher": jnp.float32(0.5)})
    loss, _ = jax.jit(objective)(PARAMS, batch())
    x_t = x0 + column(T) * eps
    difference = start(x_t, T) - start(-1.0 + column(R / T) * (x_t + 1.0), R)
    np.testing.assert_allclose(loss, np.mean(huber(difference, c=0.01 * 8) / (T - R)), rtol=1e-4)


def test_the_curriculum_follows_the_updates():
    def curriculum(u, progress):
        return progress * jnp.float32(T) + 0.0 * u, jnp.float32(T)

    model, steps = process()._replace(curriculum=curriculum), []
    for step in (1, 2, 3):
        _, (_, metrics) = jax.jit(objective_of(model, num_steps=8, step=step))(PARAMS, batch())
        steps.append(metrics["relative_step"])
    np.testing.assert_allclose(steps, [1 - 1 / 8, 1 - 2 / 8, 1 - 3 / 8], rtol=1e-5)


def test_samples_are_the_starts_of_paths_through_new_noise(monkeypatch):
    monkeypatch.setattr(consistency, "make_network", lambda *args, **kwargs: Formula())
    changes = {"sigma_min": LOW, "sigma_max": 10.0, "sigma_data": DATA, "noise_label": "log_sigma(scale=1.0)"}
    changes["curriculum"] = f"ect(sigma_min={LOW}, sigma_max=10.0)"
    config = tiny(sampler__sigmas=(2.0,), **{f"consistency__{key}": value for key, value in changes.items()})
    image_keys, label = keys.per_example(jax.random.key(1), jnp.arange(3)), jnp.array([4, 0, 10])
    images = jax.jit(build_model(config, DIGITS).sample)(image_keys, PARAMS, {"label": label})
    first = 10.0 * np.asarray(keys.normal(keys.fold_each(image_keys, "initial_noise"), (8, 8, 1)))
    null = column([0.0, 0.0, 1.0])
    x = np.clip(start(first, np.full(3, 10.0), null), -1.0, 1.0)
    noise = np.asarray(keys.normal(keys.fold_each(image_keys, 1), (8, 8, 1)))
    x = start(x + np.sqrt(2.0**2 - LOW**2) * noise, np.full(3, 2.0), null)
    np.testing.assert_allclose(images, np.clip(x, -1.0, 1.0), atol=1e-4)


def whole_batch():
    images = jnp.zeros((1, 2, 8, 8, 1), jnp.uint8)
    return {"image": images, "index": jnp.arange(2)[None], "label": jnp.arange(2)[None]}


def tiny(**changes):
    config = consistency_config.get_config("tiny")
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"consistency__curriculum": "slow"}, "consistency.curriculum is 'slow'"),
    ({"consistency__weighting": "snr"}, "consistency.weighting is 'snr'"),
    ({"consistency__sigma_max": 50.0}, r"sigma_max=50.0, but consistency.curriculum=ect\(.*\) sigma_max=40.0"),
    ({"consistency__curriculum": "ct"}, r"sigma_max=40.0, but consistency.curriculum=ct sigma_max=80.0"),
    ({"consistency__sigma_min": 0.01}, r"sigma_min=0.01, but consistency.curriculum=ect\(.*\) sigma_min=0.002"),
    ({"consistency__sigma_data": 0.0}, r"sigma_data=0.0, but it must be positive"),
    ({"sampler__sigmas": (0.5, 1.0)}, "must descend"),
    ({"sampler__sigmas": (100.0,)}, "must descend"),
])  # fmt: skip
def test_settings_are_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model(tiny(**changes), DIGITS)


def test_a_student_starts_with_its_teachers_weights():
    first = build_model(tiny(), DIGITS)
    weights = first.init(keys.root_key(5), whole_batch()).params
    frozen = {"teacher": weights}
    student = build_model(tiny(), DIGITS, Env(frozen={"teacher": teacher()}))
    state = student.init(keys.root_key(0), whole_batch(), frozen)
    jax.tree.map(np.testing.assert_array_equal, state.params, weights)
    own = tiny(consistency__start_from_teacher=False)
    other = build_model(own, DIGITS, Env(frozen={"teacher": teacher()})).init(keys.root_key(0), whole_batch(), frozen)
    assert not np.array_equal(other.params["network"]["conv_in"]["kernel"], weights["network"]["conv_in"]["kernel"])
    preconditioned = Env(frozen={"teacher": teacher(sigma_data=0.5)})
    with pytest.raises(ValueError, match=r"sigma_data=0\.75, but the teacher.* sigma_data=0\.5"):
        build_model(tiny(), DIGITS, preconditioned)
    build_model(own, DIGITS, preconditioned)  # whose denoiser alone is asked
    build_model(tiny(), DIGITS, Env(frozen={"teacher": teacher(sigma_data=0.75)}))
    assert first.spec.sigma_data == 0.75
    wider = build_model(tiny(model__base_channels=16), DIGITS, Env(frozen={"teacher": teacher()}))
    with pytest.raises(ValueError, match="another than the student's"):
        wider.init(keys.root_key(0), whole_batch(), frozen)


def teacher(num_classes=10, null=True, **more):
    model = finished(lambda variables, x, sigma, cond=None: x, (8, 8, 1), num_classes, **more)
    conditioning = {name: condition._replace(null=null) for name, condition in model.spec.conditioning.items()}
    return model._replace(spec=model.spec._replace(conditioning=conditioning))


def test_teachers_that_cannot_teach_and_missing_classes_are_refused():
    with pytest.raises(ValueError, match="Distillation needs a model with denoise"):
        build_model(tiny(), DIGITS, Env(frozen={"teacher": teacher()._replace(denoise=None)}))
    for untold in (teacher(0), teacher(null=False)):
        with pytest.raises(
            ValueError, match=r"teacher_guidance is 2\.0, but the teacher is not told the class, or never"
        ):
            build_model(tiny(consistency__teacher_guidance=2.0), DIGITS, Env(frozen={"teacher": untold}))
    unconditional = tiny(consistency__class_conditional=False, consistency__label_dropout=0.0)
    with pytest.raises(ValueError, match="The teacher must be told 'label', which the student is not"):
        build_model(unconditional, DIGITS, Env(frozen={"teacher": teacher(null=False)}))
    build_model(unconditional, DIGITS, Env(frozen={"teacher": teacher()}))
    with pytest.raises(ValueError, match="the data has no classes"):
        build_model(tiny(), ModelSpec((8, 8, 1)))


def test_the_defaults_are_these_and_no_others():
    assert consistency.Settings() == (
        0.002,
        80.0,
        0.5,
        "ict",
        "inverse_step",
        0.00054,
        "log_sigma",
        False,
        0.0,
        True,
        1.0,
    )
    assert consistency.Sampler() == ((), True)
