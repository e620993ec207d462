"""The latent space of a generator: paths, mixing, directions against eigenvectors, projection on invertible maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.applications.latents import directions, interpolation, mixing, truncation
from jaxgen.core.keys import truncated_normal

KEYS = jax.random.split(jax.random.key(0), 400)
A, B = jax.random.normal(jax.random.key(1), (2, 3, 5))
T = jnp.array([0.0, 0.3, 1.0])


def test_truncated_latents_keep_the_shape_of_the_normal_distribution():
    z = jax.jit(lambda: truncated_normal(KEYS, (50,), bound=0.5))()
    assert z.shape == (400, 50)
    assert 0.49 < jnp.abs(z).max() <= 0.5
    # The variance of the standard normal distribution between -0.5 and 0.5.
    np.testing.assert_allclose(jnp.var(z), 1.0 - 0.5 * 2.0 * 0.3520653 / 0.3829249, rtol=0.03)
    np.testing.assert_array_equal(truncated_normal(KEYS[3:4], (50,), bound=0.5)[0], z[3])
    with pytest.raises(ValueError, match=r"bound of truncated latents is 0\.0"):
        truncated_normal(KEYS, (2,), bound=0.0)


def test_the_mean_style_is_that_of_random_latents_under_the_conditions():
    def styles(variables, latents, cond):
        w = variables + 2.0 * latents + cond["label"][:, None]
        return jnp.stack([w, 2.0 * w], axis=1)

    cond = {"label": jnp.full(400, 7.0)}
    mean, deviation = truncation.mean_style(KEYS, styles, jnp.array([[1.0, -1.0, 0.0]]), (3,), cond)
    np.testing.assert_allclose(mean, [[8.0, 6.0, 7.0], [16.0, 12.0, 14.0]], atol=0.6)
    np.testing.assert_allclose(deviation, 2.0 * np.sqrt(3.0), rtol=0.05)  # of the first layer


def test_a_line_and_an_arc_lead_from_one_point_to_another():
    line, arc = interpolation.linear(A, B, T), interpolation.spherical(A, B, T)
    np.testing.assert_allclose(line[1], 0.7 * A + 0.3 * B, rtol=1e-5)
    for points in (line, arc):
        np.testing.assert_allclose(points[0], A, atol=1e-6)
        np.testing.assert_allclose(points[2], B, atol=1e-5)
    x, y = jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])
    angle = 0.3 * np.pi / 2
    np.testing.assert_allclose(interpolation.spherical(x, y, T)[1], [2 * np.cos(angle), 2 * np.sin(angle)], rtol=1e-5)
    np.testing.assert_allclose(interpolation.spherical(x, 3.0 * x, T)[1], 0.7 * x + 0.3 * 3.0 * x, rtol=1e-5)


@pytest.mark.parametrize("arcs", [False, True])
def test_a_path_passes_through_its_points(arcs):
    points = jnp.stack([A, B, -0.5 * A])
    between = interpolation.spherical if arcs else interpolation.linear
    path = interpolation.path(points, 2, arcs=arcs)
    expected = [A, between(A, B, jnp.array([0.5]))[0], B, between(B, -0.5 * A, jnp.array([0.5]))[0], -0.5 * A]
    np.testing.assert_allclose(path, np.stack(expected), atol=1e-5)
    closed = interpolation.path(points, 2, arcs=arcs, closed=True)
    assert closed.shape == (6, 3, 5)
    np.testing.assert_allclose(closed[:5], path, atol=1e-5)
    np.testing.assert_allclose(closed[5], between(-0.5 * A, A, jnp.array([0.5]))[0], atol=1e-5)


def test_paths_of_one_point_or_no_step_are_refused():
    with pytest.raises(ValueError, match="not 1 and 2"):
        interpolation.path(A[None], 2)
    with pytest.raises(ValueError, match="not 2 and 0"):
        interpolation.path(jnp.stack([A, B]), 0)


def test_mixing_takes_some_layers_of_the_columns():
    coarse, fine = jnp.arange(8.0).reshape(2, 4, 1), -1.0 - jnp.arange(12.0).reshape(3, 4, 1)
    mixed = mixing.mix(coarse, fine, first=1, last=3)
    assert mixed.shape == (2, 3, 4, 1)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(mixed[i, j, [0, 3]], coarse[i, [0, 3]])
            np.testing.assert_array_equal(mixed[i, j, 1:3], fine[j, 1:3])
    np.testing.assert_array_equal(mixing.mix(coarse, fine, first=2)[1, 2, 2:], fine[2, 2:])
    for first, last in ((-1, 2), (2, 2), (1, 5)):
        with pytest.raises(
            ValueError, match=f"from {first} to {last} are mixed, but must be a part of those from 0 to 4"
        ):
            mixing.mix(coarse, fine, first=first, last=last)


def test_sefa_finds_the_directions_that_the_weights_amplify():
    """Of weights of all layers side by side, with columns of unit norm: eigenvectors of A A^T."""
    kernels = [jax.random.normal(jax.random.key(i), (6, n)) * 10.0**i for i, n in enumerate((9, 4))]
    found = directions.sefa(kernels, 3)
    matrix = np.concatenate([kernel / np.linalg.norm(kernel, axis=0) for kernel in map(np.asarray, kernels)], axis=1)
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    for i in range(3):
        assert abs(float(found.vectors[i] @ vectors[:, -1 - i])) == pytest.approx(1.0, abs=1e-4)
        assert float(found.scales[i] ** 2) == pytest.approx(values[-1 - i], rel=1e-4)
        assert found.vectors[i][jnp.argmax(jnp.abs(found.vectors[i]))] > 0
    for weights, message in (([], "there are none"), ([kernels[0], kernels[1][:5]], "there are 6, 5")):
        with pytest.raises(ValueError, match=message):
            directions.sefa(weights, 1)
    with pytest.raises(ValueError, match="7 directions are asked for, but there can be from 1 to 6"):
        directions.sefa(kernels, 7)


def test_ganspace_finds_the_principal_components():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].T
    coordinates = jax.random.normal(jax.random.key(2), (4000, 5)) * jnp.array([[3.0, 2.0, 1.0, 0.1, 0.1]])
    styles = coordinates @ basis + 7.0
    found = directions.principal_components(styles, 2)
    for i, scale in enumerate((3.0, 2.0)):
        assert abs(float(found.vectors[i] @ basis[i])) == pytest.approx(1.0, abs=0.01)
        assert float(found.scales[i]) == pytest.approx(scale, rel=0.05)
    with pytest.raises(ValueError, match="3 directions are asked for, but there can be from 1 to 2"):
        directions.principal_components(styles[:3], 3)
    with pytest.raises(ValueError, match="6 directions are asked for, but there can be from 1 to 5"):
        directions.principal_components(styles, 6)


def test_ganspace_carries_components_of_activations_over_to_latents():
    """Activations of a linear layer, whose components come from latents along its singular vectors."""
    left, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    right, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 3)))
    z = jax.random.normal(jax.random.key(3), (4000, 3))
    found = directions.regressed_components(z, z @ (left * np.array([4.0, 2.0, 1.0])) @ right.T + 5.0, 2)
    for i, scale in enumerate((4.0, 2.0)):
        assert abs(float(found.vectors[i] @ left[:, i])) == pytest.approx(1.0, abs=0.01)
        assert float(found.scales[i]) == pytest.approx(scale, rel=0.05)
        assert float(jnp.linalg.norm(found.vectors[i])) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="4 directions are asked for, but there can be from 1 to 3"):
        directions.regressed_components(z[:20], z[:20] @ right.T, 4)


def test_points_are_moved_along_each_direction_by_each_distance():
    vectors, distances = jnp.eye(5)[:2], jnp.array([-1.0, 0.0, 2.0])
    moved = directions.traverse(jnp.stack([A, B]), vectors, distances)  # styles of 3 layers
    assert moved.shape == (2, 2, 3, 3, 5)
    np.testing.assert_array_equal(moved[:, :, 1], np.stack([np.stack([A, A]), np.stack([B, B])]))
    np.testing.assert_allclose(moved[1, 1, 2] - B, np.tile([0.0, 2.0, 0.0, 0.0, 0.0], (3, 1)), atol=1e-6)
    flat = directions.traverse(A, vectors, distances)
    np.testing.assert_allclose(flat[2, 0, 0], A[2] - jnp.eye(5)[0], atol=1e-6)
