"""The environment of JAX: variables that are set before it is imported, and the record of them that a run keeps."""

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
from typing import Any

from jaxgen.core import paths

# XLA's own CPU convolutions are slow in jaxlib 0.10. With this value of the option a library runs each product and
# convolution by itself: 3x3 convolutions with their gradients were 1.7 times as fast with 0.10.2, and 0.9 times with
# 0.12.0.1 (2 cores of an AMD EPYC). With no value, and with LIBRARY_FUSION_TYPE_DOT, the library also takes what comes
# before and after a product, which 0.10 computes wrong (docs/reliability.md). A jaxlib that does not know an option
# refuses to start, so it is set for the versions that it was verified on only.
_CPU_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
_CPU_VALUE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_CPU_VERSIONS = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.12.0.1")

# Options of the allocator of glibc (malloc.h), and values that have it keep the memory of the main thread: no part is
# mapped by itself, and the end is not given back.
_KEEPING = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}

_PLAN_DEVICES = 2_048  # XLA's CPU client has no more; see runs.planning


def prepare(*, plan_devices: int | None = None) -> None:
    """Sets the environment of JAX, leaving alone what the user has set.

    `JAXGEN_XLA_FLAGS=0` keeps XLA_FLAGS as they are; `JAX_COMPILATION_CACHE_DIR` moves the compilation cache, which
    there is none of where neither it nor a home directory is known.

    Args:
      plan_devices: how many simulated CPU devices to compile for, and never to run on; None for the devices that are
        there.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    verified = importlib.metadata.version("jaxlib") in _CPU_VERSIONS
    if os.environ.get("JAXGEN_XLA_FLAGS") != "0" and _CPU_OPTION not in flags and verified:
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_OPTION}={_CPU_VALUE}".strip()
    if plan_devices is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"
        count = min(plan_devices, _PLAN_DEVICES)
        # What is planned is never run: no time is spent on machine code.
        added = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {added}".strip()
    cache = paths.user_cache()
    if cache is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "compilation"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # XLA inverts matrices on CPUs by SciPy's OpenBLAS, whose threads would wait for the next matrix in a loop, on the
    # cores of XLA's own. NumPy has another OpenBLAS, which has its threads from here on.
    if "OMP_NUM_THREADS" not in os.environ:
        import numpy  # noqa: F401

        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Orbax and TFDS would otherwise say on the terminal what they do all the time.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def keep_freed_memory() -> bool:
    """Has this process keep the memory that it frees, for what it allocates next, if JAX computes on CPUs.

    A program for CPUs allocates what it needs anew in each step, and the system would have to clear it each time. The
    allocator keeps memory of the main thread alone, so programs for one device run in the thread that calls them. To be
    called before JAX's devices have started. Where variables of glibc (`MALLOC_...`, `GLIBC_TUNABLES`) are set, they
    say what it does; other allocators have no such options.

    Returns:
      whether memory is kept.
    """
    set_by_user = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform != "linux" or set_by_user or not _is_for_cpus():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(mallopt(*option) != 1 for option in _KEEPING.values()):
        return False
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True


def _is_for_cpus() -> bool:
    """Returns whether JAX will compute on CPUs, by what is set or installed: its devices have not started yet."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None


def ready() -> None:
    """Prepares JAX at the first call of the library's functions, and verifies what its compiler computes.

    The environment is that of the process when JAX has already started its devices.

    Raises:
      ValueError: if the backend computes wrong results, as with some sets of options (docs/reliability.md).
    """
    import jax

    from jaxgen.core import jax_workarounds
    from jaxgen.parallel import backend

    started = jax_workarounds.backends_are_initialized()
    if not started:
        prepare()
        # JAX, which has been imported, has not seen these variables: it reads them then.
        for option, default, read in (
            ("jax_compilation_cache_dir", None, str),
            ("jax_persistent_cache_min_compile_time_secs", 1.0, float),
        ):
            if getattr(jax.config, option) == default and option.upper() in os.environ:
                jax.config.update(option, read(os.environ[option.upper()]))
    absl = logging.getLogger("absl")
    if _is_no_step_of_orbax not in absl.filters:
        absl.addFilter(_is_no_step_of_orbax)
    try:
        backend.check_backend()
    except ValueError as error:
        if not started:
            raise
        raise ValueError(
            f"{error} JAX has computed before, without them: call jaxgen first, or set XLA_FLAGS={_CPU_OPTION}="
            f"{_CPU_VALUE} when Python starts."
        ) from error


def _is_no_step_of_orbax(record: logging.LogRecord) -> bool:
    """Filters the log: Orbax logs each of its steps, and warns of errors that it raises as exceptions as well."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def record() -> dict[str, Any]:
    """Returns the facts that, with the config, are needed to repeat a run: versions, devices, flags, the command."""
    import jax

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "jaxgen")
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a checkout that was not installed
