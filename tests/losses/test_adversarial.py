"""Adversarial losses against their papers' formulas, in probabilities, and at the extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.adversarial import LOSSES

REAL = jnp.array([-2.0, 0.0, 0.5, 3.0])
FAKE = jnp.array([1.0, -0.5, -4.0, 2.0])


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.asarray(x, np.float64)))


EXPECTED = {
    "minimax": (np.log(1 - sigmoid(FAKE)), -np.log(sigmoid(REAL)) - np.log(1 - sigmoid(FAKE))),
    "non_saturating": (-np.log(sigmoid(FAKE)), -np.log(sigmoid(REAL)) - np.log(1 - sigmoid(FAKE))),
    "least_squares": (0.5 * (FAKE - 1) ** 2, 0.5 * (REAL - 1) ** 2 + 0.5 * FAKE**2),
    "hinge": (-FAKE, np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE)),
    "wasserstein": (-FAKE, FAKE - REAL),
}


def test_every_loss_has_a_formula_here():
    assert set(LOSSES) == set(EXPECTED)


@pytest.mark.parametrize("name", LOSSES)
def test_values(name):
    generator, discriminator = EXPECTED[name]
    np.testing.assert_allclose(LOSSES[name].generator(FAKE), generator, rtol=1e-5)
    np.testing.assert_allclose(LOSSES[name].discriminator(REAL, FAKE), discriminator, rtol=1e-5)


SLOPES = {
    "minimax": (-sigmoid(FAKE), -sigmoid(-REAL), sigmoid(FAKE)),
    "non_saturating": (-sigmoid(-FAKE), -sigmoid(-REAL), sigmoid(FAKE)),
    "least_squares": (FAKE - 1, REAL - 1, FAKE),
    "hinge": (-np.ones(4), np.where(REAL < 1, -1.0, 0.0), np.where(FAKE > -1, 1.0, 0.0)),
    "wasserstein": (-np.ones(4), -np.ones(4), np.ones(4)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    """Of the generator's loss by generated logits, of the discriminator's by real and by generated ones."""
    generator = jax.grad(lambda fake: LOSSES[name].generator(fake).sum())(FAKE)
    real, fake = jax.grad(lambda r, f: LOSSES[name].discriminator(r, f).sum(), argnums=(0, 1))(REAL, FAKE)
    for ours, theirs in zip((generator, real, fake), SLOPES[name], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_who_saturates():
    """While the discriminator wins, the minimax generator's gradient vanishes and the non-saturating one's is -1."""
    slopes = {name: jax.grad(LOSSES[name].generator)(jnp.array(-20.0)) for name in ("minimax", "non_saturating")}
    assert abs(float(slopes["minimax"])) < 1e-8
    np.testing.assert_allclose(slopes["non_saturating"], -1.0, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("logit", [-1e4, 1e4, -1e18, 1e18])
def test_huge_logits_stay_finite(name, logit):
    logits = jnp.array(logit)
    both = jax.value_and_grad(lambda r, f: LOSSES[name].discriminator(r, f), argnums=(0, 1))(logits, -logits)
    generator = jax.value_and_grad(LOSSES[name].generator)(logits)
    assert all(jnp.isfinite(leaf) for leaf in jax.tree.leaves((both, generator)))
