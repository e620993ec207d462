"""Times training and sampling of jaxgen's models, and of the same networks in PyTorch, in turns on one machine.

    python benchmarks/speed.py [--models unet32 ...] [--torch_python PYTHON] [--rounds N]
    python benchmarks/speed.py --on gpu [--official DIR] ...

Each model of `benchmarks/speed_cases.py` runs in a process of its own, and so does each form of its peer
(`benchmarks/peers/torch_speed.py`): eager, channels_last and torch.compile. In every round each process in turn trains
for about a second, and then samples, while the others wait; so what else the machine does meets all of them alike.
Networks have equally many parameters, which is asserted, the same batch, and float32, or bfloat16 on a GPU. PyTorch is
that of `--torch_python`, by default of this interpreter; where there is none the table has jaxgen alone, and says so.
Some peers of GPUs are networks of official code, whose checkouts `--official` has by their names. The results go to
benchmarks/results/speed.json or speed_gpu.json, tables to docs/results.md, and a plot of the ratios to docs/images;
results of other versions of JAX and of other models stay there. `--models` without a name writes the page again.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
from typing import Any

import speed_tables
from results_page import ROOT, write_section
from speed_cases import CASES, GPU_CASES
from speed_protocol import Process
from speed_tables import GPU_MODES, MODES

BENCHMARKS = ROOT / "benchmarks"
SUITES = {"cpu": (CASES, MODES), "gpu": (GPU_CASES, GPU_MODES)}
"""For each kind of device, its models, and the forms of PyTorch that are timed."""
SECONDS = 1.0
NO_CACHES = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
"""The variable by which PyTorch compiles anew; jaxgen's process sets an option of JAX."""
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""The variable by which jaxgen's process leaves memory to the others."""
BUSY = 0.5
"""The load of a machine, in running processes, from which on a warning is printed."""


def main() -> None:
    """Times the models, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=list(SUITES), default="cpu", help="the kind of device")
    parser.add_argument("--models", nargs="*", help="all, if not given; none: the page alone")
    parser.add_argument("--torch_python", default=sys.executable, help="the interpreter of an environment with torch")
    parser.add_argument("--modes", nargs="*", choices=MODES, help="of PyTorch")
    parser.add_argument("--official", default="", help="a directory with checkouts of official code")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core CPU", help="named in the results, in general")
    arguments = parser.parse_args()
    name_of_results, (cases, modes) = speed_tables.NAMES[arguments.on], SUITES[arguments.on]
    models = list(cases) if arguments.models is None else arguments.models
    modes = modes if arguments.modes is None else tuple(arguments.modes)
    for name in set(models) - set(cases):
        parser.error(f"{name} is no model of {arguments.on}: choose from {', '.join(cases)}.")
    if not has_torch(arguments.torch_python):
        print("PyTorch is not installed here: jaxgen is timed alone. Give --torch_python=PYTHON of where it is.")
        modes = ()
    variables = NO_CACHES | {"OFFICIAL_CODE": arguments.official} | (SHARED_GPU if arguments.on == "gpu" else {})
    kept = BENCHMARKS / "results" / f"{name_of_results}.json"
    known = json.loads(kept.read_text()) if kept.exists() else {"rows": {}}
    asked = {"hardware": arguments.hardware, "rounds": arguments.rounds} if models else known
    contents = {"hardware": asked["hardware"], "rounds": asked["rounds"], "rows": known["rows"]}
    for name in models:
        load = os.getloadavg()[0]
        if load > BUSY and arguments.on == "cpu":
            print(
                f"{load:.1f} processes are running already: PyTorch suffers most from that, so the ratio says little."
            )
        commands = commands_of(cases[name], modes, arguments.torch_python, arguments.official)
        row = timed(cases[name], commands, variables, arguments.rounds)
        contents["rows"][f"{name}, jaxlib {row['versions']['jaxlib']}"] = row | {"model": name, "load": load}
        kept.write_text(json.dumps(contents, indent=2) + "\n")
    speed_tables.plot(contents["rows"], ROOT / "docs" / "images" / f"{name_of_results}.png")
    page = speed_tables.page(contents, arguments.on)
    write_section(speed_tables.TITLES[arguments.on], page)
    print(page)


def has_torch(python: str) -> bool:
    """Returns whether an interpreter has PyTorch."""
    return subprocess.run([python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0


def commands_of(case: dict[str, Any], modes: tuple[str, ...], torch_python: str, official: str) -> dict[str, list[str]]:
    """Returns the command of jaxgen's process and of each form of its peer."""
    text, peers = json.dumps(case), BENCHMARKS / "peers"
    commands = {"jaxgen": [sys.executable, str(BENCHMARKS / "speed_jaxgen.py"), text]}
    if "official" in case and modes:
        checkout = os.path.join(official, case["network"])
        return commands | {"official": [torch_python, str(peers / "official_gan.py"), text, checkout]}
    of_case = [mode for mode in modes if mode in case.get("modes", modes)]
    return commands | {mode: [torch_python, str(peers / "torch_speed.py"), text, mode] for mode in of_case}


def timed(
    case: dict[str, Any], commands: dict[str, list[str]], variables: dict[str, str], rounds: int
) -> dict[str, Any]:
    """Returns versions, parameters, operations, memory, and the images/s of all rounds by process and run.

    Raises:
      ValueError: if jaxgen and PyTorch have different numbers of parameters.
    """
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process(command, variables)) for name, command in commands.items()}
        facts = {name: process.facts for name, process in processes.items()}
        for name, fact in facts.items():
            if fact["parameters"] != facts["jaxgen"]["parameters"]:
                raise ValueError(f"jaxgen has {facts['jaxgen']['parameters']} parameters, {name} {fact['parameters']}.")
        measured = rates(processes, case, rounds)
        memory = {name: process.peak_memory for name, process in processes.items()}
    row = {
        "batch": case["batch"],
        "steps": case["steps"],
        "images_per_second": measured,
        "parameters": sum(facts["jaxgen"]["parameters"]),
        "peak_memory": memory,
        "program_memory": facts["jaxgen"]["program_memory"],
        "first_step": {name: fact["first_step"] for name, fact in facts.items()},
    }
    for key in ("flops", "versions", "compilation"):
        for fact in facts.values():
            row[key] = {**fact.get(key, {}), **row.get(key, {})}
    return row


def rates(processes: dict[str, Process], case: dict[str, Any], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns images/s, wall and by CPU seconds, of each run of each process; of `product`, operations/s."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in processes}
    amounts = {"train": case["batch"] * case["steps"]} | ({"sample": case["batch"]} if case["samples"] else {})
    counts: dict[tuple[str, str], int] = {}
    for number in range(-2, rounds):  # of two rounds before the first the times do not count: compilation, caches
        for name, process in processes.items():
            own = {"product": process.facts["product_flops"]} if name == "jaxgen" else {}
            for run, amount in (amounts | own).items():
                spent = process.run(run, counts.get((name, run), 1))
                counts[name, run] = math.ceil(SECONDS / spent["seconds"])
                if number >= 0:
                    found[name].setdefault(run, []).append(amount / spent["seconds"])
                    found[name].setdefault(f"{run}_cpu", []).append(amount / spent["cpu_seconds"])
    return found


if __name__ == "__main__":
    main()
