"""`launch.py directions`: find directions of the latent space, and draw images along them."""

from pathlib import Path
from typing import Any

import numpy as np

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
        distance = 3.0 if flags.distance is None else flags.distance
        if distance <= 0.0:
            raise ValueError(f"--distance is {distance:g}, but must be positive: images move as far to either side.")
        asked = f"{flags.by}_k{flags.num_directions}_seed{flags.seed}_n{flags.num_samples}_{distance:g}x{flags.steps}"
        words = [f"labels{','.join(map(str, label))}"] if label else []
        words += [flags.weights] if flags.weights else []
        stem = latent_files.free_stem(run, flags.output, f"directions_step{run.step}", f"{space}_{asked}", *words)
        options = {"method": flags.by, "weights": flags.weights}
        found = latent_space.find_directions(
            run, flags.num_directions, space=space, seed=flags.seed, label=label, **options
        )
        distances = np.linspace(-distance, distance, flags.steps)
        drawn = latent_space.traverse(
            run, found.vectors, flags.num_samples, distances=distances, seed=flags.seed, label=label, space=space
        )
    shown = drawn.images.swapaxes(0, 1).reshape(-1, *drawn.images.shape[2:])  # the images of a direction together
    archive, picture = latent_files.write(
        stem, shown, directions=found.vectors, scales=found.scales, images=drawn.images, labels=drawn.labels
    )
    print(
        f"{picture} shows {flags.num_samples} images along each of {flags.num_directions} directions, from "
        f"-{distance:g} to {distance:g}; {archive} holds directions and images."
    )
    return 0
