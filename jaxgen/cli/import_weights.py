"""`launch.py import`: official weights into a work directory, which is then sampled, evaluated and trained like a run.

The config is the one given or, of the variants in the format's config file, the first whose network the weights fit.
"""

import shlex
from pathlib import Path
from typing import Any

from jaxgen.cli import import_features
from jaxgen.cli.main import image_shape, refusals
from jaxgen.cli.program import program
from jaxgen.core.config import Section
from jaxgen.interop.files import read_state_dict
from jaxgen.interop.format import ExtractorFormat, RunFormat
from jaxgen.runs import importing, new_run


def main(config: Section | None, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        directory = new_run.free_directory(flags.workdir, flag="workdir", command="import")
        if flags.format is None:
            raise ValueError("import needs --format=FORMAT, whose weights they are: launch.py list formats shows them.")
        format = importing.find_format(flags.format, where="--format")
        if flags.weights is None:
            raise ValueError("import needs --weights=FILE: safetensors, a PyTorch checkpoint, or .npz.")
        for name in ("latent_shift", "latent_scale"):
            if flags.autoencoder is None and getattr(flags, name) is not None:
                raise ValueError(f"--{name} has no effect without --autoencoder: leave it out.")
        if isinstance(format, ExtractorFormat):
            return import_features.main(format, directory, flags)
        imported = _import(directory, format, config, flags)
    print(f"{directory} holds {imported.name} with {imported.numbers:,} numbers of {flags.weights}.")
    if imported.prefix:
        print(import_features.renamed(imported))
    if imported.fresh:
        print(f"They have no {' and no '.join(imported.fresh)}: what they lack starts as in a new run.")
    there = shlex.quote(str(directory))
    print("Try next:")
    print(f"  {program()} sample --workdir={there} --num_samples=16")
    print(f"  {program()} train --workdir={there}   (goes on from these weights)")
    return 0


def _import(directory: Path, format: RunFormat, config: Section | None, flags: Any) -> importing.Imported:
    if flags.autoencoder and flags.image_shape is not None:
        raise ValueError("--image_shape is that of the latents of --autoencoder: leave it out.")
    candidates = None if config is None else {flags.config: config}
    weights = read_state_dict(Path(flags.weights), entry=flags.entry)
    latents = None
    if flags.autoencoder:
        given = {"shift": flags.latent_shift, "scale": flags.latent_scale}
        named = {name: value for name, value in given.items() if value is not None}
        latents = importing.Latents(Path(flags.autoencoder), **named)
    return importing.import_run(
        directory,
        format,
        weights,
        candidates,
        image_shape=image_shape(flags),
        num_classes=flags.num_classes,
        latents=latents,
    )
