"""Trains and samples one of jaxgen's models of `benchmarks/speed.py`, when its standard input says so.

    python benchmarks/speed_jaxgen.py CASE

CASE is a line of JSON: the config and its settings, shape and classes of the data, batch size. See
`benchmarks/speed_protocol.py` for what is read and written. One thing to run has no model: `product`, by whose speed
the others can be measured.
"""

import functools
import importlib.metadata
import json
import sys
import time
from typing import Any

import speed_protocol
from speed_protocol import seconds_since_start, serve

import jaxgen.runs.environment

jaxgen.runs.environment.prepare()
jaxgen.runs.environment.keep_freed_memory()  # as launch.py does before it trains

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.core import conditioning, keys  # noqa: E402
from jaxgen.core.build import build_model  # noqa: E402
from jaxgen.core.contract import ModelSpec, Phase  # noqa: E402
from jaxgen.parallel.mesh_path import cost  # noqa: E402
from jaxgen.runs import config_files  # noqa: E402
from jaxgen.runs.settings import parse  # noqa: E402

PRODUCT_SIZES = {"cpu": 1536, "gpu": 8192}


class Job:
    """A model with its state, and one of its batches.

    Attributes:
      runs: what can be timed, by name: `train`, and `sample` where the case has it.
      facts: number of parameters of each player, versions, seconds of compilation, seconds from the start of the
        process to the end of the first step of training, bytes that the training program holds.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        settings = {"data.batch_size": case["batch"], **case["settings"]}
        config = parse(config_files.config(case["config"], **settings)).config
        spec = ModelSpec(tuple(case["shape"]), {"label": conditioning.classes(case["classes"])})
        self.model, self.key, count = build_model(config, spec), keys.root_key(0), case["batch"]
        rng, lead = np.random.default_rng(0), (self.model.microbatches, count)
        self.batch = {
            "image": jnp.asarray(rng.integers(0, 256, (*lead, *spec.image_shape), np.uint8)),
            "label": jnp.asarray(rng.integers(0, case["classes"], lead, np.int32)),
            "index": jnp.broadcast_to(jnp.arange(count), lead),
        }
        self.state = jax.jit(self.model.init)(self.key, self.batch)
        self.phases = [self.model.phase(step) for step in range(case["steps"])]
        self.runs = {"train": self.train}
        players = case.get("players", [])
        trees = [self.state.params[player] for player in players] or [self.state.params]
        self.facts: dict[str, Any] = {
            "parameters": [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees],
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
            "compilation": {},
        }
        self._compile_training()
        if case["samples"]:
            self._compile_sampling()

    def train(self) -> None:
        """Does one step of each phase of the cycle."""
        for phase in self.phases:
            self._step(phase)
        jax.block_until_ready(self.state)

    def sample(self) -> None:
        """Draws a batch of images."""
        jax.block_until_ready(self.draw(self.example_keys, self.variables, self.cond))

    def _step(self, phase: Phase) -> None:
        self.state, _ = self.updates[phase](self.key, self.state, self.batch)

    def _compile_training(self) -> None:
        """Compiles the program of each phase, and does the first step."""
        begin = time.perf_counter()
        self.updates = {}
        for phase in dict.fromkeys(self.phases):
            update = jax.jit(functools.partial(self.model.update, phase=phase), donate_argnums=1)
            self.updates[phase] = update.lower(self.key, self.state, self.batch).compile()
        self.facts["compilation"]["train"] = time.perf_counter() - begin
        self.facts["program_memory"] = max(held_bytes(program) for program in self.updates.values())
        self._step(self.phases[0])
        jax.block_until_ready(self.state)
        self.facts["first_step"] = seconds_since_start()

    def _compile_sampling(self) -> None:
        self.example_keys = keys.per_example(self.key, self.batch["index"][0])
        self.cond = dict.fromkeys(self.model.spec.conditioning, self.batch["label"][0])
        variables = jax.eval_shape(self.model.eval_variables, self.state)
        begin = time.perf_counter()
        self.draw = jax.jit(self.model.sample).lower(self.example_keys, variables, self.cond).compile()
        self.facts["compilation"]["sample"] = time.perf_counter() - begin
        copy = jax.jit(lambda state: jax.tree.map(jnp.copy, self.model.eval_variables(state)))
        self.variables = copy(self.state)
        self.runs["sample"] = self.sample


def held_bytes(program: jax.stages.Compiled) -> int:
    """Returns the memory that a program holds while it runs: its arguments, its results, and what lies between."""
    return cost(program)[1] or 0


def peak_memory() -> int:
    """Returns the most bytes that this process has held at a time in the memory of its first device."""
    kept = jax.local_devices()[0].memory_stats()
    return kept["peak_bytes_in_use"] if kept else speed_protocol.peak_memory()


def main() -> None:
    """Makes the model and serves."""
    case = json.loads(sys.argv[1])
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed, too
    job, size = Job(case), PRODUCT_SIZES[jax.default_backend()]
    matrix = jax.random.normal(keys.root_key(0), (size, size), case.get("dtype", "float32"))
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    runs = {**job.runs, "product": lambda: jax.block_until_ready(multiply(matrix, matrix))}
    serve(runs, {**job.facts, "product_flops": 2 * size**3}, peak_memory)


if __name__ == "__main__":
    main()
