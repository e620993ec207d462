"""The config's section `train`."""

from typing import Literal, NamedTuple

from jaxgen.core.config import Need, Section, call, refuse_unused
from jaxgen.training.durability.retention import Retention
from jaxgen.training.durability.write_errors import OnWriteError


class TrainSettings(NamedTuple):
    """The settings of training; durations are in optimizer updates.

    Attributes:
      num_steps: updates in the whole run.
      steps_per_dispatch: updates in one call of the device, by `lax.scan`; more hides the host's overhead.
      microbatches: slices of a batch whose gradients are accumulated.
      compute_dtype: type of the networks' computation; parameters are float32 always.
      nonfinite: `stop` at a metric that is not finite, `skip` the update and count it, or `rollback` to the last
        checkpoint and go on with other data, `health.max_rollbacks` times at most.
      log_every_steps: distance between lines in metrics.jsonl. These durations are rounded up to whole dispatches.
      sample_every_steps: distance between grids of samples.
      sample_num_images: images in such a grid.
      sample_share: the share of the time of training that drawing grids may take, beside 10 s of each process; a grid
        that takes longer has the first images only, or is left out. None: all grids have all images.
      checkpoint_every_steps: distance between checkpoints.
      keep_checkpoints: how many of the newest are kept.
      keep_every_steps: checkpoints whose step is a multiple of it are kept for ever; None for none.
      keep_best: a metric of the log, of which the best checkpoints are kept, too; None for none.
      keep_best_count: how many.
      keep_best_mode: whether a `lower` or a `higher` value is better.
      on_write_error: `stop` where a checkpoint, a metric or a picture cannot be written, as on a full disk; or say so,
        and `continue`. That the last checkpoint cannot be written is an error in any case.
      snapshot_every_steps: distance between snapshots of power averages, from which `launch.py ema` makes others; None
        for no snapshots.
      init_from: the work directory of a run whose weights this one starts from, as far as they fit; None for none.
      init_include: a regular expression, or several, over the names `params/...` and `model_state/...` of what is
        taken from it; None for all.
    """

    num_steps: int
    steps_per_dispatch: int = 1
    microbatches: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    log_every_steps: int = 100
    sample_every_steps: int = 1_000
    sample_num_images: int = 80
    sample_share: float | None = 0.05
    checkpoint_every_steps: int = 1_000
    keep_checkpoints: int = 2
    keep_every_steps: int | None = None
    keep_best: str | None = None
    keep_best_count: int = 1
    keep_best_mode: Literal["lower", "higher"] = "lower"
    on_write_error: OnWriteError = "stop"
    snapshot_every_steps: int | None = None
    init_from: str | None = None
    init_include: str | tuple[str, ...] | None = None


NEEDS = {
    "keep_best_count": Need("train.keep_best", lambda train: train.keep_best is not None),
    "keep_best_mode": Need("train.keep_best", lambda train: train.keep_best is not None),
    "init_include": Need("train.init_from", lambda train: train.init_from is not None),
}
"""Settings that have an effect only beside others, with the condition of each."""


def train_settings(config: Section) -> TrainSettings:
    """Reads the section.

    Raises:
      ValueError: names the first setting that is wrong.
    """
    settings = call(TrainSettings, config.train, where="train")
    for name, value in settings._asdict().items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"train.{name} is {value}, but must be at least 1.")
    if settings.sample_share is not None and not 0 < settings.sample_share <= 1:
        raise ValueError(
            f"train.sample_share is {settings.sample_share}, but must be above 0 and at most 1, or None for no limit."
        )
    refuse_unused(TrainSettings, settings._asdict(), NEEDS, where="train")
    if settings.snapshot_every_steps is not None and config.ema.get("kind") != "power":
        raise ValueError("train.snapshot_every_steps is set, but only the averages of ema.kind=power have snapshots.")
    size, slices = config.data.batch_size, settings.microbatches
    if size < 1 or size % slices:
        raise ValueError(f"data.batch_size is {size}, but must be a positive multiple of train.microbatches, {slices}.")
    return settings


def retention(settings: TrainSettings) -> Retention:
    """Returns the retention of checkpoints that the settings ask for."""
    return Retention(
        last=settings.keep_checkpoints,
        every_steps=settings.keep_every_steps,
        best=settings.keep_best,
        best_count=settings.keep_best_count,
        best_mode=settings.keep_best_mode,
    )
