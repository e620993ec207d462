"""Augmentation: labels that tell what was done, and nothing done where they are zero."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion import augmentation


def ramps(n: int) -> jax.Array:
    """Images whose two channels are the row and the column."""
    rows, columns = jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing="ij")
    return jnp.broadcast_to(jnp.stack([rows, columns], axis=-1), (n, 8, 8, 2))


def augment(n: int, probability: float):
    keys = jax.random.split(jax.random.key(0), n)
    call = jax.jit(lambda keys, images: augmentation.augment(keys, images, probability=probability))
    return keys, call, *call(keys, ramps(n))


def test_without_probability_only_flips_are_left_and_they_are_labeled():
    _, _, images, labels = augment(64, 0.0)
    np.testing.assert_array_equal(labels[:, 1:], 0.0)
    flipped = labels[:, 0] == 1.0
    assert 10 < flipped.sum() < 54
    np.testing.assert_allclose(images[~flipped], ramps(64)[~flipped], atol=1e-5)
    np.testing.assert_allclose(images[flipped], jnp.flip(ramps(64)[flipped], axis=2), atol=1e-5)


def test_labels_are_zero_where_the_image_is_unchanged_and_only_there():
    _, _, images, labels = augment(200, 0.1)
    changed = np.abs(images - ramps(200)).max(axis=(1, 2, 3)) > 1e-4
    np.testing.assert_array_equal(changed, np.any(labels != 0.0, axis=1))
    assert 0.5 < changed.mean() < 0.95
    assert labels.shape == (200, augmentation.NUM_LABELS)
    assert np.all(np.any(labels != 0.0, axis=0))


def test_an_image_does_not_depend_on_its_batch():
    keys, call, images, labels = augment(16, 0.5)
    part, part_labels = call(keys[3:5], ramps(2))
    np.testing.assert_allclose(part, images[3:5], atol=1e-5)
    np.testing.assert_allclose(part_labels, labels[3:5], atol=1e-6)


def test_a_rotation_turns_about_the_center():
    _, _, images, labels = augment(200, 0.1)
    others = np.delete(np.asarray(labels), [3, 4], axis=1)
    turned = int(np.argmax(np.any(labels[:, 3:5] != 0.0, axis=1) & np.all(others == 0.0, axis=1)))
    cos, sin = labels[turned, 3] + 1.0, labels[turned, 4]
    np.testing.assert_allclose(cos**2 + sin**2, 1.0, rtol=1e-5)
    np.testing.assert_allclose(images[turned, 3:5, 3:5].mean(axis=(0, 1)), [3.5, 3.5], atol=1e-4)
    step = images[turned, 3, 4] - images[turned, 3, 3]  # where one pixel to the right comes from
    np.testing.assert_allclose(np.linalg.norm(step), 1.0, atol=1e-3)
