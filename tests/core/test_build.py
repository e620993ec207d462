import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import data_spec

from configs import vae
from jaxgen.core import build, keys
from jaxgen.core.build import build_inner, build_model
from jaxgen.core.contract import CONSTANT, Env, GenerativeModel, ModelSpec, TrainState

SPEC = data_spec((8, 8, 1), 10)


def test_an_unknown_method_is_refused_with_those_there_are():
    config = vae.get_config("tiny")
    config.method = "vae.vea"
    with pytest.raises(
        ValueError, match=r"^method is 'vae\.vea', but must be one of .*vae\.vae.*Did you mean vae\.vae"
    ):
        build_model(config, SPEC)


@pytest.mark.parametrize(("nonfinite", "skips"), [("stop", False), ("skip", True), ("rollback", False)])
def test_the_settings_choose_the_wrappers(nonfinite, skips):
    config = vae.get_config("tiny")
    config.train.nonfinite, config.ema.include = nonfinite, "params/.*bias"
    model = build_model(config, SPEC)
    index = jnp.arange(4)[None]
    batch = {"image": jnp.zeros((1, 4, 8, 8, 1), jnp.uint8), "index": index, "label": index}
    state = jax.eval_shape(model.init, keys.root_key(0), batch)
    _, metrics = jax.eval_shape(model.update, keys.root_key(0), state, batch)
    assert ("skipped" in metrics) == skips
    assert state.ema
    assert all(name.endswith("bias") for name in state.ema)


def look(key, state, batch, *, phase=CONSTANT):
    """An update that keeps what it sees in the place of the statistics, and may make a parameter infinite."""
    del key, phase
    return state._replace(step=state.step + 1, params=state.params + 1.0, model_state=batch["image"]), {}


@pytest.fixture
def method(monkeypatch):
    """A method of one parameter; notes what it was made with."""
    made = []

    def make(config, spec, env):
        made.append((config, spec, env))
        return GenerativeModel(
            spec,
            init=lambda key, batch, frozen=(): TrainState(
                jnp.int32(0), jnp.zeros(()), (), batch["image"], frozen=frozen
            ),
            update=look,
            sample=lambda keys, variables, cond=None: jnp.zeros((len(keys), *spec.image_shape)) + variables,
            eval_variables=lambda state: state.params,
        )

    monkeypatch.setattr(build.configs, "resolve", lambda *args, **options: types.SimpleNamespace(make=make))
    return made


def config_of(**data):
    config = vae.get_config("tiny")
    config.data.update(data)
    config.ema.include, config.ema.warmup, config.ema.decay = "params.*", False, 0.25
    return config


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_preprocessed_and_flipped_as_the_data_says(method, flip):
    model = build_model(config_of(flip=flip), SPEC, Env(norms_depth=3))
    assert (method[0][1], method[0][2].norms_depth) == (SPEC, 3)
    image = np.zeros((1, 64, 8, 8, 1), np.uint8)
    image[..., :4, :] = 255
    batch = {"image": jnp.asarray(image), "index": jnp.arange(64)[None]}
    state, _ = model.update(keys.root_key(0), model.init(keys.root_key(0), batch), batch)
    left = np.asarray(state.model_state)[0, :, 0, 0, 0]
    assert set(left) == ({-1.0, 1.0} if flip else {1.0})
    assert float(model.eval_variables(state)) == 0.75  # the average, of the section's decay
    assert state.params == 1.0


def test_a_model_of_latents_sees_standardized_latents_and_draws_images(method):
    coder = GenerativeModel(
        ModelSpec((8, 8, 1), latent_shape=(4, 4, 2)),
        *[None] * 4,
        encode=lambda *args: None,
        decode=lambda variables, latents, cond=None: latents.repeat(2, axis=1).repeat(2, axis=2)[..., :1] + variables,
    )
    shift, scale = np.array([1.0, 3.0], np.float32), np.array([0.5, 2.0], np.float32)
    frozen = {"autoencoder": {"variables": 10.0, "shift": shift, "scale": scale}}
    model = build_model(config_of(), data_spec((4, 4, 4), 10), Env(frozen={"autoencoder": coder}))
    assert method[0][1] == data_spec((4, 4, 2), 10, continuous=True)
    assert model.spec.image_shape == (8, 8, 1)
    moments = np.concatenate([np.full((1, 3, 4, 4, 2), 2.0), np.zeros((1, 3, 4, 4, 2))], axis=-1)
    batch = {"image": jnp.asarray(moments), "index": jnp.arange(3)[None]}
    state, _ = model.update(keys.root_key(0), model.init(keys.root_key(0), batch, frozen), batch)
    np.testing.assert_allclose(state.model_state, np.broadcast_to([2.0, -0.5], (1, 3, 4, 4, 2)))
    images = model.sample(keys.per_example(keys.root_key(0), jnp.arange(2)), model.eval_variables(state))
    np.testing.assert_allclose(images, 0.75 * 0.5 + 1.0 + 10.0)  # restored, then decoded


def test_a_skipped_update_leaves_its_average_alone_too(method):
    config = config_of()
    config.train.nonfinite = "skip"
    model = build_model(config, SPEC)
    batch = {"image": jnp.zeros((1, 1, 8, 8, 1), jnp.uint8), "index": jnp.zeros((1, 1), jnp.int32)}
    state = model.init(keys.root_key(0), batch)
    bad, metrics = model.update(keys.root_key(0), state._replace(params=jnp.float32(np.inf)), batch)
    assert (metrics["skipped"], bad.step) == (1.0, 1)
    np.testing.assert_array_equal(bad.ema["params"], state.ema["params"])


def test_a_finished_model_without_a_use_or_of_other_images_is_refused(method):
    def other(shape):
        return GenerativeModel(ModelSpec(shape), *[None] * 4)

    with pytest.raises(ValueError, match=r"frozen\.teacher names a run, but this method has no use for one"):
        build_model(config_of(), SPEC, Env(frozen={"teacher": other((8, 8, 1))}))
    with pytest.raises(ValueError, match=r"frozen\.teacher is a model of images \(4, 8, 1\), but .* \(8, 8, 1\)"):
        build_model(config_of(), SPEC, Env(frozen={"teacher": other((4, 8, 1))}))


def test_the_inner_model_is_that_of_the_latents_themselves(method):
    coder = GenerativeModel(ModelSpec((8, 8, 1), latent_shape=(4, 4, 2)), *[None] * 4)
    model = build_inner(config_of(flip=True), data_spec((4, 4, 4), 10), Env(frozen={"autoencoder": coder}))
    assert model.spec == data_spec((4, 4, 2), 10, continuous=True)
    latents = jnp.full((1, 2, 4, 4, 2), 3.0)
    batch = {"image": latents, "index": jnp.arange(2)[None]}
    state, _ = model.update(keys.root_key(0), model.init(keys.root_key(0), batch), batch)
    np.testing.assert_array_equal(state.model_state, latents)  # neither drawn nor flipped nor mapped from 8 bits
    assert float(model.eval_variables(state)) == 0.75
