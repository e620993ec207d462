"""Paths, parameterizations and weightings: one algebra, checked where papers state results in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process import algebra, parameterizations, paths, weightings

PATHS = (paths.variance_preserving, paths.variance_exploding, paths.linear, paths.normalized)
PARAMETERIZATIONS = (
    parameterizations.eps,
    parameterizations.x0,
    parameterizations.v,
    parameterizations.score,
    parameterizations.scaled_score,
    parameterizations.velocity,
    parameterizations.edm,
)
SIGMA = jnp.array([0.02, 0.3, 1.0, 7.0])


def images(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (4, 2, 3, 1))


@pytest.mark.parametrize(("path", "parameterization"), [*itertools.product(PATHS, PARAMETERIZATIONS)])
def test_every_prediction_gives_image_and_noise_back_on_every_path(path, parameterization):
    x0, eps = images(0), images(1)
    mixture = algebra.mixture(path(), parameterization(), SIGMA)
    x_t, target = algebra.noisy(mixture, x0, eps), algebra.target(mixture, x0, eps)
    np.testing.assert_allclose(algebra.clean(mixture, x_t, target), x0, atol=2e-4)
    np.testing.assert_allclose(algebra.noise(mixture, x_t, target), eps, atol=2e-4)


@pytest.mark.parametrize(
    ("path", "alpha"),
    [
        (paths.variance_preserving(), 1 / np.sqrt(1 + np.asarray(SIGMA) ** 2)),
        (paths.variance_exploding(), np.ones(4)),
        (paths.linear(), 1 - np.asarray(SIGMA) / (1 + np.asarray(SIGMA))),
        (paths.normalized(sigma_data=2.0), 1 / np.sqrt(4 + np.asarray(SIGMA) ** 2)),
        (paths.normalized(), 1 / np.sqrt(0.25 + np.asarray(SIGMA) ** 2)),
    ],
)
def test_paths(path, alpha):
    np.testing.assert_allclose(path(SIGMA), alpha, rtol=1e-6)


ALPHA, STD = np.array([0.6, 1.4]), np.array([1.7, 0.2])
R = np.sqrt((STD / ALPHA) ** 2 + 0.3**2)


@pytest.mark.parametrize(
    ("parameterization", "a", "b"),
    [
        (parameterizations.eps(), [0.0, 0.0], [1.0, 1.0]),
        (parameterizations.x0(), [1.0, 1.0], [0.0, 0.0]),
        (parameterizations.v(), -STD, ALPHA),
        (parameterizations.score(), [0.0, 0.0], -1.0 / STD),
        (parameterizations.scaled_score(), [0.0, 0.0], [-1.0, -1.0]),
        (parameterizations.velocity(), [-1.0, -1.0], [1.0, 1.0]),
        (parameterizations.edm(sigma_data=0.3), STD / ALPHA / (0.3 * R), -0.3 / R),
        (parameterizations.edm(), *(x / np.hypot(STD / ALPHA, 0.5) for x in (2.0 * STD / ALPHA, np.full(2, -0.5)))),
    ],
)
def test_parameterizations(parameterization, a, b):
    ours = parameterization(jnp.float32(ALPHA), jnp.float32(STD))
    np.testing.assert_allclose(ours[0], a, rtol=1e-6)
    np.testing.assert_allclose(ours[1], b, rtol=1e-6)


def test_the_two_equations_and_their_solution_by_numbers():
    m = algebra.Mixture(*(jnp.float32([x]) for x in (2.0, 3.0, 0.5, -4.0)))
    x0, eps, one = jnp.full((1, 2, 3, 1), 7.0), jnp.full((1, 2, 3, 1), 11.0), jnp.ones((1, 2, 3, 1))
    assert m.determinant == 2.0 * -4.0 - 3.0 * 0.5
    np.testing.assert_allclose(algebra.noisy(m, x0, eps), (2 * 7 + 3 * 11) * one)
    np.testing.assert_allclose(algebra.target(m, x0, eps), (0.5 * 7 - 4 * 11) * one)
    np.testing.assert_allclose(algebra.clean(m, 47.0 * one, -40.5 * one), x0, rtol=1e-6)
    np.testing.assert_allclose(algebra.noise(m, 47.0 * one, -40.5 * one), eps, rtol=1e-6)
    np.testing.assert_allclose(algebra.prediction_weight(m, jnp.float32([5.0])), 5.0 * (3.0 / 9.5) ** 2, rtol=1e-6)


def test_velocity_is_the_derivative_of_the_linear_path():
    x0, eps = images(0), images(1)

    def x_t(t):
        sigma = jnp.full(4, t / (1 - t))
        return algebra.noisy(algebra.mixture(paths.linear(), parameterizations.velocity(), sigma), x0, eps)

    mixture = algebra.mixture(paths.linear(), parameterizations.velocity(), jnp.full(4, 0.4 / 0.6))
    np.testing.assert_allclose(jax.jacfwd(x_t)(0.4), algebra.target(mixture, x0, eps), atol=1e-5)


def test_v_turns_image_and_noise_by_a_right_angle():
    # Salimans & Ho 2022, section 4: with alpha = cos(phi), v is the derivative of x_t by phi.
    x0, eps = images(0), images(1)

    def x_t(phi):
        mixture = algebra.mixture(paths.variance_preserving(), parameterizations.v(), jnp.full(4, jnp.tan(phi)))
        return algebra.noisy(mixture, x0, eps)

    mixture = algebra.mixture(paths.variance_preserving(), parameterizations.v(), jnp.full(4, jnp.tan(0.7)))
    np.testing.assert_allclose(jax.jacfwd(x_t)(0.7), algebra.target(mixture, x0, eps), atol=1e-5)


def test_score_is_the_gradient_of_the_log_density():
    x0, eps = images(0), images(1)
    mixture = algebra.mixture(paths.variance_preserving(), parameterizations.score(), SIGMA)
    alpha, std = (algebra.per_image(c) for c in (mixture.alpha, mixture.std))

    def log_density(x_t):
        return -0.5 * jnp.sum(((x_t - alpha * x0) / std) ** 2)

    gradient = jax.grad(log_density)(algebra.noisy(mixture, x0, eps))
    np.testing.assert_allclose(gradient, algebra.target(mixture, x0, eps), rtol=1e-4)


def test_edm_is_the_preconditioning_of_its_paper():
    # Karras et al. 2022, table 1 and eq. 7: D = c_skip x + c_out F(c_in x).
    sigma_data, x0, eps = 0.5, images(0), images(1)
    sigma = np.asarray(SIGMA)[:, None, None, None]
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / np.sqrt(sigma**2 + sigma_data**2)
    x, prediction = x0 + sigma * eps, images(2)
    mixture = algebra.mixture(paths.normalized(), parameterizations.edm(), SIGMA)
    x_t = algebra.noisy(mixture, x0, eps)
    np.testing.assert_allclose(x_t, x / np.sqrt(sigma**2 + sigma_data**2), rtol=1e-5)
    np.testing.assert_allclose(algebra.clean(mixture, x_t, prediction), c_skip * x + c_out * prediction, atol=1e-4)


@pytest.mark.parametrize(
    ("weighting", "of_clean_image"),
    [
        (weightings.snr(), lambda snr: snr),
        (weightings.min_snr(gamma=2.0), lambda snr: np.minimum(snr, 2.0)),
        (weightings.soft_min_snr(gamma=2.0), lambda snr: snr * 2.0 / (snr + 2.0)),
        (weightings.p2(gamma=0.5, k=2.0), lambda snr: snr / np.sqrt(2.0 + snr)),
        (weightings.edm(sigma_data=0.3), lambda snr: snr + 1 / 0.09),
        (weightings.sigmoid(bias=1.0), lambda snr: snr / (1.0 + np.exp(np.log(snr) - 1.0))),
        (weightings.velocity(time_min=0.0), lambda snr: (1.0 + np.sqrt(snr)) ** 2),
        (weightings.velocity(), lambda snr: np.minimum((1.0 + np.sqrt(snr)) ** 2, 400.0)),  # Li & He 2025: t_eps = 0.05
        (weightings.velocity(time_min=0.4), lambda snr: np.minimum((1.0 + np.sqrt(snr)) ** 2, 6.25)),
        (weightings.min_snr(), lambda snr: np.minimum(snr, 5.0)),
        (weightings.soft_min_snr(), lambda snr: snr * 5.0 / (snr + 5.0)),
        (weightings.p2(), lambda snr: snr / (1.0 + snr)),
        (weightings.edm(), lambda snr: snr + 4.0),
        (weightings.sigmoid(), lambda snr: snr / (1.0 + snr)),
    ],
)
def test_a_weighting_means_the_same_for_every_parameterization(weighting, of_clean_image):
    snr = 1.0 / np.asarray(SIGMA, np.float64) ** 2
    for path, parameterization in itertools.product(PATHS, PARAMETERIZATIONS):
        mixture = algebra.mixture(path(), parameterization(), SIGMA)
        x_t, right, wrong = images(0), images(1), images(2)
        error = (right - wrong) ** 2
        clean_error = (algebra.clean(mixture, x_t, right) - algebra.clean(mixture, x_t, wrong)) ** 2
        ours = algebra.per_image(weighting(mixture, SIGMA)) * error
        expected = np.asarray(of_clean_image(snr))[:, None, None, None] * np.asarray(clean_error)
        np.testing.assert_allclose(ours, expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("weighting", "path", "parameterization"),
    [
        (weightings.snr(), paths.variance_preserving(), parameterizations.eps()),
        (weightings.velocity(time_min=0.0), paths.linear(), parameterizations.velocity()),
        (weightings.edm(sigma_data=0.3), paths.normalized(sigma_data=0.3), parameterizations.edm(sigma_data=0.3)),
    ],
)
def test_weightings_are_uniform_for_the_predictions_that_they_come_from(weighting, path, parameterization):
    mixture = algebra.mixture(path, parameterization, SIGMA)
    np.testing.assert_allclose(weighting(mixture, SIGMA), weightings.uniform()(mixture, SIGMA), rtol=1e-5)
