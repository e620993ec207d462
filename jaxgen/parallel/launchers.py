"""The place of this process among several: given by flags or variables, or by the launcher's environment.

Covered are JAX's own launchers: Slurm's srun, Open MPI's mpirun, Cloud TPU pods and slices on GKE, and Kubernetes where
the package `kubernetes` is installed. `docs/multihost` has a script for each, and says how a JobSet sets the variables.
"""

import importlib.util
import os
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from jaxgen.core import jax_workarounds

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
NUM_PROCESSES = "JAX_NUM_PROCESSES"
PROCESS_ID = "JAX_PROCESS_ID"

_OPEN_MPI_SIZE = "OMPI_COMM_WORLD_SIZE"
_OPEN_MPI_RANK = "OMPI_COMM_WORLD_RANK"
_OPEN_MPI_LOCAL_RANK = "OMPI_COMM_WORLD_LOCAL_RANK"
_OPEN_MPI_4_ADDRESS = "OMPI_MCA_orte_hnp_uri"
_KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"


class Place(NamedTuple):
    """The place of a process among the others.

    Attributes:
      coordinator: host name and port where process 0 waits for the others.
      num_processes: how many there are, this one counted.
      process_id: from 0.
      local_device_ids: the GPUs of the host that are this process's own; None for all.
    """

    coordinator: tuple[str, int]
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None = None


@runtime_checkable
class Launcher(Protocol):
    """The interface of a launcher, which JAX's own classes have, too."""

    def get_process_count(self) -> int:
        """Returns how many processes there are."""

    def get_process_id(self) -> int:
        """Returns which of them this is."""

    def get_local_process_id(self) -> int | None:
        """Returns which of its host's processes this is; None if it has all devices of the host."""

    def get_coordinator_address(self, timeout_secs: int | None, override_coordinator_port: str | None) -> str:
        """Returns HOST:PORT of process 0."""


class OpenMpi:
    """Open MPI's mpirun. JAX's class reads other variables in each release, and needs mpi4py for Open MPI 5."""

    def get_process_count(self) -> int:
        """Returns how many processes there are."""
        return int(os.environ[_OPEN_MPI_SIZE])

    def get_process_id(self) -> int:
        """Returns which of them this is."""
        return int(os.environ[_OPEN_MPI_RANK])

    def get_local_process_id(self) -> int | None:
        """Returns which of its host's processes this is."""
        return int(os.environ[_OPEN_MPI_LOCAL_RANK])

    def get_coordinator_address(self, timeout_secs: int | None, override_coordinator_port: str | None) -> str:
        """Returns HOST:PORT of process 0, which mpirun tells up to Open MPI 4."""
        if _OPEN_MPI_4_ADDRESS not in os.environ:
            raise RuntimeError("Open MPI 5 gives no address")
        return jax_workarounds.open_mpi_address(timeout_secs, override_coordinator_port)


def find(
    coordinator: str | None, num_processes: int | None, process_id: int | None, *, timeout_seconds: int
) -> Place | None:
    """Returns the place of this process by flags, else by JAX's variables, else by the launcher; None if it is alone.

    Raises:
      ValueError: if the place is invalid or incomplete.
    """
    coordinator = coordinator or os.environ.get(COORDINATOR)
    num_processes = _number(NUM_PROCESSES, os.environ) if num_processes is None else num_processes
    process_id = _number(PROCESS_ID, os.environ) if process_id is None else process_id
    if num_processes == 1:
        return None
    try:
        launcher = None if None not in (coordinator, num_processes, process_id) else _launcher()
        local_device_ids = None
        if launcher is not None:
            num_processes = launcher.get_process_count() if num_processes is None else num_processes
            if num_processes == 1:
                return None
            process_id = launcher.get_process_id() if process_id is None else process_id
            coordinator = coordinator or _address(launcher, timeout_seconds)
            own = launcher.get_local_process_id()
            local_device_ids = None if own is None else [own]
    except (RuntimeError, OSError, KeyError) as error:
        raise ValueError(
            f"The launcher of this process does not say who the others are ({error}): give --coordinator=HOST:PORT, "
            "--num_processes and --process_id."
        ) from error
    if coordinator is None and num_processes is None and process_id is None:
        return None
    return _checked(coordinator, num_processes, process_id, local_device_ids)


def _checked(
    coordinator: str | None, num_processes: int | None, process_id: int | None, local_device_ids: list[int] | None
) -> Place:
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        there = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
        raise ValueError(
            f"Several processes need --coordinator=HOST:PORT, --num_processes and --process_id, but {there} came "
            f"without {' and '.join(missing)}."
        )
    assert coordinator is not None
    assert num_processes is not None
    assert process_id is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator is {coordinator}, but must be HOST:PORT, such as node1:8476.")
    if num_processes < 1:
        raise ValueError(f"--num_processes is {num_processes}, but must be at least 1.")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id is {process_id}, but must be from 0 to {num_processes - 1}.")
    return Place((host, int(port)), num_processes, process_id, local_device_ids)


def _launcher() -> Launcher | None:
    """Returns the launcher that started this process, Open MPI's or one of those that JAX knows."""
    if _OPEN_MPI_SIZE in os.environ:
        return OpenMpi()
    known = jax_workarounds.launchers(
        kubernetes=_KUBERNETES_INDEX in os.environ and importlib.util.find_spec("kubernetes") is not None,  # jobs only
        cloud_tpu="tpu" in (os.environ.get("JAX_PLATFORMS") or "tpu"),
    )
    return next((cluster for cluster in known if cluster.is_env_present()), None)


def _address(launcher: Launcher, timeout_seconds: int) -> str:
    port = os.environ.get("JAX_COORDINATOR_PORT")
    return launcher.get_coordinator_address(timeout_secs=timeout_seconds, override_coordinator_port=port)


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    value = environment.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}, but must be a number.") from error
