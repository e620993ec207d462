"""Times training and sampling of jaxgen's models, and of the same networks in PyTorch, in turns on one machine.

    python benchmarks/speed.py [--models unet32 ...] [--torch_python PYTHON] [--rounds N]

Each model runs in a process of its own, and so does each form of its peer (`benchmarks/peers/torch_networks.py`):
eager, channels_last and torch.compile. In every round each process in turn trains for about a second, and then samples,
while the others wait; so what else the machine does meets all of them alike. Networks have equally many parameters,
which is asserted, the same batch and float32. PyTorch is that of `--torch_python`, by default of this interpreter;
where there is none the table has jaxgen alone, and says so. The results go to benchmarks/results/speed.json, and a
table to docs/results.md; those of other versions of JAX and of other models stay there.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
from typing import Any

from results_page import ROOT, write_section
from speed_protocol import Process

RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
BENCHMARKS = ROOT / "benchmarks"
MODES = ("eager", "channels_last", "compile")
SECONDS = 1.0
BUSY = 0.5
"""The load of a machine, in running processes, from which on a warning is printed."""

_DDIM = {"sampler.name": "ddim", "sampler.num_steps": 10, "sampler.guidance_scale": 1.0}
_DIGITS = {"base": 32, "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0, "groups": 8}
_SHAPES = {"base": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (8,), "dropout": 0.1, "groups": 32}


def _unet(config: str, shape: tuple[int, int, int], classes: int, batch: int, arguments: dict[str, Any]) -> dict:
    case = {"config": config, "settings": _DDIM, "shape": shape, "classes": classes, "batch": batch}
    return case | {"network": "unet", "arguments": arguments, "evaluations": 10}


# For jaxgen the config and its settings; for PyTorch the network, its arguments, network evaluations of a sample.
CASES: dict[str, dict[str, Any]] = {
    "unet8": _unet("ddpm:digits", (8, 8, 1), 10, 64, _DIGITS),
    "unet16": _unet("ddpm:shapes", (16, 16, 3), 6, 32, _SHAPES),
    "unet32": _unet("ddpm:shapes", (32, 32, 3), 6, 32, _SHAPES),
    "dcgan": {
        "config": "dcgan:shapes",
        "settings": {},
        "shape": (32, 32, 3),
        "classes": 6,
        "batch": 128,
        "players": ("generator", "discriminator"),
        "network": "dcgan",
        "arguments": {"width": 64, "halvings": 3},
        "betas": (0.5, 0.999),
    },
    "vae": {
        "config": "vae:shapes",
        "settings": {},
        "shape": (32, 32, 3),
        "classes": 6,
        "batch": 128,
        "network": "vae",
        "arguments": {"latent": 16, "width": 32, "hidden": 256, "halvings": 3},
    },
    "dit_s2": {
        "config": "sit:shapes",
        "settings": {"model.patch_size": 2, "sampler.name": "euler", "sampler.num_steps": 2},
        "shape": (32, 32, 4),
        "classes": 1000,
        "batch": 8,
        "network": "dit",
        "arguments": {"patch": 2, "width": 384, "depth": 12, "heads": 6},
        "evaluations": 2,
    },
}

LEGEND = """Made by `python benchmarks/speed.py`: {hardware}, float32; each row is one run, in which jaxgen and PyTorch
took turns: median images/s of {rounds} rounds (least to greatest). PyTorch runs the same networks, with equally many
parameters, written plainly in `benchmarks/peers/torch_networks.py`: eager, with its channels last, and compiled. The
ratio is that of jaxgen's median to the greatest median of these. `of product` is the rate of jaxgen's training step
relative to a product of two float32 matrices of 1,536 rows; operations are those of products and convolutions alone,
counted from their shapes in PyTorch's network. unet8, unet16 and unet32 are the class-conditional U-Nets of
`ddpm:digits` and `ddpm:shapes`, which sample by 10 steps of DDIM; dit_s2 is `sit:shapes` with the network DiT-S/2 on
32x32x4 latents and 1,000 classes, by 2 steps of Euler; dcgan and vae are those configs' variants `shapes`. `load` is
how many processes ran on the machine before: where it is not near 0, threads of PyTorch wait for each other.
"""


def main() -> None:
    """Times the models, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--torch_python", default=sys.executable, help="the interpreter of an environment with torch")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES, help="of PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core CPU", help="named in the results, in general")
    arguments = parser.parse_args()
    if not has_torch(arguments.torch_python):
        print("PyTorch is not installed here: jaxgen is timed alone. Give --torch_python=PYTHON of where it is.")
        arguments.modes = []
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in arguments.models:
        load = os.getloadavg()[0]
        if load > BUSY:
            print(
                f"{load:.1f} processes are running already: PyTorch suffers most from that, so the ratio says little."
            )
        row = timed(CASES[name], arguments.modes, arguments.torch_python, arguments.rounds)
        rows[f"{name}, jaxlib {row['versions']['jaxlib']}"] = row | {"model": name, "load": load}
        contents = {"hardware": arguments.hardware, "rounds": arguments.rounds, "rows": rows}
        RESULTS.write_text(json.dumps(contents, indent=2) + "\n")
        write_section("Speed", table(contents))
    print(table(contents))


def has_torch(python: str) -> bool:
    """Returns whether an interpreter has PyTorch."""
    return subprocess.run([python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0


def timed(case: dict[str, Any], modes: list[str], torch_python: str, rounds: int) -> dict[str, Any]:
    """Returns versions, parameters, operations, and the images/s of all rounds by process and run.

    Raises:
      ValueError: if jaxgen and PyTorch have different numbers of parameters.
    """
    text = json.dumps(case)
    commands = {"jaxgen": [sys.executable, str(BENCHMARKS / "speed_jaxgen.py"), text]}
    for mode in modes:
        commands[mode] = [torch_python, str(BENCHMARKS / "peers" / "torch_speed.py"), text, mode]
    # jaxgen's package is found beside the benchmarks, installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process(command, environment)) for name, command in commands.items()}
        facts = {name: process.facts for name, process in processes.items()}
        for name, fact in facts.items():
            if fact["parameters"] != facts["jaxgen"]["parameters"]:
                raise ValueError(f"jaxgen has {facts['jaxgen']['parameters']} parameters, {name} {fact['parameters']}.")
        measured = rates(processes, case["batch"], rounds)
    row = {"batch": case["batch"], "images_per_second": measured, "parameters": sum(facts["jaxgen"]["parameters"])}
    for key in ("flops", "versions", "compilation"):
        for fact in facts.values():
            row[key] = {**fact.get(key, {}), **row.get(key, {})}
    return row


def rates(processes: dict[str, Process], batch: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns images/s, wall and by CPU seconds, of each run of each process; of `product`, operations/s."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in processes}
    counts: dict[tuple[str, str], int] = {}
    for number in range(-2, rounds):  # of two rounds before the first the times do not count: compilation, caches
        for name, process in processes.items():
            for run in ("train", "sample") + (("product",) if name == "jaxgen" else ()):
                spent = process.run(run, counts.get((name, run), 1))
                counts[name, run] = math.ceil(SECONDS / spent["seconds"])
                if number >= 0:
                    amount = process.facts["product_flops"] if run == "product" else batch
                    found[name].setdefault(run, []).append(amount / spent["seconds"])
                    found[name].setdefault(f"{run}_cpu", []).append(amount / spent["cpu_seconds"])
    return found


def table(contents: dict[str, Any]) -> str:
    """Returns the legend and a Markdown table with one row a model and version of JAX."""
    lines = [LEGEND.format(hardware=contents["hardware"], rounds=contents["rounds"])]
    if not all(set(MODES) & set(row["images_per_second"]) for row in contents["rows"].values()):
        lines.append("Rows without a ratio are of environments without PyTorch.\n")
    for run, title in (("train", "Training, images/s"), ("sample", "Sampling, images/s")):
        lines += [f"{title}:", "", *rows_of(contents["rows"], run), ""]
    return "\n".join(lines)


def rows_of(rows: dict[str, dict[str, Any]], run: str) -> list[str]:
    """Returns the lines of the table of training or of sampling."""
    titles = ["model", "jaxlib", "parameters", "batch", "jaxgen", *(f"torch {mode}" for mode in MODES), "ratio"]
    titles += ["of product", "compilation, s", "load"] if run == "train" else ["compilation, s", "load"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows.values():
        speeds = {name: runs[run] for name, runs in row["images_per_second"].items()}
        peers = [statistics.median(speeds[mode]) for mode in MODES if mode in speeds]
        ours = statistics.median(speeds["jaxgen"])
        cells = [row["model"], row["versions"]["jaxlib"], f"{row['parameters']:,}", str(row["batch"])]
        cells += [spread(speeds.get(name, [])) for name in ("jaxgen", *MODES)]
        cells.append(f"{ours / max(peers):.2f}" if peers else "")
        if run == "train":
            product = statistics.median(row["images_per_second"]["jaxgen"]["product"])
            flops = row["flops"].get("train", 0) / row["batch"]
            cells.append(f"{ours * flops / product:.0%}" if flops else "")
        cells += [f"{row['compilation'][run]:.0f}", f"{row['load']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(values: list[float]) -> str:
    """Returns the median, the least and the greatest value; empty for none."""
    if not values:
        return ""
    low, middle, high = (
        f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
