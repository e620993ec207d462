"""The config's section `parallel`, and the runner that it asks for."""

from typing import Literal, NamedTuple

from jaxtyping import Array, Key

from jaxgen.core import keys
from jaxgen.core.contract import GenerativeModel
from jaxgen.parallel import hosts, mesh_path, pmap_path
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Runner


class ParallelSettings(NamedTuple):
    """The config's section `parallel`.

    Attributes:
      mode: `mesh` (jit over a device mesh) or `pmap`.
      num_devices: how many of the devices to use; None means all.
    """

    mode: Literal["mesh", "pmap"] = "mesh"
    num_devices: int | None = None


def axis_name(settings: ParallelSettings) -> str | None:
    """The mapped axis that the model must average over; None on the mesh path, where the compiler does it."""
    return meshes.DATA if settings.mode == "pmap" else None


def make_runner(model: GenerativeModel, settings: ParallelSettings, root_key: Key[Array, ""]) -> Runner:
    """Builds the runner that the settings ask for.

    Raises:
      ValueError: if there are fewer devices than asked for, or several processes for `pmap`.
    """
    if settings.mode == "pmap" and hosts.num_processes() > 1:
        raise ValueError("parallel.mode is 'pmap', which is for one process: several need 'mesh'.")
    path = {"mesh": mesh_path, "pmap": pmap_path}[settings.mode]
    return path.make_runner(model, meshes.make_mesh(settings.num_devices), keys.stream(root_key, "train"))
