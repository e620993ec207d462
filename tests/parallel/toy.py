"""A model that learns the mean of noisy images: its whole trajectory can be computed by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from specs import data_spec

from jaxgen.core import keys
from jaxgen.core.builders import Player, one_player
from jaxgen.core.contract import Env, GenerativeModel

RATE = 0.25
SHAPE = (2, 3, 1)


def noise(example_keys):
    return jax.vmap(lambda key: jax.random.normal(key, SHAPE))(example_keys)


def make_model(*, microbatches=1, axis_name=None, norms_depth=0, from_data=False):
    """With `from_data`, the weights start as the mean of the first batch, each image weighted by its index."""

    def objective(context, params, model_state, microbatch):
        noisy = microbatch["image"] + noise(keys.per_example(context.key, microbatch["index"]))
        distance = jnp.sum((params["w"][None] - noisy) ** 2, axis=(1, 2, 3))
        return 0.5 * jnp.mean(distance), (model_state, {"first": jnp.mean(noisy[:, 0, 0, 0])})

    def init_variables(context, examples):
        if from_data:
            return {"w": jnp.mean(examples["image"] * examples["index"][:, None, None, None], axis=0)}, ()
        return {"w": jax.random.normal(context.key, SHAPE)}, ()

    env = Env(axis_name=axis_name, norms_depth=norms_depth)
    init, update = one_player(init_variables, Player(objective, optax.sgd(RATE)), microbatches=microbatches, env=env)

    def sample(image_keys, variables, cond=None):
        label = 0.0 if cond is None else cond["label"].astype(jnp.float32)[:, None, None, None] / 10
        return jnp.tanh(variables["w"][None] + noise(image_keys)) * 0.5 + label

    return GenerativeModel(
        data_spec(SHAPE, 3), init, update, sample, lambda state: state.params, microbatches=microbatches
    )


def host_batches(steps, size, microbatches=1):
    """[S, K, B, ...] as the host has them."""
    images = np.random.default_rng(0).normal(size=(steps, microbatches, size, *SHAPE)).astype(np.float32)
    index = np.arange(microbatches * size, dtype=np.int32).reshape(microbatches, size)
    return {"image": images, "index": np.broadcast_to(index, (steps, microbatches, size)).copy()}


def trajectory(start, train_key, batches):
    """The weights after every step: w <- w - rate * (w - mean of the noisy images of the whole batch)."""
    w, path = np.asarray(start, np.float64), []
    for step in range(len(batches["image"])):
        index = batches["index"][step].reshape(-1)
        noisy = batches["image"][step].reshape(-1, *SHAPE) + np.asarray(
            noise(keys.per_example(keys.at_step(train_key, step), jnp.asarray(index)))
        )
        w = w - RATE * (w - noisy.mean(0))
        path.append(w)
    return path
