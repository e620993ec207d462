"""Styles: truncation towards their average, the average of batches, mixing of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import styles

WS = jax.random.normal(jax.random.key(0), (3, 4, 2))
AVERAGE = jnp.array([1.0, -2.0])


def test_truncation_moves_the_first_layers_towards_the_average():
    expected = np.asarray(AVERAGE) + 0.25 * (np.asarray(WS) - np.asarray(AVERAGE))
    np.testing.assert_allclose(styles.truncate(WS, AVERAGE, psi=0.25), expected, rtol=1e-6)
    some = styles.truncate(WS, AVERAGE, psi=0.25, cutoff=3)
    np.testing.assert_allclose(some[:, :3], expected[:, :3], rtol=1e-6)
    np.testing.assert_array_equal(some[:, 3:], WS[:, 3:])
    np.testing.assert_array_equal(styles.truncate(WS, AVERAGE, psi=1.0), WS)


def test_the_average_moves_by_a_part_of_the_batchs_own_mean():
    w = WS[:, 0]
    moved = styles.moved_average(AVERAGE, w, decay=0.9, axis_name=None)
    np.testing.assert_allclose(moved, 0.9 * AVERAGE + 0.1 * w.mean(0), rtol=1e-6)
    spread = jax.vmap(lambda w: styles.moved_average(AVERAGE, w[None], decay=0.9, axis_name="i"), axis_name="i")(w)
    np.testing.assert_allclose(spread, np.broadcast_to(moved, (3, 2)), rtol=1e-6)
    gradient = jax.grad(lambda w: styles.moved_average(AVERAGE, w, decay=0.9, axis_name=None).sum())(w)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(w))


def test_mixing_replaces_the_last_layers_of_some_images():
    """Crossovers are uniform over 1, 2, 3 of 4 layers, and an image without one keeps all."""
    n = 600
    mixing = jax.jit(
        lambda probability: styles.mixed(
            jnp.zeros((n, 4, 2)),
            jax.random.split(jax.random.key(1), n),
            lambda z: 1.0 + 0.0 * z[:, :1, None] + jnp.zeros((n, 4, 2)),
            latent_dim=5,
            probability=probability,
        ),
        static_argnums=0,
    )
    layers = np.asarray(mixing(0.6)[:, :, 0])
    assert np.all(np.diff(layers, axis=1) >= 0)
    counts = np.bincount(layers.sum(1).astype(int), minlength=5) / n
    np.testing.assert_allclose(counts, [0.4, 0.2, 0.2, 0.2, 0.0], atol=0.06)
    np.testing.assert_allclose(np.bincount(np.asarray(mixing(1.0)[:, :, 0]).sum(1).astype(int))[0], 0)


def test_mixing_needs_keys_unless_there_is_none():
    with pytest.raises(ValueError, match=r"style_mixing=0\.5 needs keys"):
        styles.mixed(WS, None, lambda z: WS, latent_dim=5, probability=0.5)
    assert styles.mixed(WS, None, lambda z: WS, latent_dim=5, probability=0.0) is WS
