"""Steps along the probability-flow ODE of a teacher, against paths that are known, and the teacher's guidance."""

import jax
import jax.numpy as jnp
import numpy as np
from specs import finished

from jaxgen.diffusion.few_step import distillation
from jaxgen.diffusion.process.algebra import per_image

SHAPE = (3, 4, 4, 2)


def images(seed):
    return jax.random.normal(jax.random.key(seed), SHAPE)


def test_a_step_towards_a_point_is_exact():
    point, x, t, r = images(0), images(1), jnp.array([5.0, 2.0, 0.1]), jnp.array([0.01, 1.0, 0.05])
    actual = distillation.heun_step(lambda x, sigma: point, x, t, r)
    np.testing.assert_allclose(actual, point + per_image(r / t) * (x - point), rtol=1e-4, atol=1e-4)


def test_a_step_is_the_trapezoid_from_t_to_r():
    def denoise(x, sigma):
        return 0.4 * x + per_image(sigma**2)

    x, t, r = np.asarray(images(1)), np.array([5.0, 2.0, 0.1]), np.array([3.0, 0.5, 0.07])
    wide_t, wide_r = t[:, None, None, None], r[:, None, None, None]
    slope = (0.6 * x - wide_t**2) / wide_t
    euler = x + (wide_r - wide_t) * slope
    expected = x + 0.5 * (wide_r - wide_t) * (slope + (0.6 * euler - wide_r**2) / wide_r)
    actual = distillation.heun_step(denoise, images(1), jnp.float32(t), jnp.float32(r))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_error_of_a_step_to_a_gaussian_is_of_third_order():
    tau, x, t = 0.7, images(0), jnp.full(3, 2.0)

    def error(length):
        r = t - length
        actual = distillation.heun_step(lambda x, s: x * per_image(tau**2 / (tau**2 + s**2)), x, t, r)
        return float(jnp.abs(actual - x * per_image(jnp.sqrt((r**2 + tau**2) / (t**2 + tau**2)))).max())

    assert abs(np.log2(error(0.4) / error(0.2)) - 3.0) < 0.5


def test_the_teacher_is_guided_by_its_classes():
    def denoise(variables, x, sigma, cond=None):
        label = cond.get("label", jnp.full(len(x), 2))
        return variables * per_image(label.astype(jnp.float32)) * jnp.ones_like(x)

    teacher, x, sigma = finished(denoise, SHAPE[1:], 2), images(0), jnp.ones(3)
    cond = {"label": jnp.array([0, 1, 2])}
    estimate = distillation.teacher_denoiser(teacher, 10.0, cond, guidance_scale=3.0)(x, sigma)
    np.testing.assert_allclose(estimate[:, 0, 0, 0], [20.0 - 3 * 20.0, 20.0 - 3 * 10.0, 20.0], rtol=1e-6)
    np.testing.assert_array_equal(distillation.teacher_denoiser(teacher, 10.0, {}, guidance_scale=3.0)(x, sigma), 20.0)
    plain = distillation.teacher_denoiser(teacher, 10.0, cond)(x, sigma)
    np.testing.assert_allclose(plain[:, 0, 0, 0], [0.0, 10.0, 20.0], rtol=1e-6)
    without_classes = finished(denoise, SHAPE[1:])
    estimate = distillation.teacher_denoiser(without_classes, 10.0, cond)(x, sigma)
    np.testing.assert_array_equal(estimate, 20.0)
