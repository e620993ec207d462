"""Adversarial losses against their papers' formulas, in probabilities, and at the extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.config import bind_text
from jaxgen.losses import adversarial
from jaxgen.losses.selection import top_share

REAL = np.array([-2.0, 0.0, 0.5, 3.0])
FAKE = np.array([1.0, -0.5, -4.0, 2.0])
REAL_MEAN, FAKE_MEAN = 0.7, -0.9
"""What a whole batch's means would be, of which these logits are a part."""


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def log(x):
    return np.log(np.asarray(x))


def cross_entropy(real, fake, smoothing=0.0):
    return -(1 - smoothing) * log(sigmoid(real)) - smoothing * log(1 - sigmoid(real)) - log(1 - sigmoid(fake))


def hinge(real, fake):
    return np.maximum(0, 1 - real) + np.maximum(0, 1 + fake)


def relative(loss):
    """The two losses of a relativistic average game; means are those of the whole batch."""
    return (
        lambda real, fake, means: loss(fake - means[0], real - means[1]),
        lambda real, fake, means: loss(real - means[1], fake - means[0]),
    )


GAMES = {
    "minimax": (lambda r, f, m: log(1 - sigmoid(f)), lambda r, f, m: cross_entropy(r, f)),
    "minimax(label_smoothing=0.3)": (lambda r, f, m: log(1 - sigmoid(f)), lambda r, f, m: cross_entropy(r, f, 0.3)),
    "non_saturating": (lambda r, f, m: -log(sigmoid(f)), lambda r, f, m: cross_entropy(r, f)),
    "non_saturating(label_smoothing=0.1)": (
        lambda r, f, m: -log(sigmoid(f)),
        lambda r, f, m: cross_entropy(r, f, 0.1),
    ),
    "least_squares": (lambda r, f, m: 0.5 * (f - 1) ** 2, lambda r, f, m: 0.5 * (r - 1) ** 2 + 0.5 * f**2),
    "least_squares(real_target=0.8, fake_target=-1.2, generator_target=0.3)": (
        lambda r, f, m: 0.5 * (f - 0.3) ** 2,
        lambda r, f, m: 0.5 * (r - 0.8) ** 2 + 0.5 * (f + 1.2) ** 2,
    ),
    "hinge": (lambda r, f, m: -f, lambda r, f, m: hinge(r, f)),
    "wasserstein": (lambda r, f, m: -f, lambda r, f, m: f - r),
    "relativistic_pairing": (lambda r, f, m: log(1 + np.exp(r - f)), lambda r, f, m: log(1 + np.exp(f - r))),
    "relativistic_average": relative(cross_entropy),
    "relativistic_average_least_squares": relative(lambda r, f: (r - 1) ** 2 + (f + 1) ** 2),
    "relativistic_average_hinge": relative(hinge),
}
"""The losses of generator and discriminator, of real and generated logits, and the means (real, fake) of both."""

RELATIVISTIC = {name for name in GAMES if name.startswith("relativistic")}


def loss_of(text):
    return bind_text(adversarial.__name__, text, where="gan.loss", later=())()


def given_means(logits):
    """Stands for a mean over all devices."""
    return jnp.where(logits[0] == REAL[0], REAL_MEAN, FAKE_MEAN)


def test_every_loss_has_a_formula_here():
    public = {
        name
        for name, value in vars(adversarial).items()
        if getattr(value, "__module__", "") == adversarial.__name__ and name.islower() and not name.startswith("_")
    }
    assert public == {text.partition("(")[0] for text in GAMES}


@pytest.mark.parametrize("text", GAMES)
def test_values(text):
    game = loss_of(text)
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    for ours, formula in zip((game.generator, game.discriminator), GAMES[text], strict=True):
        for mean, means in ((jnp.mean, (REAL.mean(), FAKE.mean())), (given_means, (REAL_MEAN, FAKE_MEAN))):
            np.testing.assert_allclose(ours(real, fake, mean=mean), formula(REAL, FAKE, means), rtol=2e-5)
        np.testing.assert_allclose(ours(real, fake), formula(REAL, FAKE, (REAL.mean(), FAKE.mean())), rtol=2e-5)
    assert game.relativistic == (text in RELATIVISTIC)


@pytest.mark.parametrize("text", GAMES)
def test_gradients(text):
    """Of the sums by real and by generated logits, against central differences of the formulas; means move along."""
    game = loss_of(text)
    for ours, formula in zip((game.generator, game.discriminator), GAMES[text], strict=True):
        gradients = jax.grad(lambda r, f, ours=ours: ours(r, f).sum(), argnums=(0, 1))(
            jnp.float32(REAL), jnp.float32(FAKE)
        )

        def total(logits, formula=formula):
            real, fake = logits
            return formula(real, fake, (real.mean(), fake.mean())).sum()

        logits = np.stack([REAL, FAKE]) + 1e-3  # off the corners of the hinge
        expected = np.zeros_like(logits)
        for place in np.ndindex(expected.shape):
            step = np.zeros_like(logits)
            step[place] = 1e-5
            expected[place] = (total(logits + step) - total(logits - step)) / 2e-5
        np.testing.assert_allclose(gradients, expected, atol=5e-3)


def test_who_saturates():
    """While the discriminator wins, the minimax generator's gradient vanishes and the non-saturating one's is -1."""
    slopes = {
        name: jax.grad(lambda fake, name=name: loss_of(name).generator(fake, fake))(jnp.array(-20.0))
        for name in ("minimax", "non_saturating")
    }
    assert abs(float(slopes["minimax"])) < 1e-8
    np.testing.assert_allclose(slopes["non_saturating"], -1.0, rtol=1e-6)


@pytest.mark.parametrize("text", GAMES)
def test_huge_logits_stay_finite(text):
    """Of this size, the square is still one of float32."""
    game = loss_of(text)
    logits = jnp.array([-1e18, -1e4, 1e4, 1e18])

    def losses(real, fake):
        return game.discriminator(real, fake).sum(), game.generator(real, fake).sum()

    for fake in (-logits, logits):
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(losses(logits, fake)))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jacrev(losses, (0, 1))(logits, fake)))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_targets_that_cannot_be_are_refused(name, smoothing):
    with pytest.raises(ValueError, match=r"gan\.loss has label_smoothing=.*, but it must lie in \[0, 1\)"):
        getattr(adversarial, name)(label_smoothing=smoothing)


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.2, 1), (0.4, 2), (0.59, 3), (0.7, 4), (1.0, 5)])
def test_top_share_is_of_the_images_that_look_most_real(share, count):
    """The share is rounded; by the logits, not by the losses; the choice has no gradient, the losses have."""
    losses, fake = jnp.array([5.0, 1.0, 2.0, 4.0, 3.0]), jnp.array([-1.0, 0.5, 3.0, 0.0, 2.0])
    chosen = np.array([2, 4, 1, 3, 0])[:count]
    value, (by_losses, by_fake) = jax.value_and_grad(top_share, argnums=(0, 1))(losses, fake, jnp.float32(share))
    np.testing.assert_allclose(value, np.asarray(losses)[chosen].mean(), rtol=1e-6)
    np.testing.assert_allclose(by_losses, np.isin(np.arange(5), chosen) / count, rtol=1e-6)
    np.testing.assert_array_equal(by_fake, np.zeros(5))
