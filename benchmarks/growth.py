"""Measures how time and memory of a training step grow with batch, resolution, width and devices.

    python benchmarks/growth.py [--hardware WORDS]

Every point is a process of its own (`benchmarks/growth_point.py`): the U-Net of `ddpm:digits`, class-conditional and
float32, at 16x16 pixels with a batch of 32 and a width of 32, of which one number at a time is another. Each takes
turns with that reference, so that what else the machine does meets both alike. Devices are simulated CPU devices, which
share the cores. The results go to benchmarks/results/growth.json, a table to docs/results.md, and a plot beside the
ideal lines to docs/images/growth.png. It takes about five minutes of two cores. What accelerators of known rates would
do is planned, not measured, by `benchmarks/scaling.py`.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from results_page import ROOT, wrapped, write_section
from speed_protocol import Process

RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
IMAGE = ROOT / "docs" / "images" / "growth.png"
REFERENCE = {"batch": 32, "resolution": 16, "width": 32, "devices": 1}
SWEEPS: dict[str, tuple[int, ...]] = {
    "batch": (8, 16, 32, 64, 128),
    "resolution": (8, 16, 32, 48),
    "width": (8, 16, 32, 64),
    "devices": (1, 2, 4, 8),
}
TURNS, SECONDS = 5, 0.5
"""Turns of a point, of which the median counts, and how long each of them is."""

TEXT = """Made by `python benchmarks/growth.py`: {hardware}; the training step of the U-Net of `ddpm:digits` (float32,
Adam, average), at 16x16 pixels with a batch of 32 and a width of 32, of which one number at a time is another. Figures
are relative to that step, which took turns with each; of time, medians of {turns} turns (least to greatest).

Time is CPU time of all cores, which other work on the machine changes less than it does wall time. Ideal is time that
grows as the images, as their pixels, and as the square of the width, as the operations of convolutions do. The devices
are simulated: they share the cores of one machine, and each has its part of one batch. More of them cannot be faster,
so the ideal line is flat, and what is above it is the price of the split: smaller products, and sums of gradients over
devices.

Memory is that of the compiled step on one device, by the compiler's account: the state (parameters, two moments, an
average), the batch, and activations. Ideal are a state of its own size, and activations that grow as images, pixels and
width do and are divided among devices, each of which has a copy of the state. The logits of attention, one for each
pair of pixels of the middle's feature map, grow faster.

On accelerators nothing of this has been measured; [docs/scaling.md](scaling.md) has plans.
"""


def main() -> None:
    """Measures all points, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core CPU", help="named in the results, in general")
    arguments = parser.parse_args()
    points: list[dict[str, Any]] = []
    with process_of(REFERENCE) as reference:
        reference.run("train")
        for point in grid():
            points.append(point | measured(point, reference))
            print(points[-1], flush=True)
    contents = {"hardware": arguments.hardware, "turns": TURNS, "points": points}
    RESULTS.write_text(json.dumps(contents, indent=2) + "\n")
    plot(points)
    write_section("Growth", page(contents))


def grid() -> list[dict[str, int]]:
    """Returns the points: the reference first, and those that differ from it in one number."""
    others = [{**REFERENCE, name: value} for name, values in SWEEPS.items() for value in values]
    return [REFERENCE, *(point for point in others if point != REFERENCE)]


def process_of(point: dict[str, int]) -> Process:
    """Returns a process that can train the network of a point."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={point['devices']}"
    command = [sys.executable, str(ROOT / "benchmarks" / "growth_point.py"), json.dumps(point)]
    return Process(command, {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"})


def measured(point: dict[str, int], reference: Process) -> dict[str, Any]:
    """Returns CPU seconds of a step over the reference's, turn by turn, and bytes of the state and of the step."""
    with process_of(point) as process:
        process.run("train")
        counts = [max(1, round(SECONDS / own.run("train")["seconds"])) for own in (process, reference)]
        times = []
        for _ in range(TURNS):
            own, other = (
                each.run("train", count)["cpu_seconds"]
                for each, count in zip((process, reference), counts, strict=True)
            )
            times.append(own / other)
        return {"relative_times": times, **process.facts}


def series(points: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Returns the points of a sweep in their order."""
    others = [key for key in REFERENCE if key != name]
    return sorted((p for p in points if all(p[key] == REFERENCE[key] for key in others)), key=lambda p: p[name])


def ideal_time(point: dict[str, Any]) -> float:
    """Returns the ideal time of a point relative to the reference."""
    batch, side, width = (point[name] / REFERENCE[name] for name in ("batch", "resolution", "width"))
    return batch * side**2 * width**2


def ideal_memory(point: dict[str, Any], reference: dict[str, Any]) -> float:
    """Returns the ideal memory of one device relative to the reference's."""
    batch, side, width = (point[name] / REFERENCE[name] for name in ("batch", "resolution", "width"))
    activations = (reference["held_bytes"] - reference["state_bytes"]) * batch * side**2 * width / point["devices"]
    return (point["state_bytes"] + activations) / reference["held_bytes"]


def relative(points: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Returns the figures of a sweep relative to the reference: time, its range and memory, with the ideal ones."""
    (reference,) = [p for p in points if all(p[key] == value for key, value in REFERENCE.items())]
    return [
        {
            "value": p[name],
            "time": statistics.median(p["relative_times"]),
            "least": min(p["relative_times"]),
            "greatest": max(p["relative_times"]),
            "ideal_time": ideal_time(p),
            "memory": p["held_bytes"] / reference["held_bytes"],
            "ideal_memory": ideal_memory(p, reference),
        }
        for p in series(points, name)
    ]


def page(contents: dict[str, Any]) -> str:
    """Returns the text, the table and the plot of the section."""
    text = TEXT.format(hardware=contents["hardware"], turns=contents["turns"])
    lines = ["\n\n".join(wrapped(paragraph) for paragraph in text.split("\n\n")), ""]
    lines += ["| what | value | time | ideal | memory of a device | ideal |", "|---|---|---|---|---|---|"]
    for name in SWEEPS:
        for row in relative(contents["points"], name):
            time = f"{row['time']:.2f} ({row['least']:.2f} to {row['greatest']:.2f})"
            cells = [name, str(row["value"]), time, f"{row['ideal_time']:.2f}"]
            lines.append("| " + " | ".join([*cells, f"{row['memory']:.2f}", f"{row['ideal_memory']:.2f}"]) + " |")
    return "\n".join([*lines, "", "![Time and memory beside their ideal lines](images/growth.png)"])


def plot(points: list[dict[str, Any]], path: Path = IMAGE) -> None:
    """Draws time and memory over each number, beside the ideal lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(SWEEPS), figsize=(2.6 * len(SWEEPS), 4.8), squeeze=False)
    for column, name in enumerate(SWEEPS):
        rows = relative(points, name)
        values = [row["value"] for row in rows]
        for axis, what in zip(axes[:, column], ("time", "memory"), strict=True):
            axis.plot(values, [row[f"ideal_{what}"] for row in rows], "--", color="gray", label="ideal")
            axis.plot(values, [row[what] for row in rows], "o-", color="tab:blue", label="measured")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.set_ylim(min(0.25, axis.get_ylim()[0]), max(4.0, axis.get_ylim()[1]))
            axis.set_xticks(values, [str(value) for value in values], fontsize=7)
            axis.tick_params(axis="y", labelsize=7)
            axis.set_title(f"{what} of a step" if what == "time" else "memory of a device", fontsize=8)
        axes[1, column].set_xlabel(name, fontsize=8)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
