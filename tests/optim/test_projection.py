"""Projections after the update, and the weight normalization that is one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.optim.optimizers import make_optimizer
from jaxgen.optim.projection import clipped_weights, normalized_weights, project


def make_params():
    kernels = jax.random.normal(jax.random.key(0), (2, 3, 3, 4, 5))
    return {
        "conv": {"kernel": 7.0 * kernels[0], "bias": jnp.full(5, 3.0)},
        "linear": {"kernel": 0.1 * kernels[1, 0, 0]},
        "gain": jnp.array(2.0),
    }


def rms(kernel):
    return np.sqrt(np.mean(np.square(kernel), axis=tuple(range(kernel.ndim - 1))))


def test_weights_of_each_output_get_a_root_mean_square_of_one():
    params = make_params()
    out = normalized_weights(params, ".*kernel")
    for layer in ("conv", "linear"):
        np.testing.assert_allclose(rms(out[layer]["kernel"]), 1.0, rtol=1e-6)
        ratio = out[layer]["kernel"] / params[layer]["kernel"]
        np.testing.assert_allclose(ratio, np.broadcast_to(1 / rms(params[layer]["kernel"]), ratio.shape), rtol=1e-5)
    np.testing.assert_array_equal(out["conv"]["bias"], 3.0)
    np.testing.assert_array_equal(out["gain"], 2.0)


def test_the_pattern_chooses_and_zeros_stay():
    params = {**make_params(), "linear": {"kernel": jnp.zeros((4, 5))}}
    out = normalized_weights(params, "linear/kernel")
    np.testing.assert_array_equal(out["conv"]["kernel"], params["conv"]["kernel"])
    np.testing.assert_array_equal(out["linear"]["kernel"], 0.0)
    with pytest.raises(ValueError, match="'liner/kernel' matches no parameter"):
        normalized_weights(params, "liner/kernel")


def test_parameters_end_where_the_projection_maps_them():
    """Projected gradient descent on |w - (3, 1)|^2 under |w| <= 1 ends at (3, 1) / |(3, 1)|."""
    optimizer = optax.chain(optax.sgd(0.1), project(lambda w: w / jnp.maximum(1.0, jnp.linalg.norm(w))))
    w, goal = jnp.array([0.0, -0.5]), jnp.array([3.0, 1.0])
    state = optimizer.init(w)
    for _ in range(30):
        updates, state = optimizer.update(2.0 * (w - goal), state, w)
        w = optax.apply_updates(w, updates)
        assert np.linalg.norm(w) <= 1.0 + 1e-6
    np.testing.assert_allclose(w, goal / np.sqrt(10.0), atol=1e-4)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(w, state)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_an_optimizer_with_forced_normalization_keeps_weights_normalized(name):
    params = make_params()
    options = {"num_steps": 10, "name": name, "learning_rate": 0.5, "weight_decay": 0.1}
    forced = make_optimizer(**options, forced_normalization=".*kernel")
    free = make_optimizer(**options)
    grads = jax.tree.map(jnp.ones_like, params)
    after = {}
    for key, optimizer in {"forced": forced, "free": free}.items():
        updates, _ = optimizer.update(grads, optimizer.init(params), params, step=jnp.int32(0))
        after[key] = optax.apply_updates(params, updates)
    np.testing.assert_allclose(rms(after["forced"]["conv"]["kernel"]), 1.0, rtol=1e-5)
    expected = normalized_weights(after["free"], ".*kernel")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after["forced"], expected)


def test_weights_are_cut_off_after_each_update():
    """Plain descent would end at the goal, (3, 1); within +-0.5 it ends in the corner that is nearest."""
    np.testing.assert_array_equal(clipped_weights({"a": jnp.array([-2.0, 0.25, 2.0])}, 0.5)["a"], [-0.5, 0.25, 0.5])
    optimizer = make_optimizer(num_steps=20, name="sgd", b1=0.0, learning_rate=0.3, weight_limit=0.5)
    w, goal = jnp.array([0.0, -0.5]), jnp.array([3.0, 1.0])
    state = optimizer.init(w)
    for step in range(10):
        updates, state = optimizer.update(2.0 * (w - goal), state, w, step=jnp.int32(step))
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w, [0.5, 0.5], rtol=1e-6)
    with pytest.raises(ValueError, match=r"optimizer\.weight_limit is 0\.0, but must be positive"):
        make_optimizer(num_steps=1, weight_limit=0.0)
