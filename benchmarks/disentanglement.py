"""Disentanglement of trained encoders of the procedural shapes, beside the same encoders untrained.

    python benchmarks/disentanglement.py WORKDIR [WORKDIR ...]

The work directories are those of runs on `shapes` of models with vectors as latents, such as `vae:shapes_tc` and
`factor_vae:shapes`. The scores go to benchmarks/results/disentanglement.json, where those of runs that are not named
are kept, and as a table to docs/results.md; a picture of each run's traversals, a row for each dimension, to
docs/images/traversal_NAME.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree, UInt8
from results_page import ROOT, wrapped, write_section

import jaxgen
from jaxgen.core import grids, keys
from jaxgen.core import images as image_tools
from jaxgen.core.contract import require
from jaxgen.data.sources import shapes
from jaxgen.evaluation.disentanglement import discretized, disentanglement
from jaxgen.runs import traversing
from jaxgen.runs.opened import Run

RESULTS = ROOT / "benchmarks" / "results" / "disentanglement.json"
PICTURES = ROOT / "docs" / "images"
NUM_IMAGES, NUM_TRAIN = 10_000, 8_000
BINS = 10  # of radius and center
BATCH = 500
STEPS = 9
SEED = 0
EXAMPLE = 0  # the held-out picture that is traversed
SCORES = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "sap")


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


def draw_traversals(run: Run, path: Path) -> list[float]:
    """Draws a row for each dimension of the latent of a picture, and returns their divergences from the prior."""
    found = traversing.traverse(run, steps=STEPS, example=EXAMPLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = found.images.reshape(-1, *found.images.shape[2:])
    image_tools.save_png(str(path), grids.picture(flat, columns=STEPS))
    return [] if found.divergences is None else [round(float(nats), 3) for nats in found.divergences]


def table(results: dict[str, Any]) -> str:
    """Returns the section of the page: what it shows, a table, and the pictures."""
    scored = f"""Made by `python benchmarks/disentanglement.py WORKDIR ...`: scores of the means of the
        posteriors of {NUM_IMAGES:,} held-out pictures of `shapes`, whose six factors are known; on the last
        {NUM_IMAGES - NUM_TRAIN:,} predictors of factors are scored. `untrained` is the same encoder with random
        weights. MIG (Chen et al. 2018); disentanglement, completeness and informativeness of DCI (Eastwood and
        Williams 2018); SAP (Kumar et al. 2018): all are the better the higher. One run each, with the steps and
        the settings of its row; the configs have 20,000 steps, a width of 32, 256 hidden features and a
        discriminator of six layers of 1,000. A smaller sigma weighs errors of pixels more, and so keeps more nats
        in the latents."""
    lines = [
        wrapped(scored),
        "",
        "| run | steps | settings | encoder | MIG | D | C | I | SAP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(results.items()):
        for encoder in ("trained", "untrained"):
            scores = " | ".join(f"{row[encoder][score]:.3f}" for score in SCORES)
            lines.append(f"| {name} | {row['step']:,} | {row['settings']} | {encoder} | {scores} |")
    divergences = "; ".join(nats_of(*item) for item in sorted(results.items()))
    traversed = f"""Traversals: each row moves one dimension of the latent of a held-out picture over the
        quantiles of N(0, 1), the largest divergence from the prior first: {divergences}."""
    lines += ["", wrapped(traversed), ""]
    lines += [f"![Traversals of {name}](images/traversal_{name}.png)" for name in sorted(results)]
    return "\n".join(lines) + "\n"


def nats_of(name: str, row: dict[str, Any]) -> str:
    """Returns the words for the divergences of a run."""
    return f"{name} " + ", ".join(f"{nats:.2f}" for nats in row["divergences"]) + " nats"


def settings_of(run: Run) -> str:
    """Returns the settings on which the scores depend most."""
    width, hidden = run.config.model.width, run.config.model.hidden
    factor = f", factor.hidden={tuple(run.config.factor.hidden)}" if "factor" in run.config else ""
    return f"`vae.sigma={run.config.vae.sigma}, model.width={width}, model.hidden={hidden}{factor}`"


def main() -> None:
    """Scores the runs that are named, and draws their traversals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="work directories; none: the table alone")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for directory in parser.parse_args().runs:
        run = jaxgen.open(directory)
        pictures, factors = held_out(run.spec.image_shape[0])
        found = {
            name: scores(run, variables, pictures, factors)
            for name, variables in (("trained", run.variables), ("untrained", untrained(run)))
        }
        nats = draw_traversals(run, PICTURES / f"traversal_{directory.name}.png")
        facts = {"step": run.step, "settings": settings_of(run), "images": NUM_IMAGES, "divergences": nats}
        results[directory.name] = {**facts, **found}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(directory.name, results[directory.name])
    write_section("Disentanglement of shapes", table(results))


if __name__ == "__main__":
    main()
