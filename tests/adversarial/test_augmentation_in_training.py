"""Augmentation in whole updates: its state is the model's, and the discriminator's losses are those of what it sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import data_spec

from configs import gan
from jaxgen.core import keys
from jaxgen.core.build import build_model

DIGITS = data_spec((8, 8, 1), 10)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 1)).astype(np.uint8)
BATCH = {"image": jnp.asarray(IMAGES), "index": jnp.arange(8).reshape(2, 4)}  # n_critic is 2


def build(augment, terms=()):
    config = gan.get_config("tiny")
    with config.ignore_type():
        config.gan.augment, config.gan.terms = augment, terms
    return build_model(config, DIGITS)


def test_the_probability_adapts_with_the_opinion_on_real_images_and_is_kept_in_the_model_state():
    model = build(
        ("instance_noise(std=0.1)", "ada(transforms='color', initial=0.5, every_steps=1, ramp_examples=100)"),
        ("r1(gamma=1.0)",),
    )
    state = model.init(keys.root_key(0), BATCH)
    update = jax.jit(model.update)
    history = []
    for step in range(3):
        state, metrics = update(keys.at_step(keys.root_key(1), step), state, BATCH)
        history.append(jax.device_get(metrics))
        assert state.model_state["augment"]["ada"]["images"] == 8
    p = [metrics["augment/ada/p"] for metrics in history]
    signs = [metrics["sign/real"] for metrics in history]
    assert p[0] == 0.5
    expected = 0.5 + np.cumsum(np.sign(np.array(signs[:2]) - 0.6)) * 8 / 100
    np.testing.assert_allclose(p[1:], expected, rtol=1e-5)
    np.testing.assert_allclose(history[1]["augment/ada/sign"], signs[0], rtol=1e-5)
    np.testing.assert_allclose(history[0]["augment/instance_noise/std"], 0.1, rtol=1e-6)
    assert np.isfinite(history[2]["grad_norm/generator"])


def test_images_that_cannot_be_augmented_so_are_refused_at_the_door():
    with pytest.raises(ValueError, match="hue has no effect on images of one channel"):
        build("ada(transforms={'hue': 1.0})")
