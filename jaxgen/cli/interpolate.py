"""`launch.py interpolate`: draw paths between random images of a trained run."""

from pathlib import Path
from typing import Any

from jaxgen.cli.main import refusals
from jaxgen.cli.sample import classes
from jaxgen.core.config import Section
from jaxgen.runs import latent_files, latent_space
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        run = Run(Path(flags.workdir), config, step=flags.step)
        space = latent_space.choose_space(run, flags.space)
        label = classes(run, flags.labels) or None
        count, steps, seed = flags.num_samples, flags.steps, flags.seed
        words = [f"labels{','.join(map(str, label))}"] if label else []
        words = [f"interpolate_step{run.step}", f"{space}_seed{seed}_n{count}_steps{steps}", *words]
        stem = latent_files.free_stem(run, flags.output, *words)
        drawn = latent_space.interpolate(run, count, steps=steps, seed=seed, label=label, space=space)
    archive, picture = latent_files.write(
        stem, drawn.images, images=drawn.images, points=drawn.points, labels=drawn.labels
    )
    print(f"{picture} shows {count} paths of {steps} images in the space {space}; {archive} holds images and points.")
    return 0
