"""`launch.py decompress`: the images of a file that `compress` has written."""

from pathlib import Path
from typing import Any

from jaxgen.cli import progress_bar
from jaxgen.cli.main import refusals
from jaxgen.core.config import Section
from jaxgen.runs import compressing, sample_files
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if flags.input is None or flags.output is None:
            raise ValueError("decompress needs --input=FILE, which compress has written, and --output=FILE, an .npz.")
        output = Path(flags.output)
        if output.suffix != ".npz":
            raise ValueError(f"--output is {output}, but what decompress writes is a file that ends in .npz.")
        sample_files.check_free(output)
        compressed = compressing.read(Path(flags.input))
        run = Run(Path(flags.workdir), config, step=compressed.step if flags.step is None else flags.step)
        with progress_bar.shown() as report:
            images, labels = compressing.decompress(
                run, compressed, on_progress=lambda done, total: report("decompressing", done, total)
            )
        output.parent.mkdir(parents=True, exist_ok=True)
        sample_files.write_arrays(output, images=images, labels=labels)
    print(f"{output} holds {len(images):,} images, the very ones that were compressed.")
    return 0
