"""DDPM: its objective and denoiser against the paper's equations, the label dropout, parameter counts, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ddpm
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import ModelSpec
from jaxgen.diffusion import schedules
from jaxgen.nn.unet import UNet

DIGITS = ModelSpec((8, 8, 1), num_classes=10)
SCHEDULE = schedules.cosine()


def tiny(**changes):
    config = ddpm.get_config("tiny")
    config.optimizer.name, config.optimizer.b1 = "sgd", 0.0
    config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.clip_norm = 1.0, "constant", None
    config.model.channel_multipliers, config.model.attention_resolutions = (1,), ()  # compiles faster
    config.model.dropout = 0.0
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


def batch():
    images = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 8, 1)).astype(np.uint8)
    return {"image": jnp.asarray(images), "index": jnp.arange(6)[None], "label": jnp.arange(6)[None]}


@pytest.fixture(scope="module")
def state():
    """A state whose parameters are all random: those of the last layers are zero at the start."""
    state = build_model(tiny(), DIGITS).init(keys.root_key(0), batch())
    leaves, treedef = jax.tree.flatten(state.params)
    noise = [jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
    return state._replace(params=treedef.unflatten([a + 0.1 * b for a, b in zip(leaves, noise, strict=True)]))


def test_the_loss_is_the_error_of_eps_at_a_uniform_timestep(state):
    config = tiny(diffusion__label_dropout=0.0)
    _, metrics = jax.jit(build_model(config, DIGITS).update)(keys.root_key(7), state, batch())
    example_keys = keys.per_example(keys.root_key(7), jnp.arange(6))
    t = jax.vmap(lambda k: jax.random.randint(k, (), 0, 1000))(keys.fold_each(example_keys, "timestep"))
    eps = keys.normal(keys.fold_each(example_keys, "eps"), (8, 8, 1))
    alpha_bar = SCHEDULE.alpha_bar[np.asarray(t)][:, None, None, None]
    x_t = np.sqrt(alpha_bar) * (np.asarray(batch()["image"][0]) / 127.5 - 1) + np.sqrt(1 - alpha_bar) * eps  # eq. 4
    network = UNet(1, num_classes=10, dtype="float32", **config.model)
    prediction = network.apply({"params": state.params}, jnp.float32(x_t), jnp.float32(t), jnp.arange(6), train=False)
    np.testing.assert_allclose(metrics["loss"], np.mean(np.square(prediction - eps)), rtol=1e-4)  # eq. 14


def test_denoise_is_the_estimate_of_x0_of_equation_15(state):
    config = tiny()
    model = build_model(config, DIGITS)
    network = UNet(1, num_classes=10, dtype="float32", **config.model)
    t, label = np.array([3, 250, 700]), jnp.array([1, 2, 10])
    alpha_bar = SCHEDULE.alpha_bar[t][:, None, None, None].astype(np.float32)
    x_t = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    eps = network.apply({"params": state.params}, x_t, jnp.float32(t), label, train=False)
    expected = (x_t - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    sigma = jnp.asarray(SCHEDULE.sigmas[t], jnp.float32)
    actual = model.denoise(state.params, x_t / np.sqrt(alpha_bar), sigma, {"label": label})
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def trained_rows(state, label_dropout):
    """The rows of the label embedding that a step of SGD has moved."""
    model = build_model(tiny(diffusion__label_dropout=label_dropout), DIGITS)
    new_state, _ = jax.jit(model.update)(keys.root_key(3), state, batch())
    before, after = (s.params["embedding"]["label"]["embedding"] for s in (state, new_state))
    return set(np.flatnonzero(np.any(before != after, axis=1)).tolist())


def test_labels_are_never_or_always_dropped(state):
    assert trained_rows(state, 0.0) == {0, 1, 2, 3, 4, 5}
    assert trained_rows(state, 1.0) == {10}


@pytest.mark.parametrize(("variant", "shape", "count"), [
    ("cifar10", (32, 32, 3), 35_746_307),
    ("celebahq256", (256, 256, 3), 113_673_219),
    ("lsun256", (256, 256, 3), 113_673_219),
])  # fmt: skip
def test_the_papers_networks_have_the_official_number_of_parameters(variant, shape, count):
    model = build_model(ddpm.get_config(variant), ModelSpec(shape, num_classes=10))
    example = {
        "image": jax.ShapeDtypeStruct((1, 1, *shape), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1, 1), jnp.int32),
    }
    assert trees.count(jax.eval_shape(model.init, keys.root_key(0), example).params) == count
    assert model.spec.num_classes == 0


def test_bfloat16_keeps_parameters_and_samples_in_float32():
    model = build_model(tiny(train__compute_dtype="bfloat16"), DIGITS)
    state = jax.eval_shape(model.init, keys.root_key(0), batch())
    new_state, metrics = jax.eval_shape(model.update, keys.root_key(0), state, batch())
    image_keys = keys.per_example(keys.root_key(0), jnp.arange(2))
    images = jax.eval_shape(model.sample, image_keys, model.eval_variables(state))
    assert {leaf.dtype for leaf in jax.tree.leaves((new_state.params, metrics, images))} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(model.update)(keys.root_key(0), state, batch()))
    assert "bf16" in text


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"diffusion__schedule": "cosin"}, "diffusion.schedule is 'cosin'"),
    ({"sampler__name": "dim"}, "sampler.name is 'dim'"),
])  # fmt: skip
def test_settings_are_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model(tiny(**changes), DIGITS)


def test_a_conditional_model_needs_classes():
    with pytest.raises(ValueError, match="the data has no classes"):
        build_model(tiny(), ModelSpec((8, 8, 1)))
