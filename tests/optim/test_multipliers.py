"""Multipliers of learning rate and weight decay, by hand with SGD and Adam; what is frozen; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.optim.optimizers import make_optimizer, make_player_optimizers

RATE, DECAY = 0.5, 0.1
PARAMS = {
    "encoder": {"kernel": jnp.array([2.0, -1.0]), "bias": jnp.array([0.5])},
    "head": {"kernel": jnp.array([4.0]), "scale": jnp.array([3.0])},
}
GRADIENT = {
    "encoder": {"kernel": jnp.array([1.0, 3.0]), "bias": jnp.array([-2.0])},
    "head": {"kernel": jnp.array([-5.0]), "scale": jnp.array([7.0])},
}


def after(updates=1, gradient=GRADIENT, **settings):
    """The parameters after some updates with the same gradient, each a step of the run, and the optimizer's state."""
    optimizer = make_optimizer(num_steps=10, learning_rate=RATE, **settings)
    params, state = PARAMS, optimizer.init(PARAMS)
    for step in range(updates):
        moves, state = optimizer.update(gradient, state, params, step=jnp.int32(step))
        params = optax.apply_updates(params, moves)
    return params, state


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)


SGD = {"name": "sgd", "b1": 0.0}


def test_the_first_pattern_that_matches_gives_the_factor_and_the_rest_has_one():
    rules = ((".*/bias", 3.0), ("encoder/.*", 0.25))
    params, _ = after(**SGD, learning_rate_multipliers=rules)
    factors = {"encoder": {"kernel": 0.25, "bias": 3.0}, "head": {"kernel": 1.0, "scale": 1.0}}
    assert_close(params, jax.tree.map(lambda p, g, f: p - RATE * f * g, PARAMS, GRADIENT, factors))


def test_a_multiplier_is_one_of_the_schedules_rate_and_of_the_decay():
    params, _ = after(
        **SGD, weight_decay=DECAY, schedule="linear", learning_rate_multipliers=(("head/kernel", 2.0),), updates=1
    )
    np.testing.assert_allclose(params["head"]["kernel"], 4.0 - RATE * 2.0 * (-5.0 + DECAY * 4.0), rtol=1e-6)
    np.testing.assert_allclose(params["encoder"]["kernel"][0], 2.0 - RATE * (1.0 + DECAY * 2.0), rtol=1e-6)


def test_adams_steps_are_scaled_and_not_its_gradients():
    """Kingma & Ba 2015: after gradients that are all the same, a bias-corrected step has the length of the rate."""
    params, _ = after(2, learning_rate_multipliers=(("encoder/.*", 0.25),))
    np.testing.assert_allclose(params["encoder"]["kernel"], [2.0 - 2 * 0.25 * RATE, -1.0 - 2 * 0.25 * RATE], rtol=1e-5)
    np.testing.assert_allclose(params["head"]["kernel"], [4.0 + 2 * RATE], rtol=1e-5)


def test_what_is_frozen_stays_has_no_state_and_no_part_in_the_norm_that_gradients_are_clipped_to():
    params, state = after(
        3, weight_decay=DECAY, clip_norm=1.0, learning_rate_multipliers=(("encoder/.*", 0.0), ("head/scale", 0.0))
    )
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], PARAMS["encoder"])
    np.testing.assert_array_equal(params["head"]["scale"], PARAMS["head"]["scale"])
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state)) == [(), (1,), (1,)]  # Adam's count, mean and square
    clipped, _ = after(**SGD, clip_norm=1.0, learning_rate_multipliers=(("encoder/.*", 0.0), ("head/scale", 0.0)))
    np.testing.assert_allclose(clipped["head"]["kernel"], 4.0 + RATE * 1.0, rtol=1e-6)
    whole, _ = after(**SGD, clip_norm=1.0)
    norm = np.sqrt(1.0 + 9.0 + 4.0 + 25.0 + 49.0)
    np.testing.assert_allclose(whole["head"]["kernel"], 4.0 + RATE * 5.0 / norm, rtol=1e-6)


def test_what_is_trained_beside_what_is_frozen_is_trained_as_ever():
    alone, _ = after(3, weight_decay=DECAY)
    beside, _ = after(3, weight_decay=DECAY, learning_rate_multipliers=(("encoder/.*", 0.0),))
    jax.tree.map(np.testing.assert_array_equal, beside["head"], alone["head"])


def test_a_frozen_weight_is_not_normalized_either():
    kernels = (((".*/kernel", 0.5),), (("head/.*", 0.0),))
    moved, still = (after(**SGD, forced_normalization=".*kernel", learning_rate_multipliers=m)[0] for m in kernels)
    np.testing.assert_allclose(jnp.abs(moved["head"]["kernel"]), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(still["head"]["kernel"], PARAMS["head"]["kernel"])
    np.testing.assert_allclose(jnp.mean(still["encoder"]["kernel"] ** 2), 1.0, rtol=1e-6)


@pytest.mark.parametrize("rates", [(), (("encoder/bias", 0.0),)])
def test_decay_by_pattern_is_decoupled_reaches_biases_that_it_names_and_leaves_the_rest(rates):
    rules = (("head/.*", 2.0), ("encoder/kernel", 0.0))
    zeros = jax.tree.map(jnp.zeros_like, GRADIENT)
    params, _ = after(
        gradient=zeros, weight_decay=DECAY, weight_decay_multipliers=rules, learning_rate_multipliers=rates
    )
    factors = {"encoder": {"kernel": 0.0, "bias": 0.0}, "head": {"kernel": 2.0, "scale": 2.0}}
    assert_close(params, jax.tree.map(lambda p, f: p * (1.0 - RATE * DECAY * f), PARAMS, factors))
    params, _ = after(gradient=zeros, weight_decay=DECAY, weight_decay_multipliers=(("head/kernel", 3.0),))
    np.testing.assert_allclose(params["encoder"]["kernel"], PARAMS["encoder"]["kernel"] * (1.0 - RATE * DECAY))
    np.testing.assert_allclose(params["head"]["kernel"], 4.0 * (1.0 - RATE * DECAY * 3.0))
    np.testing.assert_array_equal(params["encoder"]["bias"], PARAMS["encoder"]["bias"])
    np.testing.assert_array_equal(params["head"]["scale"], PARAMS["head"]["scale"])


def test_without_multipliers_the_state_is_that_of_the_chain():
    _, state = after(weight_decay=DECAY)
    kernels = {"encoder": {"kernel": True, "bias": False}, "head": {"kernel": True, "scale": False}}
    decay = optax.add_decayed_weights(DECAY, mask=kernels)
    plain = optax.chain(optax.scale_by_adam(), decay, optax.identity()).init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(plain)


def test_players_have_their_own_over_the_names_of_their_own_parameters():
    section = {
        "generator": {**SGD, "learning_rate": RATE, "learning_rate_multipliers": (("encoder/.*", 0.0),)},
        "discriminator": {**SGD, "learning_rate": RATE},
    }
    optimizers = make_player_optimizers(section, "generator", "discriminator", num_steps=10)
    moves = {
        name: optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS, step=jnp.int32(0))[0]
        for name, optimizer in optimizers.items()
    }
    np.testing.assert_array_equal(moves["generator"]["encoder"]["bias"], 0.0)
    np.testing.assert_allclose(moves["discriminator"]["encoder"]["bias"], 2.0 * RATE)
    np.testing.assert_allclose(moves["generator"]["head"]["scale"], -7.0 * RATE)


@pytest.mark.parametrize("setting", ["learning_rate_multipliers", "weight_decay_multipliers"])
@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (
            (("hed/.*", 2.0),),
            r"has the pattern 'hed/\.\*', which is the first to match no parameter; there are: encoder/b",
        ),
        (((".*", 1.0), ("head/.*", 2.0)), r"has the pattern 'head/\.\*', which is the first to match no parameter"),
        (((".*kernel", -1.0),), r"has the factor -1\.0 for '\.\*kernel', but it must be finite and at least 0"),
        (((".*kernel", float("inf")),), "has the factor inf for"),
        ((("(", 1.0),), r"has the pattern '\(', which is no regular expression"),
    ],
)
def test_multipliers_that_cannot_be_meant_are_refused(setting, rules, sentence):
    with pytest.raises(ValueError, match=rf"optimizer\.{setting} {sentence}"):
        after(weight_decay=DECAY, **{setting: rules})


def test_decay_multipliers_without_decay_are_refused():
    with pytest.raises(
        ValueError, match=r"weight_decay_multipliers is .* no effect without a positive optimizer\.weig"
    ):
        after(weight_decay_multipliers=((".*", 2.0),))
