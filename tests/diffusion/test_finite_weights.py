"""Losses at both ends of the noise levels: finite, with their gradients, for every combination of pieces."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process import (
    algebra,
    noise_labels,
    noise_process,
    parameterizations,
    paths,
    schedules,
    times,
    uniforms,
    weightings,
)

ENDS = jnp.array([uniforms.MARGIN, 1.0 - uniforms.MARGIN])


def pieces(module):
    """The functions that a config may name in a module, with their defaults."""
    functions = vars(module).values()
    return [
        f() for f in functions if inspect.isfunction(f) and f.__module__ == module.__name__ and f.__name__[0] != "_"
    ]


SCHEDULES = [
    *pieces(schedules),
    schedules.flow(shift=0.1),
    schedules.flow(shift=16.0),
    schedules.cosine(num_timesteps=64),
]
SIGMA = jnp.concatenate(
    [schedule.sigma(jnp.array([0.0, 1.0])) for schedule in SCHEDULES]
    + [draw(schedule, ENDS) for schedule, draw in itertools.product(SCHEDULES, pieces(times))]
)


def test_noise_levels_end_where_float32_can_square_them():
    assert len(SIGMA) == 2 * 10 * 4
    assert SIGMA.min() > 1e-6
    assert SIGMA.max() < 1e5
    for label in pieces(noise_labels):
        assert np.isfinite(label(schedules.linear(), SIGMA)).all()


PAIRS = [*itertools.product(pieces(paths), pieces(parameterizations))]


def test_every_loss_and_its_gradient_is_finite():
    """Of every path with every parameterization, whose levels follow each other in one array."""
    images = np.float32([[0.3, -0.9], [-1.2, 0.4], [0.7, -0.2]])[:, None, None, None, :]
    sigma = jnp.tile(SIGMA, len(PAIRS))
    x0, eps, prediction = jnp.asarray(np.broadcast_to(images, (3, len(sigma), 1, 1, 2)))

    def losses(prediction, sigma):
        parts = zip(PAIRS, jnp.split(sigma, len(PAIRS)), strict=True)
        mixtures = [algebra.mixture(*pair, part) for pair, part in parts]
        mixture = jax.tree.map(lambda *parts: jnp.concatenate(parts), *mixtures)
        errors = jnp.sum((algebra.target(mixture, x0, eps) - prediction) ** 2, axis=(1, 2, 3))
        estimates = [algebra.clean(mixture, x0, prediction), algebra.noise(mixture, x0, prediction)]
        weights = [weighting(mixture, sigma) for weighting in pieces(weightings)]
        return jnp.stack([*(weight * errors for weight in weights), *(e.sum(axis=(1, 2, 3)) for e in estimates)])

    assert (len(PAIRS), len(pieces(weightings))) == (4 * 7, 8)

    @jax.jit
    def with_gradients(prediction, sigma):
        values, pullback = jax.vjp(losses, prediction, sigma)
        rows = jnp.broadcast_to(jnp.eye(len(values))[..., None], (len(values), *values.shape))
        return values, *jax.vmap(pullback)(rows)

    for array in with_gradients(prediction, sigma):
        finite = np.isfinite(np.moveaxis(np.asarray(array), 1, 0).reshape(len(PAIRS), -1)).all(axis=1)
        assert finite.all(), [PAIRS[i] for i in np.flatnonzero(~finite)]


def test_uniforms_keep_away_from_both_ends(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 2)
    for drawn, expected in ((0.0, 2.0**-24), (1.0, 1.0 - 2.0**-24), (0.25, 0.25)):
        monkeypatch.setattr(jax.random, "uniform", lambda *_, drawn=drawn, **__: jnp.float32(drawn))
        np.testing.assert_array_equal(uniforms.independent(keys), np.float32(expected))
        lowest = uniforms.low_discrepancy(keys[0], jnp.array([0]), 4)
        np.testing.assert_array_equal(lowest, np.float32(expected if drawn < 1.0 else 2.0**-24))
    assert 0.0 < np.float32(2.0**-24) < 2.0**-23
    assert np.float32(1.0 - 2.0**-24) < 1.0


FLOW = {"path": "linear", "parameterization": "x0", "schedule": "flow", "noise_label": "time", "times": "uniform"}


@pytest.mark.parametrize(
    ("changes", "infinite"),
    [
        ({}, False),
        ({"weighting": "p2(gamma=-9.0)"}, True),
        ({"weighting": "p2(gamma=-9.0)", "schedule": "log_linear(sigma_min=1.0)"}, False),
        ({"times": "log_normal(mean=-50.0)"}, True),
        ({"times": "log_normal(mean=30.0)", "weighting": "uniform"}, False),
        ({"schedule": "flow(time_min=1e-25)"}, True),
        ({"schedule": "flow", "shift": 1e-20}, True),
    ],
)
def test_weights_that_are_infinite_at_an_end_are_refused(changes, infinite):
    settings = {**FLOW, "weighting": "snr", **changes}
    if not infinite:
        noise_process.make_process(**settings)
        return
    with pytest.raises(ValueError, match=r"diffusion\.weighting is .*, but must be finite"):
        noise_process.make_process(**settings)
