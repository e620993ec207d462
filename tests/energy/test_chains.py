"""Persistent chains: each example moves one of its own, some start again, all devices keep the same ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import keys
from jaxgen.energy import chains

SHAPE, COUNT = (2, 3, 1), 12
KEY = keys.root_key(8)
INDEX = jnp.array([4, 0, 7, 3, 1], jnp.int32)
LABEL = jnp.array([5, 6, 7, 8, 9], jnp.int32)


@pytest.fixture(scope="module")
def every():
    return chains.initial(KEY, COUNT, SHAPE, {"label": jnp.array([2, 0, 1, 1, 3], jnp.int32)})


def test_all_chains_start_from_uniform_noise_with_the_classes_of_a_batch(every):
    np.testing.assert_array_equal(every["label"], [2, 0, 1, 1, 3, 2, 0, 1, 1, 3, 2, 0])
    assert every["image"].shape == (COUNT, *SHAPE)
    many = np.asarray(chains.initial(KEY, 2000, SHAPE, {})["image"])
    assert -1.0 <= many.min() < -0.99
    assert 0.99 < many.max() < 1.0
    np.testing.assert_allclose(many.mean(), 0.0, atol=5 * np.sqrt(1 / 3 / many.size))
    np.testing.assert_allclose(many.var(), 1 / 3, rtol=0.05)
    assert len(np.unique(many)) > 0.999 * many.size


def test_places_are_a_permutation_of_the_chains_in_each_update():
    draw = jax.jit(jax.vmap(lambda i: chains.places(keys.at_step(KEY, i), jnp.arange(COUNT), COUNT)))
    drawn = np.asarray(draw(jnp.arange(200)))
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(COUNT), (200, 1)))
    visits = np.stack([np.bincount(column, minlength=COUNT) for column in drawn.T])
    assert 3 <= visits.min() <= visits.max() <= 40  # 200 / 12 on average
    whole = chains.places(KEY, INDEX, COUNT)
    np.testing.assert_array_equal(
        whole, np.concatenate([chains.places(KEY, part, COUNT) for part in (INDEX[:2], INDEX[2:])])
    )
    np.testing.assert_array_equal(whole, chains.places(KEY, jnp.arange(COUNT), COUNT)[INDEX])


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_chains_start_again_by_the_keys_of_their_examples(every, probability):
    example_keys = keys.per_example(keys.root_key(1), INDEX)
    place = jnp.array([11, 3, 0, 5, 8])
    found = chains.started(example_keys, every, place, {"label": LABEL}, probability)
    restart = np.array(keys.bernoulli(keys.fold_each(example_keys, "restart"), probability))
    assert restart.sum() == {0.0: 0, 0.5: restart.sum(), 1.0: 5}[probability]
    if probability == 0.5:
        assert 0 < restart.sum() < 5
    fresh = [
        jax.random.uniform(keys.stream(key, "initial_noise"), SHAPE, minval=-1.0, maxval=1.0) for key in example_keys
    ]
    for i in range(5):
        image = fresh[i] if restart[i] else every["image"][place[i]]
        np.testing.assert_allclose(found["image"][i], image, atol=1e-6)
        assert found["label"][i] == (LABEL[i] if restart[i] else every["label"][place[i]])


def test_moved_chains_take_their_places_and_the_others_stay(every):
    place = jnp.array([11, 3])
    moved = {"image": jnp.full((2, *SHAPE), 0.25), "label": jnp.array([7, 9], jnp.int32)}
    found = chains.stored(every, place, moved, axis_name=None)
    expected = {name: np.array(value) for name, value in every.items()}
    expected["image"][[11, 3]], expected["label"][[11, 3]] = 0.25, [7, 9]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_every_device_of_a_mapped_axis_stores_the_chains_of_all(every):
    place = jnp.array([[11, 3], [0, 6]])
    moved = {
        "image": jnp.arange(4.0).reshape(2, 2, 1, 1, 1) * jnp.ones((1, 1, *SHAPE)),
        "label": jnp.array([[4, 5], [6, 7]], jnp.int32),
    }

    def store(place, moved):
        return chains.stored(every, place, moved, axis_name="devices")

    found = jax.vmap(store, axis_name="devices")(place, moved)
    flat = {name: value.reshape(4, *value.shape[2:]) for name, value in moved.items()}
    expected = chains.stored(every, place.reshape(-1), flat, axis_name=None)
    for name in expected:
        np.testing.assert_array_equal(found[name], np.stack([expected[name]] * 2))
