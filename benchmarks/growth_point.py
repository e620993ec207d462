"""Trains one of the U-Nets of `benchmarks/growth.py`, when its standard input says so.

    python benchmarks/growth_point.py POINT

POINT is a line of JSON: batch, resolution, width, devices. The step is that of a run: the program of the mesh path, on
the first devices of those that there are. See `benchmarks/speed_protocol.py` for what is read and written.
"""

import json
import sys
from typing import Any

from speed_protocol import serve

import jaxgen.runs.environment

jaxgen.runs.environment.prepare()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.core import conditioning, keys  # noqa: E402
from jaxgen.core.build import build_model  # noqa: E402
from jaxgen.core.contract import ModelSpec  # noqa: E402
from jaxgen.parallel.settings import ParallelSettings, make_runner  # noqa: E402
from jaxgen.runs import config_files  # noqa: E402
from jaxgen.runs.settings import parse  # noqa: E402

CLASSES = 10


def batches(batch: int, resolution: int) -> dict[str, np.ndarray]:
    """Returns the batch of one step, [S, K, B, ...]: random images and labels."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (1, 1, batch, resolution, resolution, 3), np.uint8),
        "label": rng.integers(0, CLASSES, (1, 1, batch), np.int32),
        "index": np.arange(batch, dtype=np.int32)[None, None],
    }


class Job:
    """A model with its state, and one of its batches.

    Attributes:
      facts: bytes of the state, and of everything that one device holds in a step.
    """

    def __init__(self, point: dict[str, int]) -> None:
        settings = {"data.batch_size": point["batch"], "model.base_channels": point["width"]}
        config = parse(config_files.config("ddpm:digits", **settings)).config
        spec = ModelSpec((point["resolution"], point["resolution"], 3), {"label": conditioning.classes(CLASSES)})
        model = build_model(config, spec)
        runner = make_runner(model, ParallelSettings(num_devices=point["devices"]), keys.root_key(0))
        self.batches = runner.put(batches(point["batch"], point["resolution"]))
        self.state: Any = runner.init(self.batches)
        self.program = runner.compile(self.state, self.batches, model.phase(0))
        state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        self.facts = {"state_bytes": state_bytes, "held_bytes": self.program.bytes}

    def train(self) -> None:
        """Does one step."""
        self.state, _ = self.program.run(self.state, self.batches)
        jax.block_until_ready(self.state)


def main() -> None:
    """Makes the model and serves."""
    job = Job(json.loads(sys.argv[1]))
    serve({"train": job.train}, job.facts)


if __name__ == "__main__":
    main()
