"""Errors for too little device memory that name the settings that need less, with a profile of the memory."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from jaxgen.core.config import Section

# XLA's errors can be told apart by their words only. What a CPU runs in the background has another status.
_MARKS = ("RESOURCE_EXHAUSTED:", "INTERNAL: Error dispatching computation: Out of memory")
_FILE = "memory.prof"


class OutOfMemoryError(RuntimeError):
    """The device has too little memory for the settings; the message says which ones could be changed."""


@contextlib.contextmanager
def explained(workdir: Path, config: Section) -> Iterator[None]:
    """Turns XLA's error, from a compilation or a run, into one that names settings, and writes `memory.prof`.

    Raises:
      OutOfMemoryError: in the place of XLA's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(mark in str(error) for mark in _MARKS):
            raise
        words = str(error).splitlines()[0].strip().rstrip(".")
        raise OutOfMemoryError(
            f"The device has too little memory ({words}). Try, in another --workdir: {'; '.join(advice(config))}. "
            f"{_keep_profile(workdir)}"
        ) from error


def advice(config: Section) -> list[str]:
    """Returns the settings that lower the memory, with their present values; those that keep the results come first.

    Settings that are not in the config, or are as advised already, are left out.
    """
    size, slices = config.data.batch_size, config.train.microbatches
    remat = [f"{name}.remat" for name, section in config.items() if _has_remat(section) and not section.remat]
    found = [f"a larger train.microbatches (now {slices}: {size // slices} examples at a time)"] * (size > slices)
    found += [f"{name}=True (now False)" for name in remat]
    if config.train.compute_dtype != "bfloat16":
        found.append(f"train.compute_dtype=bfloat16 (now {config.train.compute_dtype})")
    found.append(f"a smaller data.batch_size (now {size})")
    found.append(f"a smaller sample.batch_size (now {config.sample.batch_size}), if it was drawing a grid")
    return [*found, f"more devices, or the state split over them by parallel.fsdp (now {config.parallel.fsdp})"]


def _has_remat(section: object) -> bool:
    return isinstance(section, Mapping) and "remat" in section


def _keep_profile(workdir: Path) -> str:
    """Writes a profile of the device's memory by the lines that allocated it; returns a sentence about it."""
    try:
        profile = jax.profiler.device_memory_profile()
    except jax.errors.JaxRuntimeError as error:  # a backend that cannot say
        return f"There is no profile of its memory ({error})."
    path = workdir / (_FILE if jax.process_count() == 1 else f"{jax.process_index()}-{_FILE}")
    path.write_bytes(profile)
    return f"What lay on it, by the lines that put it there: pprof -top {path}"
