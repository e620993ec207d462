import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import keys


def bits(key):
    return np.asarray(jax.random.key_data(key))


def distinct(key_array):
    return len(np.unique(bits(key_array).reshape(key_array.size, -1), axis=0)) == key_array.size


def test_a_stream_is_folded_by_the_crc_of_its_name_which_no_process_changes():
    check_value_of_crc32 = 0xCBF43926  # of "123456789", by which implementations are told right from wrong
    expected = jax.random.fold_in(jax.random.key(7), np.uint32(check_value_of_crc32))
    np.testing.assert_array_equal(bits(keys.stream(keys.root_key(7), "123456789")), bits(expected))


def test_seeds_streams_and_steps_give_keys_of_their_own():
    roots = [keys.root_key(seed) for seed in (0, 1)]
    streams = [keys.stream(root, name) for root in roots for name in ("train", "init", "sample")]
    steps = [keys.at_step(stream, step) for stream in streams for step in range(3)]
    assert distinct(jnp.stack(roots + streams + steps))


def test_the_key_of_a_traced_step_is_that_of_the_number():
    key = keys.root_key(3)
    np.testing.assert_array_equal(bits(jax.jit(keys.at_step)(key, jnp.int32(5))), bits(keys.at_step(key, 5)))


def test_an_example_has_its_key_wherever_the_layout_puts_it():
    key, index = keys.root_key(1), jnp.arange(12)
    flat = keys.per_example(key, index)
    assert distinct(flat)
    np.testing.assert_array_equal(bits(keys.per_example(key, index.reshape(3, 4)).reshape(-1)), bits(flat))
    np.testing.assert_array_equal(bits(keys.per_example(key, index[7:9])), bits(flat[7:9]))
    np.testing.assert_array_equal(bits(keys.per_example(key, index[::-1])), bits(flat[::-1]))


def test_fold_each_folds_a_number_or_a_name_into_every_key():
    image_keys = keys.per_example(keys.root_key(1), jnp.arange(3))
    for i in range(3):
        np.testing.assert_array_equal(bits(keys.fold_each(image_keys, "z")[i]), bits(keys.stream(image_keys[i], "z")))
        np.testing.assert_array_equal(bits(keys.fold_each(image_keys, 4)[i]), bits(keys.at_step(image_keys[i], 4)))


def test_integers_are_drawn_from_each_key_alone():
    image_keys = keys.per_example(keys.root_key(1), jnp.arange(3))
    drawn = keys.integers(image_keys, (2, 50), low=3, high=6)
    for i in range(3):
        np.testing.assert_array_equal(drawn[i], jax.random.randint(image_keys[i], (2, 50), 3, 6))
        assert keys.integers(image_keys, high=7)[i] == jax.random.randint(image_keys[i], (), 0, 7)
    assert set(np.unique(drawn)) == {3, 4, 5}


def test_keys_are_folds_by_hand():
    root = keys.root_key(11)
    np.testing.assert_array_equal(bits(root), bits(jax.random.key(11)))
    np.testing.assert_array_equal(bits(keys.at_step(root, 5)), bits(jax.random.fold_in(root, 5)))
    index = np.array([[4, 0, 9], [2, 2, 1]], np.int32)
    each = keys.per_example(root, jnp.asarray(index))
    assert each.shape == (2, 3)
    for place, i in np.ndenumerate(index):
        np.testing.assert_array_equal(bits(each[place]), bits(jax.random.fold_in(root, i)))


def test_the_hash_of_a_stream_is_pinned():
    """A run that is resumed, or repeated next year, must find the same streams."""
    streams = {"flip": 0x9AFEE455, "sample": 0xF10B76C3, "": 0}
    assert {name: zlib.crc32(name.encode()) for name in streams} == streams
    for name, value in streams.items():
        expected = jax.random.fold_in(jax.random.key(0), np.uint32(value))
        np.testing.assert_array_equal(bits(keys.stream(keys.root_key(0), name)), bits(expected))


def test_draws_of_each_key_are_those_of_the_key_alone():
    each = keys.per_example(keys.root_key(3), jnp.arange(40))
    coins = keys.bernoulli(each, 0.3)
    np.testing.assert_array_equal(coins, [jax.random.bernoulli(key, 0.3) for key in each])
    assert 4 <= coins.sum() <= 20
    assert (keys.bernoulli(each, 0.0).sum(), keys.bernoulli(each, 1.0).sum()) == (0, 40)
    noise = keys.normal(each, (2, 3))
    assert noise.shape == (40, 2, 3)
    np.testing.assert_allclose(noise[7], jax.random.normal(each[7], (2, 3)), rtol=1e-6)


def test_uniform_draws_are_by_key_and_in_their_interval():
    each = jax.random.split(jax.random.key(0), 3)
    noise = keys.uniform(each, (40, 40, 1))
    np.testing.assert_array_equal(noise[1], jax.random.uniform(each[1], (40, 40, 1)))
    np.testing.assert_allclose([noise.mean(), noise.var()], [0.5, 1.0 / 12.0], atol=0.01)
    np.testing.assert_allclose(keys.uniform(each, (40, 40, 1), low=-1.0, high=3.0), 4.0 * noise - 1.0, atol=1e-6)
    assert keys.uniform(each).shape == (3,)
