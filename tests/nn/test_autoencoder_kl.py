"""The autoencoder of latent diffusion: its official size, its shapes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.autoencoder_kl import AutoencoderKL

TINY = AutoencoderKL(1, 2, block_channels=(4, 8), num_res_blocks=1, num_groups=2)
X = jax.random.normal(jax.random.key(1), (2, 6, 4, 1))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda: TINY.init(jax.random.key(0), X))()


def test_parameter_count_of_stable_diffusion():
    shapes = jax.eval_shape(lambda: AutoencoderKL().init(jax.random.key(0), jnp.zeros((1, 256, 256, 3))))
    assert trees.count(shapes) == 83_653_863


def test_reconstruction_is_the_decoded_mean_or_sample(variables):
    eps = jax.random.normal(jax.random.key(2), (2, 3, 2, 2))

    def run(variables, eps):
        mean, logvar = TINY.apply(variables, X, method="encode")
        z = mean + jnp.exp(0.5 * logvar) * eps
        by_hand = [TINY.apply(variables, latents, method="decode") for latents in (mean, z)]
        return mean, by_hand, [TINY.apply(variables, X), TINY.apply(variables, X, eps)]

    mean, by_hand, called = jax.jit(run)(variables, eps)
    assert mean.shape == (2, 3, 2, 2)
    assert by_hand[0].shape == X.shape
    np.testing.assert_allclose(called, by_hand, atol=1e-5)
    assert np.abs(by_hand[0] - by_hand[1]).max() > 1e-3


@pytest.mark.parametrize(("bias", "expected"), [(-1e3, -30.0), (1e3, 20.0)])
def test_logvar_is_clipped(variables, bias, expected):
    params = variables["params"]
    quant_conv = {**params["quant_conv"], "bias": jnp.full(4, bias)}
    encode = jax.jit(lambda v: TINY.apply(v, X, method="encode"))
    mean, logvar = encode({"params": {**params, "quant_conv": quant_conv}})
    np.testing.assert_array_equal(logvar, np.full(logvar.shape, expected))
    assert np.abs(mean).min() > 900.0


def test_parameters_and_outputs_stay_float32_in_low_precision(variables):
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    low, full = (jax.jit(TINY.clone(dtype=dtype).apply)(variables, X) for dtype in (jnp.bfloat16, jnp.float32))
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [({}, (1, 6, 5, 1), "multiples of 2"), ({"num_groups": 8}, (1, 4, 4, 1), "multiples of num_groups=8")],
)
def test_misuse_is_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: TINY.clone(**options).init(jax.random.key(0), jnp.zeros(shape)))
