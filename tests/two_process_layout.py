"""One of two processes that go through configs as `test_conformance.py` asks, one directory a line of standard input.

A directory holds `config.json` and `checkpoints`, which one device has saved. There this leaves `arrays.npz` and the
checkpoint that two processes save, and says so by a line of standard output.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
from tiny_runs import STEPS, make_tiny

from jaxgen.core import trees
from jaxgen.parallel import hosts, launchers
from jaxgen.parallel import mesh as meshes
from jaxgen.training.checkpoint import Checkpoints, load_state
from jaxgen.training.workdir import load_config

SAVED = "two"
"""Where, in a directory, the checkpoint of two processes is."""


def main(arguments):
    """Joins the other process, and serves until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator")
    for name in ("num_processes", "process_id", "heartbeat_timeout_seconds"):
        parser.add_argument(f"--{name}", type=int)
    flags = parser.parse_args(arguments)
    place = launchers.find(flags.coordinator, flags.num_processes, flags.process_id, timeout_seconds=60)
    hosts.start(place, hosts.Timeouts(heartbeat=flags.heartbeat_timeout_seconds), stoppable=False)
    for line in sys.stdin:
        with hosts.ending_at_once():
            go_through(Path(line.strip()))
        print("done", line.strip(), flush=True)


def go_through(directory):
    """Starts, trains, saves, restores and samples by the config of a directory."""
    there = make_tiny(load_config(directory))
    start = there.init()
    arrays = named("start", start, there)
    state, metrics = there.train(there.compile(start), start)
    arrays |= named("end", state, there) | named("metrics", metrics, there)
    arrays |= {"samples/": there.sample(state)}
    with Checkpoints(directory / SAVED) as checkpoints:
        checkpoints.save(STEPS, there.runner.to_contract(state), there.config)
    restored, _ = load_state(directory, there.runner.target(there.put(0)))
    arrays |= named("restored", there.runner.from_contract(restored), there)
    if hosts.is_first():
        np.savez(directory / "arrays.npz", **arrays)


def named(name, tree, tiny):
    """Every leaf, gathered whole from the devices of all processes, by name."""
    whole = jax.jit(lambda tree: tree, out_shardings=meshes.replicated(tiny.runner.mesh))(tree)
    return {f"{name}/{leaf_name}": np.asarray(leaf) for leaf_name, leaf in trees.named_leaves(whole).items()}


if __name__ == "__main__":
    main(sys.argv[1:])
