"""Consistency models with a network that is a formula: losses by hand, from scratch and by distillation; samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import consistency as consistency_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, ModelSpec, Trained
from jaxgen.methods.denoising import consistency

DIGITS = ModelSpec((8, 8, 1), num_classes=10)
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
    return consistency.Process(
        Formula(),
        consistency.Settings(**{**names, **settings}),
        lambda u, progress: (jnp.float32(R) + 0.0 * u, jnp.float32(T)),
        lambda schedule, sigma: jnp.log(sigma),
        10,
    )


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


def state(microbatches=0):
    return {"microbatches": jnp.int32(microbatches)}


@pytest.mark.parametrize(("weighting", "weight"), [
    ("uniform", np.ones(6)),
    ("inverse_step", 1.0 / (T - R)),
    ("edm", T**-2 + DATA**-2),
])  # fmt: skip
def test_the_loss_from_scratch_compares_two_points_with_the_same_noise(weighting, weight):
    eps, x0 = drawn()
    difference = start(x0 + column(T) * eps, T) - start(x0 + column(R) * eps, R)
    objective = consistency.make_objective(process(weighting=weighting), consistency.trained_neighbor, 100)
    loss, (model_state, metrics) = jax.jit(objective)(keys.root_key(7), PARAMS, state(3), batch())
    np.testing.assert_allclose(loss, np.mean(weight * huber(difference, c=0.01 * 8)), rtol=1e-4)
    np.testing.assert_allclose(metrics["relative_step"], np.mean(1.0 - R / T), rtol=1e-4)
    assert model_state["microbatches"] == 4


def test_dropped_labels_and_the_start_of_the_path():
    eps, x0 = drawn()
    objective = consistency.make_objective(process(label_dropout=1.0), consistency.trained_neighbor, 100)
    loss, _ = jax.jit(objective)(keys.root_key(7), PARAMS, state(), batch())
    difference = start(x0 + column(T) * eps, T, 1.0) - start(x0 + column(R) * eps, R, 1.0)
    np.testing.assert_allclose(loss, np.mean(huber(difference, c=0.01 * 8) / (T - R)), rtol=1e-4)
    np.testing.assert_array_equal(jax.jit(process().start)(PARAMS, batch()["image"], jnp.full(6, LOW), None), x0)


def test_no_gradient_goes_through_the_less_noisy_point():
    eps, x0 = drawn()
    x_t = x0 + column(T) * eps
    difference = start(x_t, T) - start(x0 + column(R) * eps, R)
    objective = consistency.make_objective(process(weighting="uniform"), consistency.trained_neighbor, 100)
    gradient = jax.jit(jax.grad(lambda params: objective(keys.root_key(7), params, state(), batch())[0]))(PARAMS)
    slope = column(DATA * (T - LOW) / (T**2 + DATA**2)) * x_t  # df(x_t, t) / dA
    unit = difference / column(huber(difference, 0.08) + 0.08)
    np.testing.assert_allclose(gradient["network"]["a"], np.mean(np.sum(unit * slope, axis=(1, 2, 3))), rtol=1e-4)


def test_distillation_goes_along_the_path_of_its_teacher():
    eps, x0 = drawn()

    def denoise(variables, x, sigma, cond=None):
        return variables * jnp.ones_like(x) * (cond["label"] == 10)[:, None, None, None]

    # Guided, the classes' point 0 and the null token's 0.5 give 0.5 + 3 (0 - 0.5): the paths to it are straight.
    neighbor = consistency.distilled_neighbor(Trained(denoise, jnp.float32(0.5), 10), 3.0)
    objective = consistency.make_objective(process(), neighbor, 100)
    loss, _ = jax.jit(objective)(keys.root_key(7), PARAMS, state(), batch())
    x_t = x0 + column(T) * eps
    difference = start(x_t, T) - start(-1.0 + column(R / T) * (x_t + 1.0), R)
    np.testing.assert_allclose(loss, np.mean(huber(difference, c=0.01 * 8) / (T - R)), rtol=1e-4)


def test_the_curriculum_follows_the_updates():
    def curriculum(u, progress):
        return progress * jnp.float32(T) + 0.0 * u, jnp.float32(T)

    objective = consistency.make_objective(process()._replace(curriculum=curriculum), consistency.trained_neighbor, 8)
    objective, model_state, steps = jax.jit(objective), state(1), []
    for _ in range(3):
        _, (model_state, metrics) = objective(keys.root_key(7), PARAMS, model_state, batch())
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


def test_a_student_starts_with_its_teachers_weights_and_cannot_go_on_without_it():
    first = build_model(tiny(), DIGITS)
    weights = first.init(keys.root_key(5), whole_batch()).params
    teacher = Trained(lambda variables, x, sigma, cond=None: x, jax.tree.map(np.asarray, weights), 10)
    named = tiny(consistency__teacher="somewhere")
    student = build_model(named, DIGITS, Env(teacher=teacher))
    jax.tree.map(np.testing.assert_array_equal, student.init(keys.root_key(0), whole_batch()).params, weights)
    own = tiny(consistency__teacher="somewhere", consistency__start_from_teacher=False)
    other = build_model(own, DIGITS, Env(teacher=teacher)).init(keys.root_key(0), whole_batch()).params
    assert not np.array_equal(other["network"]["conv_in"]["kernel"], weights["network"]["conv_in"]["kernel"])
    alone = build_model(named, DIGITS)  # as for sampling
    with pytest.raises(ValueError, match="only with the teacher"):
        jax.eval_shape(alone.update, keys.root_key(0), alone.init(keys.root_key(0), whole_batch()), whole_batch())
    preconditioned = teacher._replace(sigma_data=0.5)
    with pytest.raises(ValueError, match=r"sigma_data=0\.75, but the teacher.* sigma_data=0\.5"):
        build_model(named, DIGITS, Env(teacher=preconditioned))
    build_model(own, DIGITS, Env(teacher=preconditioned))  # whose denoiser alone is asked
    build_model(named, DIGITS, Env(teacher=teacher._replace(sigma_data=0.75)))
    assert first.spec.sigma_data == 0.75
    wider = tiny(consistency__teacher="somewhere", model__base_channels=16)
    with pytest.raises(ValueError, match="another than the student's"):
        build_model(wider, DIGITS, Env(teacher=teacher)).init(keys.root_key(0), whole_batch())


def test_a_teacher_that_no_setting_names_and_missing_classes_are_refused():
    with pytest.raises(ValueError, match=r"consistency\.teacher"):
        build_model(tiny(), DIGITS, Env(teacher=Trained(lambda *args: args[1], {})))
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
        None,
        True,
        1.0,
    )
    assert consistency.Sampler() == ((), True)
