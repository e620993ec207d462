"""Average velocities: the MeanFlow identity holds for known ones, which take noise to data in any number of steps."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.few_step import mean_flow
from jaxgen.diffusion.process.algebra import per_image

TAU = 0.4
Z = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))
R, T = jnp.array([0.0, 0.2, 0.5, 0.7]), jnp.array([1.0, 0.3, 0.9, 0.7])


def std(t):
    """Of z_t, for data from N(0, tau^2)."""
    return jnp.sqrt(((1.0 - t) * TAU) ** 2 + t**2)


def gaussian_average(z, r, t):
    """Paths are z_t = std(t) xi, so u = (z_t - z_r) / (t - r)."""
    gap = jnp.where(t > r, t - r, 1.0)
    instantaneous = jax.vmap(jax.grad(lambda t: jnp.log(std(t))))(t)
    return z * per_image(jnp.where(t > r, (1.0 - std(r) / std(t)) / gap, instantaneous))


def test_the_identity_holds_for_the_average_velocity_of_a_gaussian():
    velocity = gaussian_average(Z, T, T)
    u, target = mean_flow.velocity_and_target(gaussian_average, Z, R, T, velocity)
    np.testing.assert_allclose(target, u, rtol=1e-4, atol=1e-5)
    assert np.abs(target - velocity)[:3].max(axis=(1, 2, 3)).min() > 1e-3


def test_the_identity_does_not_hold_for_another_function():
    u, target = mean_flow.velocity_and_target(
        lambda z, r, t: 1.1 * gaussian_average(z, r, t), Z, R, T, gaussian_average(Z, T, T)
    )
    assert np.abs(target - u).max(axis=(1, 2, 3)).min() > 1e-2


def test_without_an_interval_the_target_is_the_velocity_and_no_gradient_enters_it():
    velocity = jnp.ones_like(Z)

    def target(scale):
        return mean_flow.velocity_and_target(lambda z, r, t: jnp.sin(scale * z) + per_image(t), Z, R, T, velocity)[1]

    np.testing.assert_array_equal(target(2.0)[3], velocity[3])
    assert np.abs(target(2.0) - target(3.0)).max() > 0.1
    assert jax.grad(lambda scale: target(scale).sum())(2.0) == 0.0


def test_steps_of_the_average_velocity_are_exact_however_few():
    for num_steps in (1, 2, 4):
        actual = mean_flow.flow_map(gaussian_average, Z, num_steps=num_steps)
        np.testing.assert_allclose(actual, TAU * Z, rtol=1e-4, atol=1e-5)


def test_the_adaptive_loss_scales_the_gradient_of_squared_errors():
    squared = np.sum(np.asarray(Z) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(mean_flow.adaptive_loss(Z, power=0.0), squared, rtol=1e-5)
    gradient = jax.grad(lambda d: mean_flow.adaptive_loss(d, power=0.75, floor=0.1).sum())(Z)
    np.testing.assert_allclose(gradient, 2.0 * Z / ((squared + 0.1) ** 0.75)[:, None, None, None], rtol=1e-5)
    gradient = jax.grad(lambda d: mean_flow.adaptive_loss(d).sum())(0.01 * Z)  # of the paper: p = 1, c = 1e-3
    expected = 2.0 * 0.01 * Z / (1e-4 * squared + 1e-3)[:, None, None, None]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)
    np.testing.assert_allclose(
        mean_flow.adaptive_loss(Z, power=0.75, floor=0.1), squared / (squared + 0.1) ** 0.75, rtol=1e-5
    )


def test_the_target_is_v_minus_the_interval_times_the_derivative_along_the_path():
    def average(z, r, t):
        return z**2 + 3.0 * per_image(t) * z + 5.0 * per_image(r)

    velocity = jnp.cos(Z)
    u, target = mean_flow.velocity_and_target(average, Z, R, T, velocity)
    derivative = (2.0 * Z + 3.0 * per_image(T)) * velocity + 3.0 * Z
    np.testing.assert_allclose(u, average(Z, R, T), rtol=1e-6)
    np.testing.assert_allclose(target, velocity - per_image(T - R) * derivative, rtol=1e-4, atol=1e-5)


def test_the_flow_map_steps_down_in_equal_times():
    def average(z, r, t):
        return 0.5 * z + per_image(t**2 - 3.0 * r)

    z = np.asarray(Z)
    for t, r in ((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0)):
        z = z - (t - r) * (0.5 * z + t**2 - 3.0 * r)
    np.testing.assert_allclose(mean_flow.flow_map(average, Z, num_steps=3), z, rtol=1e-5, atol=1e-6)
