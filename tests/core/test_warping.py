"""Warps: resampling by a matrix from the center of an image, and the mirror image beyond its borders."""

import jax.numpy as jnp
import numpy as np

from jaxgen.core import warping


def test_a_warp_reads_where_the_matrix_says_from_the_center_of_an_oblong_image():
    y, x = np.meshgrid(np.arange(24.0) - 11.5, np.arange(40.0) - 19.5, indexing="ij")
    planes = jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)
    matrix = jnp.array([[0.7, 0.2, 2.5], [-0.3, 0.8, -1.25], [0.0, 0.0, 1.0]])
    warped = warping.warp(planes, matrix)
    expected = np.stack([0.7 * x + 0.2 * y + 2.5, -0.3 * x + 0.8 * y - 1.25], axis=-1)
    inside = (np.abs(expected) < [15.0, 7.0]).all(axis=-1) & (np.abs(x) < 15) & (np.abs(y) < 7)
    assert inside.sum() > 100
    np.testing.assert_allclose(warped[inside], expected[inside], atol=0.03)
    np.testing.assert_allclose(warping.warp(planes, jnp.eye(3)), planes, atol=1e-4)


def test_beyond_the_borders_is_the_mirror_image_and_beyond_that_nothing():
    ramp = jnp.arange(8.0)[:, None, None] * jnp.ones((8, 4, 1)) + 1.0
    moved = warping.warp(ramp, warping.translation(jnp.float32(0.0), jnp.float32(-5.0)))[:, 1, 0]
    np.testing.assert_allclose(moved, np.abs(np.arange(8) - 5) + 1.0, atol=0.06)
    far = warping.warp(ramp, warping.translation(jnp.float32(0.0), jnp.float32(-30.0)))
    np.testing.assert_allclose(far, 0.0, atol=1e-6)


def test_matrices_scale_turn_from_x_to_y_and_move():
    point = np.array([2.0, 3.0, 1.0])
    np.testing.assert_allclose(warping.scaling(jnp.float32(0.5), jnp.float32(4.0)) @ point, [1.0, 12.0, 1.0])
    np.testing.assert_allclose(warping.rotation(jnp.float32(np.pi / 2)) @ point, [-3.0, 2.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(warping.translation(5.0, -1.0) @ point, [7.0, 2.0, 1.0])
