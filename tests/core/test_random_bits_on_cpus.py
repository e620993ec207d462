"""Programs for CPUs have large arrays of random bits computed without a loop, bit for bit as JAX computes them."""

import hashlib
import re

import jax
import numpy as np
import pytest

import jaxgen.core.loops  # noqa: F401  (lowers for CPUs)
from jaxgen.parallel.mesh import make_mesh

LARGE, SMALL = 2**16, 2**16 - 1


def lowered(count, platform):
    key = jax.eval_shape(lambda: jax.random.key(0))
    bits = jax.jit(lambda key: jax.random.bits(key, (count,)))
    return bits.trace(key).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_large_arrays_of_bits_have_no_loop_on_cpus(count):
    assert ("stablehlo.while" in lowered(count, "cpu")) == (count == SMALL)
    assert ('inlineable = "false"' in lowered(count, "cpu")) == (count == LARGE)
    assert not re.search("stablehlo.while|inlineable", lowered(count, "tpu"))


def test_programs_for_several_devices_have_the_loop():
    split = jax.NamedSharding(make_mesh(), jax.P("data"))
    bits = jax.jit(lambda key: jax.random.bits(key, (LARGE,)), out_shardings=split)
    assert "stablehlo.while" in bits.lower(jax.random.key(0)).as_text()


def test_bits_are_those_of_smaller_arrays_and_of_jax():
    """A key's bits at a place do not depend on how many there are; the digest is of JAX's own bits."""
    keys = jax.random.split(jax.random.key(3), 2)
    bits = jax.jit(lambda keys, count: jax.vmap(lambda key: jax.random.bits(key, (count,)))(keys), static_argnums=1)
    large, small = np.asarray(bits(keys, LARGE)), np.asarray(bits(keys, 1000))
    np.testing.assert_array_equal(large[:, :1000], small)
    assert len(np.unique(large)) > 1.99 * LARGE
    digest = hashlib.sha256(large.tobytes()).hexdigest()
    assert digest == "53b107473a769ab70466fe58f1364421552ddc4e990dc23738528c81cfe25ef9"
