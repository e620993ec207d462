"""Samples of a run in files: drawn in parts that outlive the process, then joined, with a grid of the first ones."""

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt

from jaxgen.core import grids, images
from jaxgen.core.numbers import LARGEST, check_number
from jaxgen.core.progress import OnProgress, unseen
from jaxgen.parallel import agreement, hosts
from jaxgen.runs import sample_files, sample_settings
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.opened import Label, Run
from jaxgen.runs.refusals import agreed
from jaxgen.runs.sample_files import Format, Labeled
from jaxgen.runs.sample_parts import SampleParts, differences
from jaxgen.training.durability import manifest
from jaxgen.training.durability.whole_files import whole_file, write_whole

GRID_LIMIT = 400
"""Images in the grid, at most: the first ones. The classes of a conditional model's take turns."""

DRAWING = "drawing images"
"""The name of the work that takes time, for `on_progress`."""

_WRITING = "writing images"


class Written(NamedTuple):
    """The files of the samples, and the work that they took.

    Attributes:
      output: the `.npz`, or the directory.
      grid: the picture of the first images.
      record: the settings that the images follow from, as JSON.
      drawn: how many images were drawn now, the others being from before an interruption.
      found: whether the files were there already, and nothing was done.
    """

    output: Path
    grid: Path
    record: Path
    drawn: int
    found: bool = False


class _Drawing(NamedTuple):
    run: Run
    output: Path
    format: Format
    total: int
    seed: int
    chosen: tuple[int, ...]
    cond: Mapping[str, Any]
    parts: SampleParts

    @property
    def label(self) -> Label:
        return list(self.chosen) or None

    @property
    def grid(self) -> Path:
        return _beside(self.output, self.format, ".png")

    @property
    def record(self) -> Path:
        return _beside(self.output, self.format, ".json")


def write(
    run: Run,
    output: str | Path | None = None,
    *,
    count: int,
    seed: int = 0,
    label: Label = None,
    cond: Mapping[str, Any] = MappingProxyType({}),
    format: str = "npz",
    on_progress: OnProgress = unseen,
    say: Say = silent,
) -> Written:
    """Draws images into a file, with a grid and a record of the settings beside it; resumes what was interrupted.

    Each batch is kept in `OUTPUT.parts/` until all images are drawn, so that after an interruption the same call draws
    only what is missing. Files that are there already are never overwritten: those of the same settings are the result.

    Args:
      run: the run to draw from.
      output: the `.npz`, or the directory of the other formats; by default one that the settings name.
      count: how many images.
      seed: as of `Run.sample`.
      label: as of `Run.sample`.
      cond: as of `Run.sample`.
      format: `npz`, `png` or `webdataset`; see `sample_files.write`.
      on_progress: takes the progress.
      say: takes lines about parts that are found, damaged or kept.

    Raises:
      RefusedError: if an argument is wrong, there is something else of that name, or the disk is too small.
      NonfiniteImagesError: if an image is not finite.
    """
    with agreed():
        job = _job(run, None if output is None else Path(output), count, seed, label, cond, format)
        there = agreement.from_first(lambda: _is_there(job))
        if there:
            return Written(job.output, job.grid, job.record, 0, found=True)
        agreement.from_first(lambda: _check_disk(job))
    with contextlib.ExitStack() as stack:
        with agreed():
            stack.enter_context(job.parts.held(say))
            missing = agreement.from_first(lambda: _open(job, say, on_progress))
        to_draw = sum(stop - start for start, stop in missing)
        with _saying_what_is_kept(job, job.total - to_draw, on_progress, say) as report:
            _draw(job, missing, report)
            if hosts.is_first():
                _finish(job, report)
    return Written(job.output, job.grid, job.record, to_draw)


@contextlib.contextmanager
def _saying_what_is_kept(job: _Drawing, kept: int, on_progress: OnProgress, say: Say) -> Iterator[OnProgress]:
    """Yields a function for reports of progress; says what is kept if the work ends before its end."""

    def report(name: str, done: int, total: int) -> None:
        nonlocal kept
        kept = done if name == DRAWING else kept
        on_progress(name, done, total)

    try:
        yield report
    except BaseException:
        if kept and hosts.is_first():
            say(f"{kept:,} of {job.total:,} images are kept in {job.parts.directory}: the same command goes on there.")
        raise


def _job(
    run: Run, output: Path | None, count: int, seed: int, label: Label, cond: Mapping[str, Any], format_name: str
) -> _Drawing:
    if not 1 <= count <= LARGEST:
        raise ValueError(f"The number of samples is {count:,}, but must lie in [1, {LARGEST:,}].")
    check_number(seed, where="The seed")
    shape = run.spec.image_shape
    format = sample_files.choose(format_name, _empty(run).dtype, shape[-1])
    chosen = () if label is None else tuple(np.atleast_1d(label).tolist())
    run.labels(1, label)
    run.conditions(cond, count)
    output = sample_settings.default_output(run, count, seed, chosen, cond, format) if output is None else output
    if (output.suffix == ".npz") != (format == "npz"):
        kind = "is a file that ends in .npz" if format == "npz" else "is a directory, whose name does not end in .npz"
        raise ValueError(f"--output is {output}, but what --format={format} writes {kind}.")
    described = sample_settings.describe(run, count, seed, chosen, cond, format)
    identity = sample_settings.digest(described)
    parts = SampleParts(output.with_name(f"{output.name}.parts"), described, identity, count, shape)
    return _Drawing(run, output, format, count, seed, chosen, cond, parts)


def _beside(output: Path, format: Format, suffix: str) -> Path:
    return output.with_suffix(suffix) if format == "npz" else output.with_name(f"{output.name}{suffix}")


def _is_there(job: _Drawing) -> bool:
    """Returns whether the files are there already, whole and of the same settings.

    Raises:
      ValueError: if something else is there.
    """
    record = _read_record(job)
    if job.output.exists():
        different = differences(job.parts.settings, record) if record else ["not by this command"]
        if not different and record.get("size") != _size(job.output):
            different = ["it was changed since"]
        if different:
            raise ValueError(
                f"{job.output} is there already, but not what this command would write ({'; '.join(different)}): "
                "remove it, or give another --output."
            )
        if job.parts.directory.exists():  # a process ended between the last two of its acts
            job.parts.open(silent)
            job.parts.remove()
        return True
    ours = record or job.parts.directory.exists()  # of an output that was removed since, or was not finished
    for path in (job.grid, job.record):
        if not ours:
            sample_files.check_free(path)
    return False


def _read_record(job: _Drawing) -> dict[str, Any]:
    try:
        return manifest.unsealed(job.record.read_text())
    except (OSError, ValueError):
        return {}


def _check_disk(job: _Drawing) -> None:
    """Checks that the disk has room for all images twice, parts and output, and makes the directory of the output."""
    where = job.output.parent
    free = shutil.disk_usage(next(path for path in (where, *where.absolute().parents) if path.exists())).free
    there = sum(path.stat().st_size for path in job.parts.directory.glob("*.npz"))
    image = _empty(job.run).nbytes
    needed = image * job.total - there + sample_files.size(job.format, image, job.total)
    if needed > free:
        raise ValueError(
            f"{job.total:,} images need up to {needed / 1e9:,.1f} GB while they are written, but {where} "
            f"has {free / 1e9:,.1f} GB free: make room, give an --output on another disk, or draw fewer."
        )
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{where} cannot be written ({error.strerror}): choose another --output.") from error


def _open(job: _Drawing, say: Say, on_progress: OnProgress) -> list[list[int]]:
    """Opens the directory of the parts, and returns the ranges of images that are missing."""
    if job.output.exists():  # written by the process that held the parts until now
        raise ValueError(f"{job.output} is there already, since a moment ago: give the same command again.")
    try:
        job.parts.open(say)
        missing = job.parts.missing(say, on_progress)
    except OSError as error:
        raise ValueError(
            f"{job.parts.directory} cannot be used ({error.strerror}): choose another --output."
        ) from error
    there = job.total - sum(stop - start for start, stop in missing)
    if there:
        say(f"{there:,} of {job.total:,} images are in {job.parts.directory} from before: the others are drawn.")
    return [list(interval) for interval in missing]


def _draw(job: _Drawing, missing: list[list[int]], on_progress: OnProgress) -> None:
    """Draws the ranges of images that are missing, each batch into a part."""
    there = job.total - sum(stop - start for start, stop in missing)
    on_progress(DRAWING, there, job.total)
    for start, stop in missing:
        first = start
        for batch in job.run.sample_batches(
            job.total, seed=job.seed, label=job.label, cond=job.cond, start=start, stop=stop
        ):
            if hosts.is_first():
                job.parts.add(first, batch)
            first, there = first + len(batch), there + len(batch)
            on_progress(DRAWING, there, job.total)


def _finish(job: _Drawing, on_progress: OnProgress) -> None:
    """Joins the parts into the output, writes grid and record, and removes the parts."""
    finished = job.parts.directory / f"finished{job.output.suffix if job.format == 'npz' else ''}"
    if finished.is_dir():  # of a process that ended while it was writing
        shutil.rmtree(finished)
    labeled = Labeled(job.run.labels(job.total, job.label), job.run.class_names, job.seed)
    on_progress(_WRITING, 0, job.total)
    sample_files.write(
        job.format,
        finished,
        (to_write(job.run, part) for part in job.parts.read()),
        labeled,
        count=job.total,
        on_done=lambda done: on_progress(_WRITING, done, job.total),
    )
    _write_grid(job, labeled)
    record = {**job.parts.settings, "run": str(job.run.directory), "class_names": list(labeled.class_names)}
    write_whole(job.record, manifest.sealed({**record, "size": _size(finished)}))
    finished.replace(job.output)
    job.parts.remove()


def _write_grid(job: _Drawing, labeled: Labeled) -> None:
    count, labels = min(job.total, GRID_LIMIT), labeled.labels
    shown = np.stack(list(itertools.islice(itertools.chain.from_iterable(job.parts.read()), count)))
    picture = grids.picture(shown, labels=None if labels is None else labels[:count], class_names=labeled.class_names)
    with whole_file(job.grid) as temporary:
        images.save_png(str(temporary), picture)


def _size(output: Path) -> int:
    """Returns the bytes of a file, or the number of files in a directory."""
    return sum(1 for _ in output.iterdir()) if output.is_dir() else output.stat().st_size


def _empty(run: Run) -> np.ndarray:
    """Returns one image as it is written, for its type and size."""
    return to_write(run, np.zeros((1, *run.spec.image_shape), images.dtype_of(run.spec.levels)))


def to_write(run: Run, drawn: UInt[np.ndarray, "b h w c"]) -> np.ndarray:
    """Returns images as they are written to files: in the units of the data."""
    return run.in_units(drawn)
