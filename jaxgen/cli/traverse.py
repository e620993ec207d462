"""`launch.py traverse`: draw a held-out image with one dimension of its latent moved at a time."""

from pathlib import Path
from typing import Any

from jaxgen.cli.main import refusals
from jaxgen.core.config import Section
from jaxgen.runs import latent_files, traversing
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        run = Run(Path(flags.workdir), config, step=flags.step)
        count, steps, example = flags.num_dimensions, flags.steps, flags.example
        words = [f"traverse_step{run.step}", f"example{example}_k{count or 'all'}_steps{steps}"]
        stem = latent_files.free_stem(run, flags.output, *words)
        found = traversing.traverse(run, dimensions=count, steps=steps, example=example)
    archive, picture = latent_files.write(stem, found.images, **found._asdict())
    told = found.divergences is not None
    order = "by divergence from the prior" if told else "in the order of the latents"
    rows = [
        f"{dimension} ({found.divergences[row]:.2f} nats)" if found.divergences is not None else f"{dimension}"
        for row, dimension in enumerate(found.dimensions)
    ]
    print(
        f"{picture} shows a row for each dimension, {order}: {', '.join(rows)}; each moves from {found.values[0]:.2f} "
        f"to {found.values[-1]:.2f}. {archive} holds images and latents."
    )
    return 0
