"""Disentanglement of trained encoders of the procedural shapes, beside the same encoders untrained.

    python benchmarks/disentanglement.py WORKDIR [WORKDIR ...]

The work directories are those of runs on `shapes` of models with vectors as latents, such as `vae:shapes_tc` and
`factor_vae:shapes`. The scores go to benchmarks/results/disentanglement.json, where those of runs that are not named
are kept, and a picture of each run's traversals, a row for each dimension, to docs/images/traversal_NAME.png.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree, UInt8
from results_page import ROOT

import jaxgen
from jaxgen.applications.latents.traversal import traverse
from jaxgen.core import images as image_tools
from jaxgen.core import keys
from jaxgen.core.contract import require
from jaxgen.data.sources import shapes
from jaxgen.evaluation.disentanglement import discretized, disentanglement
from jaxgen.runs.opened import Run

RESULTS = ROOT / "benchmarks" / "results" / "disentanglement.json"
PICTURES = ROOT / "docs" / "images"
NUM_IMAGES, NUM_TRAIN = 10_000, 8_000
BINS = 10  # of radius and center
BATCH = 500
STEPS = 9
SEED = 0


def held_out(image_size: int) -> tuple[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, "n 6"]]:
    """Returns the pictures of the held-out split and their factors; numbers are discretized."""
    factors = shapes.draw_factors(np.arange(NUM_IMAGES, dtype=np.uint64), seed=SEED, split="test")
    numbers = discretized(np.stack([factors.radius, factors.x, factors.y], axis=1), BINS)
    classes = np.stack([factors.shape, factors.color, factors.background], axis=1)
    return shapes.render(factors, image_size=image_size), np.concatenate([classes, numbers], axis=1)


def untrained(run: Run) -> PyTree:
    """Returns the variables of a run's model before any training, of another seed."""
    model, spec = run.model, run.spec
    pictures = jnp.zeros((model.microbatches, 1, *spec.image_shape), image_tools.dtype_of(spec.levels))
    batch = {"image": pictures, "index": jnp.zeros((model.microbatches, 1), jnp.int32)}
    return model.eval_variables(model.init(keys.root_key(SEED + 1), batch))


def scores(
    run: Run, variables: PyTree, pictures: UInt8[np.ndarray, "n h w 3"], factors: Int[np.ndarray, "n 6"]
) -> dict[str, float]:
    """Returns the scores of the codes of a run's model, the means of its posteriors."""
    require(run.model, "encode", by="Disentanglement")
    encode = run.model.encode
    assert encode is not None
    encode_batch = jax.jit(lambda batch: encode(jax.random.split(keys.root_key(0), len(batch)), variables, batch))
    parts = [encode_batch(image_tools.to_float(jnp.asarray(part))) for part in np.split(pictures, NUM_IMAGES // BATCH)]
    codes = np.concatenate(parts).astype(np.float64)
    return disentanglement(codes, factors, num_train=NUM_TRAIN)


def draw_traversals(run: Run, picture: UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Draws a row for each dimension of the code of a picture, from -2 to 2."""
    code = jnp.asarray(run.encode(picture[None])[0])
    points = traverse(code, jnp.linspace(-2.0, 2.0, STEPS))
    decoded = run.decode(np.asarray(points).reshape(-1, len(code)))
    path.parent.mkdir(parents=True, exist_ok=True)
    image_tools.save_png(str(path), image_tools.grid(decoded, columns=STEPS))


def main() -> None:
    """Scores the runs that are named, and draws their traversals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for directory in parser.parse_args().runs:
        run = jaxgen.open(directory)
        pictures, factors = held_out(run.spec.image_shape[0])
        found = {
            name: scores(run, variables, pictures, factors)
            for name, variables in (("trained", run.variables), ("untrained", untrained(run)))
        }
        results[directory.name] = {"step": run.step, "images": NUM_IMAGES, **found}
        draw_traversals(run, pictures[0], PICTURES / f"traversal_{directory.name}.png")
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(directory.name, results[directory.name])


if __name__ == "__main__":
    main()
