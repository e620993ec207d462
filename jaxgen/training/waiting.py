"""The share of time in which the devices have nothing to do, since the loop waits for the next batch."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax
from jaxtyping import PyTree

T = TypeVar("T")

STARVED_SHARE = 0.2
"""From this share on, a sentence says what to do."""

STARVED_SECONDS = 60.0
"""Not before so much time of training."""


class DataWait:
    """Measures the time from when the devices have finished all work to when the next batch arrives.

    A batch that arrives while they compute costs nothing, however long the loop has waited for it. The end of their
    work is observed by a thread, since the loop itself reads the metrics of a dispatch only after the next one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._observer = ThreadPoolExecutor(1, thread_name_prefix="end-of-dispatch")
        self._finished: Future[float] | None = None
        self._idle = self._elapsed = 0.0
        self._taken = (0.0, 0.0)
        self._since = clock()
        self._said = False

    def close(self) -> None:
        """Ends the thread, once the devices have finished."""
        self._observer.shutdown(wait=False)

    def restart_clock(self) -> None:
        """Leaves out the time since the last batch, after work that was not training."""
        self._since = self._clock()
        self._finished = None

    def dispatched(self, metrics: PyTree) -> None:
        """Observes the end of the work that was dispatched last."""
        self._finished = self._observer.submit(self._end_of, metrics)

    def read(self, batches: Iterator[T], count: int) -> list[T]:
        """Returns the next batches, and measures how long the devices wait for them."""
        began = self._clock()
        found = [next(batches) for _ in range(count)]
        arrived = self._clock()
        if self._finished is not None and self._finished.done() and self._finished.exception() is None:
            self._idle += arrived - max(began, self._finished.result())
        self._elapsed += arrived - self._since
        self._since = arrived
        return found

    def take_share(self) -> float:
        """Returns the share since the last call."""
        idle, elapsed = self._idle - self._taken[0], self._elapsed - self._taken[1]
        self._taken = self._idle, self._elapsed
        return idle / elapsed if elapsed > 0 else 0.0

    def say_once(self, say: Callable[[str], None]) -> None:
        """Says that the devices wait for data, if they do, and what to do about it; in all once."""
        share = self._idle / self._elapsed if self._elapsed > 0 else 0.0
        if not self._said and self._elapsed >= STARVED_SECONDS and share >= STARVED_SHARE:
            self._said = True
            say(
                f"The devices wait for data in {share:.0%} of the time (data/wait_share): store the pictures in the "
                "size that they are trained at, on a disk of this machine, or give the process more CPU cores."
            )

    def _end_of(self, metrics: PyTree) -> float:
        jax.block_until_ready(metrics)
        return self._clock()
