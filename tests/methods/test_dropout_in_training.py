"""Flows and autoregressive methods drop by `model.dropout` in training, by keys of the examples, and nowhere else."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from specs import data_spec

from configs import glow, mar, maskgit, pixel_transformer
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.nn.layers import Dropout

KEY, RATE = keys.root_key(0), 0.5
SPEC = data_spec((8, 8, 1), 10, levels=17)
CONFIGS = {
    "flows.flow": glow,
    "autoregressive.autoregressive": pixel_transformer,
    "autoregressive.masked": maskgit,
    "autoregressive.masked_diffusion": mar,
}


def dropped_by_keys(function):
    """Whether each layer of dropout is given keys where a function is traced."""
    seen = set()

    def record(call, args, kwargs, context):
        if isinstance(context.module, Dropout) and context.module.rate == RATE:
            seen.add(args[1] is not None)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(function)
    return seen


@pytest.mark.parametrize("name", CONFIGS)
def test_updates_drop_and_samples_and_likelihoods_do_not(name):
    config = CONFIGS[name].get_config("tiny")
    assert config.method == name
    config.model.dropout = RATE
    model = build_model(config, SPEC)
    lead = (model.microbatches, 2)
    batch = {"image": jnp.zeros((*lead, 8, 8, 1), jnp.uint8), "label": jnp.zeros(lead, jnp.int32)}
    batch["index"] = jnp.broadcast_to(jnp.arange(2), lead)
    state = jax.eval_shape(model.init, KEY, batch)
    own_keys, cond = keys.per_example(KEY, jnp.arange(2)), {"label": batch["label"][0]}

    def run(function):
        return lambda: function(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))

    assert dropped_by_keys(run(lambda state: model.update(KEY, state, batch, phase=model.phase(0)))) == {True}
    sample = functools.partial(model.sample, own_keys, cond=cond)
    assert True not in dropped_by_keys(run(lambda state: sample(model.eval_variables(state))))
    if model.log_prob is not None:
        images = jnp.zeros((2, 8, 8, 1))
        scored = run(lambda state: model.log_prob(own_keys, model.eval_variables(state), images, cond))
        assert True not in dropped_by_keys(scored)
