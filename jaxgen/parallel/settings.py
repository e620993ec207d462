"""The config's section `parallel`, and the runner that it asks for."""

from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Key

from jaxgen.core import keys
from jaxgen.core.config import Need
from jaxgen.core.contract import GenerativeModel
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import mesh_path, pmap_path
from jaxgen.parallel.runner import NOTHING, Frozen, Runner
from jaxgen.parallel.sharding import Sharding, parse_rules


class ParallelSettings(NamedTuple):
    """The config's section `parallel`. None of it moves a trajectory, so all may change when a run is continued.

    Attributes:
      mode: `mesh` (jit over a device mesh) or `pmap` (a copy of the state on every device).
      num_devices: how many of the devices to use; None means all.
      data: devices that have copies of the state and parts of the batch; one of `data`, `fsdp` and `tensor` may be -1,
        for as many as the others leave.
      fsdp: devices that share the state, and have parts of the batch, too (fully sharded data parallelism).
      tensor: devices that share single layers and see the same examples (tensor parallelism).
      slices: groups of devices with a slower network between them; None takes what TPU slices say of themselves.
      rules: in the place of `sharding.DEFAULT_RULES`.
      min_shard_elements: smaller arrays are not split over `fsdp`.
    """

    mode: Literal["mesh", "pmap"] = "mesh"
    num_devices: int | None = None
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int | None = None
    rules: tuple[Any, ...] = ()
    min_shard_elements: int = 4096


NEEDS = {
    "rules": Need("parallel.fsdp or parallel.tensor", lambda parallel: (parallel.fsdp, parallel.tensor) != (1, 1)),
    "min_shard_elements": Need("parallel.fsdp", lambda parallel: parallel.fsdp != 1),
}
"""Settings that have an effect only beside others, with the condition of each."""


def axis_name(settings: ParallelSettings) -> str | None:
    """Returns the mapped axis that the model must average over; None on the mesh path, where the compiler does it."""
    return meshes.DATA if settings.mode == "pmap" else None


def make_sharding(settings: ParallelSettings) -> Sharding:
    """Returns the mesh and the sharding of states that the settings ask for.

    Raises:
      ValueError: if there are fewer devices than asked for, or the axes do not fit them or the mode.
    """
    if settings.mode == "pmap" and (settings.fsdp, settings.tensor) != (1, 1):
        raise ValueError(
            f"parallel.mode is pmap, which copies the state to every device, but parallel.fsdp is {settings.fsdp} and "
            f"parallel.tensor is {settings.tensor}: set both to 1, or parallel.mode=mesh."
        )
    mesh = meshes.make_mesh(
        settings.num_devices,
        data=settings.data,
        fsdp=settings.fsdp,
        tensor=settings.tensor,
        slices=settings.slices,
    )
    return Sharding(mesh, parse_rules(settings.rules), settings.min_shard_elements)


def make_runner(
    model: GenerativeModel, settings: ParallelSettings, root_key: Key[Array, ""], frozen: Frozen = NOTHING
) -> Runner:
    """Builds the runner that the settings ask for, of a model that reads what is frozen.

    Raises:
      ValueError: as `make_sharding`.
    """
    sharding, key = make_sharding(settings), keys.stream(root_key, "train")
    if settings.mode == "pmap":
        return pmap_path.make_runner(model, sharding.mesh, key, frozen)
    return mesh_path.make_runner(model, sharding, key, frozen)
