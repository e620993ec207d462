"""Trains and samples one of jaxgen's models of `benchmarks/speed.py`, when its standard input says so.

    python benchmarks/speed_jaxgen.py CASE

CASE is a line of JSON: the config and its settings, shape and classes of the data, batch size. See
`benchmarks/speed_protocol.py` for what is read and written. One thing to run has no model: `product`, by whose speed
the others can be measured.
"""

import importlib.metadata
import json
import sys
import time
from typing import Any

from speed_protocol import serve

import jaxgen.runs.environment

jaxgen.runs.environment.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.core import conditioning, keys  # noqa: E402
from jaxgen.core.build import build_model  # noqa: E402
from jaxgen.core.contract import ModelSpec  # noqa: E402
from jaxgen.runs import config_files  # noqa: E402
from jaxgen.runs.settings import parse  # noqa: E402

PRODUCT_SIZE = 1536


class Job:
    """A model with its state, and one of its batches.

    Attributes:
      facts: number of parameters of each player, versions, seconds of compilation.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        settings = {"data.batch_size": case["batch"], **case["settings"]}
        config = parse(config_files.config(case["config"], **settings)).config
        spec = ModelSpec(tuple(case["shape"]), {"label": conditioning.classes(case["classes"])})
        model, key, count = build_model(config, spec), keys.root_key(0), case["batch"]
        rng = np.random.default_rng(0)
        self.batch = {
            "image": jnp.asarray(rng.integers(0, 256, (1, count, *spec.image_shape), np.uint8)),
            "label": jnp.asarray(rng.integers(0, case["classes"], (1, count), np.int32)),
            "index": jnp.arange(count)[None],
        }
        self.key = key
        self.state = jax.jit(model.init)(key, self.batch)
        self.example_keys = keys.per_example(key, jnp.arange(count))
        self.cond = dict.fromkeys(model.spec.conditioning, self.batch["label"][0])
        begin = time.perf_counter()
        self.update = jax.jit(model.update, donate_argnums=1).lower(key, self.state, self.batch).compile()
        trained = time.perf_counter()
        variables = jax.eval_shape(model.eval_variables, self.state)
        self.draw = jax.jit(model.sample).lower(self.example_keys, variables, self.cond).compile()
        self.variables = jax.jit(lambda state: jax.tree.map(jnp.copy, model.eval_variables(state)))(self.state)
        players = case.get("players", [])
        trees = [self.state.params[player] for player in players] or [self.state.params]
        self.facts = {
            "parameters": [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees],
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
            "compilation": {"train": trained - begin, "sample": time.perf_counter() - trained},
        }

    def train(self) -> None:
        """Does one step."""
        self.state, _ = self.update(self.key, self.state, self.batch)
        jax.block_until_ready(self.state)

    def sample(self) -> None:
        """Draws a batch of images."""
        jax.block_until_ready(self.draw(self.example_keys, self.variables, self.cond))


def main() -> None:
    """Makes the model and serves."""
    case = json.loads(sys.argv[1])
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed, too
    matrix = jnp.ones((PRODUCT_SIZE, PRODUCT_SIZE))
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    job = Job(case)
    runs = {"train": job.train, "sample": job.sample}
    runs["product"] = lambda: jax.block_until_ready(multiply(matrix, matrix))
    serve(runs, {**job.facts, "product_flops": 2 * PRODUCT_SIZE**3})


if __name__ == "__main__":
    main()
