"""Grids of samples during training, drawn within a share of its time."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxgen.core.contract import GenerativeModel
from jaxgen.parallel import agreement, hosts, sampling
from jaxgen.training.logging import Log, Progress

FREE_SECONDS = 10.0
"""Time of a process for drawing beyond its share, so that short runs and cheap samplers draw everything."""

CPU_BATCH = 16
"""Images in a call of the sampler on CPUs, where more of them are not faster: the rest of a grid can be left out."""

_COMPILATION = "/jax/core/compile/backend_compile_duration"
_compiled = 0.0


def _add_compilation(event: str, duration_secs: float, **details: str | int) -> None:
    global _compiled
    _compiled += duration_secs * (event == _COMPILATION)


jax.monitoring.register_event_duration_secs_listener(_add_compilation)


class Budget:
    """The time for drawing: a share of the time of training so far, and `FREE_SECONDS`; compilation is not counted."""

    def __init__(self, share: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._start, self._away, self._drawn = clock(), 0.0, 0.0

    def spend(self, seconds: float, *, compiling: float) -> None:
        """Counts time in which nothing was trained, of which some was compilation."""
        self._away += seconds
        self._drawn += max(0.0, seconds - compiling)

    def allows(self, seconds: float) -> bool:
        """Returns whether there is time to draw for so long."""
        if self._share is None:
            return True
        trained = self._clock() - self._start - self._away
        return self._drawn + seconds <= FREE_SECONDS + self._share * trained


class GridSettings(NamedTuple):
    """The settings of the grids of a run.

    Attributes:
      num_images: in a grid, at most.
      share: of the time of training that drawing may take; None for any time.
      batch_size: images in one call of the sampler.
      seed: of all grids.
      class_names: the names of the classes, by number.
    """

    num_images: int
    share: float | None
    batch_size: int
    seed: int
    class_names: tuple[str, ...]


class SampleGrids:
    """The grids of a run: image i has the same key and label in all of them, so that they can be compared.

    A grid that would take too long has the first images only, or is left out; which ones depends on the clock, and
    nothing else does. Every process of a run makes an instance, and calls it at the same steps.
    """

    def __init__(
        self,
        settings: GridSettings,
        model: GenerativeModel,
        mesh: Mesh,
        *,
        log: Log,
        progress: Progress,
        interrupted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._model, self._mesh = settings, model, mesh
        self._log, self._progress, self._interrupted, self._clock = log, progress, interrupted, clock
        self._budget = Budget(settings.share, clock=clock)
        self._batch_seconds = 0.0  # of the fastest batch so far
        self._said = False

    def draw(self, step: int, variables: PyTree, *, always: bool = False) -> None:
        """Draws and records the grid of a step; with `always`, a batch of it even if there is no time for it."""
        count = self._settings.num_images
        labels = sampling.balanced_labels(self._model.spec, count)
        if not always and not self._may_go_on():
            self._say(step, 0)
            return
        try:
            with self._progress.working(f"drawing {count} images"):
                images = self._images(variables, labels)
        except sampling.NonfiniteImagesError as error:  # training may yet come to images that are
            self._progress.say(f"warning: no samples of step {step}: {error}")
            return
        if len(images) < count:
            self._say(step, len(images))
        shown = None if labels is None else labels[: len(images)]
        self._log.images("samples", step, images, columns=10, labels=shown, class_names=self._settings.class_names)

    def _images(self, variables: PyTree, labels: np.ndarray | None) -> np.ndarray:
        settings, drawn = self._settings, list[np.ndarray]()
        mark, compiled = self._clock(), _compiled
        for batch in sampling.draw_batches(
            self._model,
            variables,
            labels,
            count=settings.num_images,
            seed=settings.seed,
            mesh=self._mesh,
            batch_size=self._batch_size(),
        ):
            drawn.append(batch)
            now, compiling = self._clock(), _compiled - compiled
            self._budget.spend(now - mark, compiling=compiling)
            drawing = max(0.0, now - mark - compiling)
            self._batch_seconds = min(drawing, self._batch_seconds or drawing)
            mark, compiled = now, _compiled
            if sum(map(len, drawn)) < settings.num_images and not self._may_go_on():
                break
        return np.concatenate(drawn)

    def _batch_size(self) -> int:
        size = min(self._settings.num_images, self._settings.batch_size)
        return min(size, CPU_BATCH) if self._on_cpu() else size

    def _on_cpu(self) -> bool:
        return self._mesh.devices.flat[0].platform == "cpu"

    def _may_go_on(self) -> bool:
        """Returns whether there is time for another batch; of several processes, all return the same."""
        return not self._stopped() and agreement.from_first(lambda: self._budget.allows(self._batch_seconds))

    def _stopped(self) -> bool:
        """Returns whether the run is interrupted; several processes settle that between updates alone."""
        return hosts.num_processes() == 1 and self._interrupted()

    def _say(self, step: int, drawn: int) -> None:
        """Says, once, that grids are not drawn in full for want of time."""
        share, count = self._settings.share, self._settings.num_images
        if self._said or share is None or self._stopped():
            return
        self._said = True
        seconds = self._batch_seconds * count / min(count, self._batch_size())
        what = f"has {drawn} of {count} images" if drawn else "is left out"
        self._progress.say(
            f"A grid of {count} samples takes about {seconds:,.0f} s here: that of step {step} {what}, and later ones "
            f"have as many as fit into {share:.0%} of the time of training. To draw all: train.sample_share=None."
        )
