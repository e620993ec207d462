"""`launch.py project`: find latents, or styles, whose images are nearest to given pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from jaxgen.applications.latents.projection import ProjectionSettings
from jaxgen.cli import progress_bar
from jaxgen.cli.main import refusals
from jaxgen.cli.sample import classes
from jaxgen.core import images as image_tools
from jaxgen.core import paths
from jaxgen.core.config import Section
from jaxgen.data import pictures
from jaxgen.runs import latent_files, latent_space, projecting
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if not flags.images:
            raise ValueError("project needs --images=FILE, a picture, or several with commas between them.")
        run = Run(Path(flags.workdir), config, step=flags.step)
        space = latent_space.choose_space(run, flags.space)
        targets = _read(run, [paths.expanded(word, where="--images") for word in flags.images])
        labels = classes(run, flags.labels) or None
        words = [*(Path(word).stem for word in flags.images[:3]), f"n{len(targets)}_seed{flags.seed}"]
        name = f"project_step{run.step}_{space}_steps{flags.steps}"
        stem = latent_files.free_stem(run, flags.output, name, *words)
        settings = ProjectionSettings(steps=flags.steps)
        run.checked(targets, labels)
    with progress_bar.shown() as report:
        found = projecting.project(
            run, targets, labels=labels, settings=settings, space=space, seed=flags.seed, on_progress=report
        )
    shown = np.stack([found.targets, found.images], axis=1)
    arrays = {"distances": found.distances, "labels": found.labels}
    archive, picture = latent_files.write(stem, shown, images=found.images, points=found.points, **arrays)
    print(
        f"{picture} shows each picture and its projection, of a squared difference of {found.distances[-1].mean():.4f} "
        f"in the mean; {archive} holds images and points of the space {space}."
    )
    return 0


def _read(run: Run, files: list[Path]) -> UInt[np.ndarray, "n h w c"]:
    """Reads pictures as the data of the run are: of its size and channels.

    Raises:
      ValueError: if one cannot be read, or the model is of images that no 8-bit picture is one of.
    """
    height, width, channels = run.spec.image_shape
    if image_tools.dtype_of(run.spec.levels) != np.uint8 or channels not in pictures.MODES:
        raise ValueError(
            f"The model makes images of {run.spec.levels} levels and {channels} channels, and pictures are of 256 and "
            "1 to 4: project arrays by jaxgen.runs.projecting.project."
        )
    return np.stack([_one(path, height, width, channels) for path in files])


def _one(path: Path, height: int, width: int, channels: int) -> UInt[np.ndarray, "h w c"]:
    try:
        return pictures.decode(
            path,
            channels=channels,
            image_size=(height, width),
            crop="center",
            background=pictures.BACKGROUND,
            max_megapixels=pictures.MAX_MEGAPIXELS,
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}.") from error
