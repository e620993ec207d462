"""`launch.py mix`: draw a table of random images with some layers' styles of each other."""

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
        first, last = _layers(flags.layers)
        label = classes(run, flags.labels) or None
        count, seed = flags.num_samples, flags.seed
        words = [f"labels{','.join(map(str, label))}"] if label else []
        words = [f"mix_step{run.step}", f"layers{first}-{last}_seed{seed}_n{count}", *words]
        stem = latent_files.free_stem(run, flags.output, *words)
        drawn = latent_space.mix(run, count, count, first=first, last=last, seed=seed, label=label)
    archive, picture = latent_files.write(
        stem, drawn.images, images=drawn.images, points=drawn.points, labels=drawn.labels
    )
    print(
        f"{picture} shows the images of the left column with the styles of the top row in the layers from {first} on, "
        f"before {last}; {archive} holds images and styles."
    )
    return 0


def _layers(words: list[str] | None) -> tuple[int, int]:
    if not words:
        raise ValueError("mix needs --layers=A,B: the layers from A on, before B, have the styles of the columns.")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--layers is {','.join(words)}, but must be two whole numbers such as 0,2.")
    return int(words[0]), int(words[1])
