"""The information bottleneck: rate, distortion and probabilities by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core import keys
from jaxgen.core.builders import Player, one_player
from jaxgen.nn.conv_autoencoder import ConvEncoder
from jaxgen.variational.information_bottleneck import InformationBottleneck, make_init, make_objective

KEY = keys.root_key(6)
INDEX = jnp.array([3, 0, 2], jnp.int32)
LABEL = np.array([2, 0, 1])
IMAGES = jax.random.normal(KEY, (3, 4, 2, 1))
BATCH = {"image": IMAGES[None], "index": INDEX[None], "label": jnp.asarray(LABEL, jnp.int32)[None]}
MODEL = InformationBottleneck.of(ConvEncoder(4, width=3, hidden=5, base_side=1), 3)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_terms_and_the_loss_by_hand():
    """Of three draws by each image's key; at step 1 the price has gone a quarter of the way to 2."""
    init, update = one_player(
        make_init(MODEL), Player(make_objective(MODEL, "linear(start=0.0, end=2.0, steps=4)"), optax.sgd(0.0))
    )

    @jax.jit
    def all_of_them(key):
        state = init(key, BATCH)
        own = keys.per_example(key, INDEX)
        terms = MODEL.terms(state.params, own, IMAGES, BATCH["label"][0], num_draws=3)
        first = MODEL.terms(state.params, own, IMAGES, BATCH["label"][0])
        _, metrics = update(key, state._replace(step=jnp.int32(1)), BATCH)
        return state.params, MODEL.posterior(state.params, IMAGES), terms, first, metrics

    params, (mean, logvar), terms, first, metrics = jax.tree.map(np.asarray, all_of_them(KEY))
    assert mean.shape == logvar.shape == (3, 2)
    rate = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar).sum(1)
    np.testing.assert_allclose(terms.rate, rate, rtol=1e-4)
    distortions, shares = [], []
    for number in range(3):
        own = keys.fold_each(keys.fold_each(keys.per_example(KEY, INDEX), number), "latent")
        z = mean + np.exp(0.5 * logvar) * np.asarray(keys.normal(own, (2,)))
        shares.append(softmax(z @ params["classifier"]["kernel"] + params["classifier"]["bias"]))
        distortions.append(-np.log(shares[-1][np.arange(3), LABEL]))
    np.testing.assert_allclose(terms.distortion, np.mean(distortions, axis=0), rtol=1e-4)
    np.testing.assert_allclose(terms.probabilities, np.mean(shares, axis=0), rtol=1e-4)
    assert np.abs(distortions[0] - distortions[1]).min() > 1e-3
    np.testing.assert_allclose(first.distortion, distortions[0], rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/rate"], rate.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/distortion"], distortions[0].mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], distortions[0].mean() + 0.5 * rate.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("outputs", "num_classes", "sentence"),
    [
        (5, 3, "encoder has 5 outputs, but must have an even number"),
        (0, 3, "encoder has 0 outputs"),
        (4, 1, "There are 1 classes, but a classifier needs at least 2"),
    ],
)
def test_what_is_no_bottleneck_is_refused(outputs, num_classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        InformationBottleneck.of(ConvEncoder(outputs), num_classes)


def test_a_negative_price_is_refused():
    with pytest.raises(ValueError, match=r"beta is -0\.1, but must be at least 0 at every step"):
        make_objective(MODEL, -0.1)
