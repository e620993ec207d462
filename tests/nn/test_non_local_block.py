"""Self-attention of SAGAN against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.non_local_block import NonLocalBlock
from jaxgen.nn.spectral_norm import PowerIteration, SpectralDense

KEY = jax.random.key(0)
POWER_ITERATION = PowerIteration(stores_v=False, iterations=2)
X = jax.random.normal(KEY, (2, 5, 6, 16))
INIT = jax.nn.initializers.normal(1.0)


def pooled(x):
    """Maxima of 2x2 pixels; a last odd row is left out."""
    x = np.asarray(x)[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = np.maximum(x[:, ::2], x[:, 1::2])
    return np.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def test_pixels_gather_what_resembles_them():
    block = NonLocalBlock(POWER_ITERATION, INIT)
    variables = jax.jit(lambda: block.init(KEY, X, train=False))()
    params, spectral = variables["params"], variables["spectral"]
    assert params["gamma"] == 0.0
    apply = jax.jit(partial(block.apply, train=False))
    np.testing.assert_array_equal(apply(variables, X), X)

    def layer(name, x):
        own = {"params": params[name], "spectral": spectral[name]}
        features = params[name]["kernel"].shape[1]
        dense = SpectralDense(features, POWER_ITERATION, use_bias=False)
        return jax.jit(partial(dense.apply, train=False))(own, x)

    assert {name: params[name]["kernel"].shape for name in ("theta", "phi", "g", "o")} == {
        "theta": (16, 2),
        "phi": (16, 2),
        "g": (16, 8),
        "o": (8, 16),
    }
    queries, keys, values = np.asarray(layer("theta", X)), pooled(layer("phi", X)), pooled(layer("g", X))
    scores = np.einsum("bhwc,bklc->bhwkl", queries, keys)
    weights = np.exp(scores - scores.max(axis=(3, 4), keepdims=True))
    weights /= weights.sum(axis=(3, 4), keepdims=True)
    gathered = layer("o", jnp.asarray(np.einsum("bhwkl,bklc->bhwc", weights, values)))
    with_gain = {**variables, "params": {**params, "gamma": jnp.array(0.7)}}
    np.testing.assert_allclose(apply(with_gain, X), X + 0.7 * gathered, atol=1e-4)
    assert jnp.abs(gathered).max() > 1e-2
    _, updated = jax.eval_shape(partial(block.apply, train=True, mutable=["spectral"]), variables, X)
    assert set(updated["spectral"]) == {"theta", "phi", "g", "o"}


@pytest.mark.parametrize("shape", [(1, 4, 4, 7), (1, 1, 4, 8), (1, 4, 1, 8)])
def test_maps_that_are_too_small_are_refused(shape):
    with pytest.raises(ValueError, match=rf"2x2 pixels and 8 channels, not {shape[1]}x{shape[2]} with {shape[3]}:"):
        jax.eval_shape(lambda: NonLocalBlock(POWER_ITERATION, INIT).init(KEY, jnp.zeros(shape), train=False))
