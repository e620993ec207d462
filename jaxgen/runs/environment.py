"""What JAX must know before it is imported, and what of it a run records."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# XLA's own CPU convolutions are slow in jaxlib 0.10. With this value of the option a library runs each product and
# convolution by itself: 3x3 convolutions with their gradients were 1.7 times as fast with 0.10.2, and 0.9 times with
# 0.12.0.1 (2 cores of an AMD EPYC). With no value, and with LIBRARY_FUSION_TYPE_DOT, the library also takes what comes
# before and after a product, which 0.10 computes wrong (docs/reliability.md). A jaxlib that does not know an option
# refuses to start, so it is set for the versions that it was verified on only.
_CPU_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
_CPU_VALUE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_CPU_VERSIONS = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.12.0.1")

_PLAN_DEVICES = 2_048  # XLA's CPU client has no more; see runs.planning


def prepare(arguments: Sequence[str] = ()) -> None:
    """Sets the environment of JAX, leaving alone what the user has set.

    The command `plan` compiles for CPU devices that are not there, as many as its flag says.

    `JAXGEN_XLA_FLAGS=0` keeps XLA_FLAGS as they are; `JAX_COMPILATION_CACHE_DIR` moves the compilation cache.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    verified = importlib.metadata.version("jaxlib") in _CPU_VERSIONS
    if os.environ.get("JAXGEN_XLA_FLAGS") != "0" and _CPU_OPTION not in flags and verified:
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_OPTION}={_CPU_VALUE}".strip()
    if "plan" in arguments[1:]:
        os.environ["JAX_PLATFORMS"] = "cpu"
        count = min(_devices_asked_for(arguments), _PLAN_DEVICES)
        # What is planned is never run: no time is spent on machine code.
        added = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {added}".strip()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxgen" / "compilation"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # Orbax and TFDS would otherwise say on the terminal what they do all the time.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _devices_asked_for(arguments: Sequence[str]) -> int:
    """The number in --devices=N, or 1 where the command line will be refused."""
    found = [re.fullmatch(r"--?devices=(\d+)", argument) for argument in arguments]
    return max([int(match[1]) for match in found if match], default=1)


def record() -> dict[str, Any]:
    """What is needed, beside the config, to repeat a run: versions, devices, flags, the command."""
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
