"""Times training and sampling of jaxgen's models, and of the same networks in PyTorch, in turns on one machine.

    python benchmarks/speed.py [--models unet32 ...] [--torch_python PYTHON] [--rounds N]

Each model of `benchmarks/speed_cases.py` runs in a process of its own, and so does each form of its peer
(`benchmarks/peers/torch_speed.py`): eager, channels_last and torch.compile. In every round each process in turn trains
for about a second, and then samples, while the others wait; so what else the machine does meets all of them alike.
Networks have equally many parameters, which is asserted, the same batch and float32. PyTorch is that of
`--torch_python`, by default of this interpreter; where there is none the table has jaxgen alone, and says so. The
results go to benchmarks/results/speed.json, tables to docs/results.md, and a plot of the ratios to docs/images; results
of other versions of JAX and of other models stay there. `--models` without a name writes the page again.
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
from speed_cases import CASES
from speed_protocol import Process
from speed_tables import MODES

RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
BENCHMARKS = ROOT / "benchmarks"
SECONDS = 1.0
NO_CACHES = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
"""The variable by which PyTorch compiles anew; jaxgen's process sets an option of JAX."""
BUSY = 0.5
"""The load of a machine, in running processes, from which on a warning is printed."""


def main() -> None:
    """Times the models, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--torch_python", default=sys.executable, help="the interpreter of an environment with torch")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES, help="of PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core CPU", help="named in the results, in general")
    arguments = parser.parse_args()
    if not has_torch(arguments.torch_python):
        print("PyTorch is not installed here: jaxgen is timed alone. Give --torch_python=PYTHON of where it is.")
        arguments.modes = []
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    asked = {"hardware": arguments.hardware, "rounds": arguments.rounds} if arguments.models else known
    contents = {"hardware": asked["hardware"], "rounds": asked["rounds"], "rows": known["rows"]}
    for name in arguments.models:
        load = os.getloadavg()[0]
        if load > BUSY:
            print(
                f"{load:.1f} processes are running already: PyTorch suffers most from that, so the ratio says little."
            )
        row = timed(CASES[name], arguments.modes, arguments.torch_python, arguments.rounds)
        contents["rows"][f"{name}, jaxlib {row['versions']['jaxlib']}"] = row | {"model": name, "load": load}
        RESULTS.write_text(json.dumps(contents, indent=2) + "\n")
    speed_tables.plot(contents["rows"])
    write_section("Speed", speed_tables.page(contents))
    print(speed_tables.page(contents))


def has_torch(python: str) -> bool:
    """Returns whether an interpreter has PyTorch."""
    return subprocess.run([python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0


def timed(case: dict[str, Any], modes: list[str], torch_python: str, rounds: int) -> dict[str, Any]:
    """Returns versions, parameters, operations, memory, and the images/s of all rounds by process and run.

    Raises:
      ValueError: if jaxgen and PyTorch have different numbers of parameters.
    """
    text = json.dumps(case)
    commands = {"jaxgen": [sys.executable, str(BENCHMARKS / "speed_jaxgen.py"), text]}
    for mode in modes:
        commands[mode] = [torch_python, str(BENCHMARKS / "peers" / "torch_speed.py"), text, mode]
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process(command, NO_CACHES)) for name, command in commands.items()}
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
