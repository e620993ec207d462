"""`launch.py plan`: compile, and never run, the update of a config for any number of devices, and print its cost."""

from typing import Any

from jaxtyping import PyTree

from jaxgen.cli.main import image_shape, refusals
from jaxgen.core import trees
from jaxgen.core.config import Section
from jaxgen.parallel import hlo, plan
from jaxgen.parallel.hardware import ACCELERATORS, Accelerator
from jaxgen.runs import planning
from jaxgen.runs.planning import Plan

_LARGEST = 8


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if flags.devices is None:
            raise ValueError("plan needs --devices=N, the number of devices to compile for, at least 1.")
        data = planning.find_facts(config, image_shape(flags), flags.num_classes, say=print)
        made = planning.make(config, flags.devices, data, mesh=flags.mesh)
    print(report(made))
    return 0


def report(made: Plan) -> str:
    """Returns a plan as text."""
    splits = plan.splits(made.target._asdict())
    program, memory = made.program, made.memory
    axes = " x ".join(f"{axis} {size:,}" for axis, size in made.mesh.items())
    lines = [
        f"{made.devices:,} devices ({axes}), batch {made.batch_size:,}",
        f"{trees.count(made.target.params):,} parameters; parameters, optimizer and averages take "
        f"{_on_device(made.target._replace(frozen=()))}",
        *(f"frozen: the {role} takes {_on_device(tree)}" for role, tree in (made.target.frozen or {}).items()),
        "",
        "One update on one device:",
        f"  memory      {_size(memory.arguments)} of arguments, {_size(memory.temporaries)} of temporaries, "
        f"{_size(memory.peak)} at the peak",
        f"  operations  {program.flops / 1e12:.4g} TFLOP, {program.flops / max(program.bytes, 1.0):.3g} per byte moved",
        *_messages(program),
        "",
        *_times(made),
        "",
        f"The {min(_LARGEST, len(splits))} largest arrays, and which axes of the mesh split their dimensions:",
        *(f"  {split.name} {split.shape}: {split.spec}; {_size(split.bytes)}" for split in splits[:_LARGEST]),
        *_warnings(made),
    ]
    return "\n".join(lines)


def _on_device(tree: PyTree) -> str:
    """Says how many bytes a tree of shapes with shardings takes, in all and on one device."""
    whole, here = trees.num_bytes(tree), sum(split.bytes for split in plan.splits(tree))
    return f"{_size(whole)}, {_size(here)} ({here / max(whole, 1):.2%}) on each device"


def _messages(program: hlo.Program) -> list[str]:
    total = plan.by_kind(program.collectives)
    if not total:
        return ["  messages    none"]
    return [f"  messages    {_size(size)} of {kind}" for kind, size in sorted(total.items(), key=lambda item: -item[1])]


def _times(made: Plan) -> list[str]:
    rows = [("estimate", "compute", "messages", "a step", "images/s", "efficiency", "memory")]
    for name, device in ACCELERATORS.items():
        time = plan.estimate(made.program, device, float32=made.float32)
        rows.append(
            (
                name,
                _milliseconds(time.compute),
                _milliseconds(time.messages),
                f"{_milliseconds(time.best)} to {_milliseconds(time.worst)}",
                f"{made.batch_size / time.worst:,.0f} to {made.batch_size / time.best:,.0f}",
                f"{time.compute / time.worst:.0%} to {time.compute / time.best:.0%}",
                f"{made.memory.peak / device.memory:.0%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [
        *table,
        f"Products at {plan.ATTAINED:.0%} of the peak; messages at the network's, behind work at best, and after it at "
        "worst.",
        "The program is a CPU's: other compilers fuse more, and take less memory for products in bfloat16.",
    ]


def _warnings(made: Plan) -> list[str]:
    small = [name for name, device in ACCELERATORS.items() if not _fits(made, device)]
    if not small:
        return []
    return [
        "",
        f"warning: this will not fit into {', '.join(small)}. Try more devices, parallel.fsdp, train.microbatches, "
        "model.remat, or train.compute_dtype=bfloat16.",
    ]


def _fits(made: Plan, device: Accelerator) -> bool:
    return made.memory.peak <= device.memory


def _size(count: float | int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.4g} {unit}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
