"""Normalizations of Glow start from the whole first batch, however it lies on devices and in microbatches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import config_on, host, make_tiny, state_of

from jaxgen.core import keys, trees
from jaxgen.core.images import to_float
from jaxgen.methods.flows import flow
from jaxgen.nn.flow_layers import ActNorm


def tiny(layout, microbatches=1):
    """A run of Glow with one step of flow."""
    config = config_on("glow", layout)
    config.flow.update({"dequantization": "uniform", "dequantizer_width": 32, "dequantizer_couplings": 4})
    config.model.update({"levels": 1, "steps": 1, "lu": False})
    config.train.microbatches = microbatches
    return make_tiny(config)


@pytest.fixture(scope="module")
def one():
    run = tiny("one")
    return run, host(run.init())


@pytest.mark.parametrize(("layout", "microbatches"), [("data", 2), ("pmap", 1)])
def test_the_start_is_that_of_one_device(one, layout, microbatches):
    other = tiny(layout, microbatches)
    start = state_of(other, other.init())
    chex.assert_trees_all_close(start.params, one[1].params, atol=1e-5, rtol=1e-4)


def test_every_channel_of_the_first_batch_has_mean_zero_and_variance_one(one):
    """The batch is seen as at the start: with the noise of the key of initialization."""
    run, start = one
    built = flow._flow(run.config, run.experiment.spec)
    batch = run.batches[0]
    key = keys.stream(keys.stream(keys.root_key(run.config.seed), "train"), "init")
    index, label = (jnp.asarray(batch[name])[0] for name in ("index", "label"))
    images = to_float(jnp.asarray(batch["image"]), built.spec.levels)[0]

    @jax.jit
    def outputs(params):
        values, _ = built.values(params, keys.per_example(key, index), images)
        _, state = built.network.apply(
            {"params": params["network"]}, values, label, capture_intermediates=lambda m, _: isinstance(m, ActNorm)
        )
        return state["intermediates"]

    found = {name: leaf for name, leaf in trees.named_leaves(outputs(start.params)).items() if leaf.ndim == 4}
    assert len(found) == 3
    for name, y in found.items():
        np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0.0, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(y.var(axis=(0, 1, 2)), 1.0, atol=3e-3, err_msg=name)
