"""One of two processes of a run: saves, resumes past damage, and reports what it saw as a line of JSON.

Arguments: rank, port of the first process, work directory.
"""

import json
import sys
from pathlib import Path

import jax

RANK, PORT, WORKDIR = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"localhost:{PORT}", num_processes=2, process_id=RANK)

import numpy as np  # noqa: E402
from disks import file_size_limit  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from jaxgen.core.contract import TrainState  # noqa: E402
from jaxgen.parallel import agreement  # noqa: E402
from jaxgen.parallel import mesh as meshes  # noqa: E402
from jaxgen.training import checkpoint  # noqa: E402
from jaxgen.training.durability import lock, manifest  # noqa: E402
from jaxgen.training.durability.write_errors import WriteError  # noqa: E402

MESH = meshes.make_mesh()
SPLIT, WHOLE = NamedSharding(MESH, P("data")), NamedSharding(MESH, P())
seen = {"rank": RANK, "said": []}


def put(x, sharding):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def make_state(step):
    kernel = np.arange(64, dtype=np.float32).reshape(8, 8) + step
    params = {"kernel": put(kernel, SPLIT), "bias": put(np.ones(3, np.float32), WHOLE)}
    return TrainState(put(np.int32(step), WHOLE), params, {"mu": put(2 * kernel, SPLIT)}, {}, {"a": put(kernel, WHOLE)})


def same_bits(ours, theirs):
    shards = [leaf.addressable_data(0) for tree in (ours, theirs) for leaf in jax.tree.leaves(tree)]
    half = len(shards) // 2
    return all(np.array_equal(a, b) for a, b in zip(shards[:half], shards[half:], strict=True))


def flip_a_bit(step):
    files = [path for path in (WORKDIR / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def target():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state(0))


with lock.held(WORKDIR, print):
    checkpoint.remove_unfinished(WORKDIR, seen["said"].append)
    with checkpoint.Checkpoints(WORKDIR, say=seen["said"].append) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, make_state(step), ConfigDict({"seed": 1}), metrics={"loss": 1.0})
        checkpoints.wait()
        files = sorted(json.loads((WORKDIR / "checkpoints/6" / manifest.NAME).read_bytes().rpartition(b"}")[0] + b"}"))
        seen["processes_in_list"] = [any(f"process_{rank}/" in name for name in files) for rank in range(2)]
        multihost_utils.sync_global_devices("saved")
        agreement.from_first(lambda: flip_a_bit(6))
        seen["newest"] = checkpoints.newest_whole_step()
        seen["restored"] = same_bits(checkpoints.restore(seen["newest"], target()), make_state(seen["newest"]))
        variables, seen["step"] = checkpoint.load_variables(WORKDIR, target(), lambda state: state.params)
        seen["variables"] = same_bits(variables, make_state(4).params)
        with file_size_limit(100):
            try:
                checkpoints.save(8, make_state(8), ConfigDict({"seed": 1}))
                checkpoints.wait()
            except WriteError as error:
                seen["failed"] = str(error)
        checkpoints.save(8, make_state(8), ConfigDict({"seed": 1}))
    seen["left"] = sorted(path.name for path in (WORKDIR / "checkpoints").iterdir())
    seen["damage"] = manifest.find_damage(WORKDIR / "checkpoints" / "8")
multihost_utils.sync_global_devices("released")
if RANK == 0:  # somebody else, of whom process 1 knows only what process 0 says
    other = (WORKDIR / lock.NAME).open("a+")
    import fcntl

    fcntl.flock(other, fcntl.LOCK_EX)
try:
    with lock.held(WORKDIR, print):
        pass
except ValueError as error:
    seen["refused"] = str(error)
print(json.dumps(seen), flush=True)
