"""Schedules of settings against their formulas, and the sentences for those that are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.schedules import Curve, constant, cosine, half_life, linear, piecewise

STEPS = np.array([0, 1, 7, 10, 19, 20, 21, 1_000_000])
PART = np.minimum(STEPS / 20.5, 1.0)
HALF = 0.5 * (1 - np.cos(np.pi * PART))

CASES = {
    # A text, its values at STEPS, and the range.
    "constant(value=0.25)": (np.full(8, 0.25), 0.25, 0.25),
    "linear(start=2, end=0.5, steps=20.5)": (2.0 - 1.5 * PART, 0.5, 2.0),
    "linear(start=-1.0, end=3.0, steps=20.5)": (-1.0 + 4.0 * PART, -1.0, 3.0),
    "cosine(start=0.9, end=0.99, steps=20.5)": (0.9 + 0.09 * HALF, 0.9, 0.99),
    "cosine(start=2e-4, end=5e-5, steps=20.5)": (2e-4 - 1.5e-4 * HALF, 5e-5, 2e-4),
    "exponential(start=2.0, end=0.5, steps=20.5)": (2.0 * 0.25**PART, 0.5, 2.0),
    "exponential(start=1e-4, end=1e-2, steps=20.5)": (1e-4 * 100.0**PART, 1e-4, 1e-2),
    "piecewise(boundaries=(1, 20), values=(3.0, 1.0, 2.0))": (np.array([3, 1, 1, 1, 1, 2, 2, 2]), 1.0, 3.0),
    "piecewise(boundaries=(), values=(3.0,))": (np.full(8, 3.0), 3.0, 3.0),
    "half_life(steps=50)": (np.full(8, 2 ** (-1 / 50)), 2 ** (-1 / 50), 2 ** (-1 / 50)),
    "half_life(steps=0.0)": (np.zeros(8), 0.0, 0.0),
    "half_life(steps=5.0, ramp=0.25)": (2 ** (-1 / np.clip(STEPS / 4, 1e-8, 5)), 0.0, 2 ** (-1 / 5)),
    "half_life(steps='linear(start=0.0, end=41, steps=20.5)')": (
        2 ** (-1 / np.maximum(41 * PART, 1e-8)),
        0.0,
        2 ** (-1 / 41),
    ),
    'half_life(steps="cosine(start=2.0, end=4.0, steps=20.5)", ramp=0.1)': (
        2 ** (-1 / np.maximum(np.minimum(2 + 2 * HALF, STEPS / 10), 1e-8)),
        0.0,
        2 ** (-1 / 4),
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_a_text_is_the_schedule_of_its_formula(text):
    values, low, high = CASES[text]
    curve = Curve.of(text, where="gan.gamma")
    ours, rest = jax.jit(lambda steps: (jax.vmap(curve)(steps), jax.vmap(curve.rest)(steps)))(jnp.array(STEPS))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, values, rtol=3e-6, atol=1e-9)
    np.testing.assert_allclose(rest, 1.0 - values, rtol=3e-6, atol=1e-7)
    np.testing.assert_allclose((curve.low, curve.high), (low, high), rtol=1e-12, atol=1e-30)


def test_both_ends_are_exact_and_all_steps_after_them_too():
    for schedule in (linear, cosine):
        curve = schedule(start=0.1, end=0.7, steps=3)
        for step, value in ((0, 0.1), (3, 0.7), (4, 0.7), (2**30, 0.7)):
            assert float(curve(jnp.int32(step))) == np.float32(value)


def test_the_rest_has_the_digits_that_one_minus_the_value_loses():
    """The weight of new parameters in an average of R3GAN's half-life, 5M images in batches of 512."""
    steps = 5_000_000 / 512
    exact = -np.expm1(-np.log(2) / steps)
    for curve in (
        half_life(steps=steps),
        constant(value=0.5 ** (1 / steps)),
        half_life(steps=f"constant(value={steps})"),
    ):
        np.testing.assert_allclose(float(curve.rest(jnp.int32(9))), exact, rtol=1e-6)
    late = cosine(start=0.9, end=1.0 - 1e-5, steps=100)
    np.testing.assert_allclose(float(late.rest(jnp.int32(100))), 1e-5, rtol=1e-6)


def test_a_number_is_constant_and_a_curve_stays_as_it_is():
    for number in (3, 3.0):
        curve = Curve.of(number, where="x")
        assert (float(curve(jnp.int32(5))), curve.low, curve.high) == (3.0, 3.0, 3.0)
    assert Curve.of(curve, where="x") is curve


def test_curves_are_scaled_and_raised_to_powers():
    curve = linear(start=0.25, end=0.75, steps=2)
    steps = jnp.arange(4)
    for changed, values in (
        (curve.scaled(3.0), [0.75, 1.5, 2.25, 2.25]),
        (curve.power(2.0), [1 / 16, 1 / 4, 9 / 16, 9 / 16]),
    ):
        np.testing.assert_allclose(jax.vmap(changed)(steps), values, rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(changed.rest)(steps), 1.0 - np.array(values), rtol=1e-6)
        np.testing.assert_allclose((changed.low, changed.high), (values[0], values[2]), rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "bounds", "sentence"),
    [
        ("cosin(start=1.0)", {}, r"^p is 'cosin', but must be one of constant, linear, cosine, .*Did"),
        ("cosine(start=1.0)", {}, r"^p=cosine lacks end, steps: "),
        ("linear(start=1.0, end='a', steps=3)", {}, r"^p=linear\.end is 'a', but must be of type int"),
        ("linear(start=1.0, end=1e999, steps=3)", {}, r"^p=linear\.end is inf, but must be a finite number"),
        ("0.5 or more", {}, r"^p is '0\.5 or more', but must be a name, or a call with named values"),
        ("linear(start=1.0, end=2.0, steps=0)", {}, r"^A schedule linear has steps=0, but must have a pos"),
        ("cosine(start=1.0, end=2.0, steps=-1)", {}, r"^A schedule cosine has steps=-1, but must have a pos"),
        ("exponential(start=1.0, end=2.0, steps=0)", {}, r"^A schedule exponential has steps=0, but must have a pos"),
        ("exponential(start=1.0, end=0.0, steps=3)", {}, r"has start=1\.0 and end=0\.0, but both must be positive\.$"),
        ("exponential(start=-1.0, end=1.0, steps=3)", {}, r"has start=-1\.0 and end=1\.0, but both must be"),
        ("piecewise(boundaries=(5, 5), values=(1.0, 2.0, 3.0))", {}, r"has boundaries=\(5, 5\) .* growing boundaries"),
        ("piecewise(boundaries=(0,), values=(1.0, 2.0))", {}, r"growing boundaries of at least 1"),
        ("piecewise(boundaries=(5,), values=(1.0,))", {}, r"one value more than boundaries\.$"),
        ("half_life(steps=-1.0)", {}, r"^The half-life's steps is -1\.0, but must be at least 0 at every step\.$"),
        ("half_life(steps=1.0, ramp=0.0)", {}, r"^The half-life's ramp is 0\.0, but must be positive, or None"),
        ("linear(start=0, end=1.5, steps=9)", {"low": 0.0, "high": 1.0}, r"at least 0 and at most 1 at every step\.$"),
        ("linear(start=0.0, end=1.0, steps=9)", {"high": 1.0, "below_high": True}, r"must be below 1 at every step\.$"),
        ("linear(start=1.0, end=-1.0, steps=9)", {"low": 0.0}, r"must be at least 0 at every step\.$"),
        (constant(value=2.0), {"high": 1.0}, r"^p is from 2 to 2, but must be at most 1 at every step\.$"),
        (-2.0, {"low": 0.0}, r"^p is -2\.0, but must be at least 0 at every step\.$"),
        (True, {}, r"^p is True, but must be a number or a schedule"),
        (None, {}, r"^p is None, but must be a number or a schedule"),
        (float("nan"), {}, r"^p is nan, but must be a finite number"),
    ],
)  # fmt: skip
def test_a_schedule_that_is_wrong_is_refused_in_one_sentence(setting, bounds, sentence):
    with pytest.raises(ValueError, match=sentence):
        Curve.of(setting, where="p", **bounds)


def test_values_at_the_bounds_are_taken():
    Curve.of("linear(start=0.0, end=1.0, steps=9)", where="p", low=0.0, high=1.0)
    Curve.of("piecewise(boundaries=(1,), values=(0.0, 0.9))", where="p", low=0.0, high=1.0, below_high=True)
    piecewise(boundaries=(1,), values=(0.0, 0.9))
