"""Trains models of Fashion-MNIST for some minutes of CPU time, and peers for as long, and evaluates all samples alike.

    python benchmarks/fashion.py [--models vae dcgan ...] [--diffusers_python PYTHON] [--artifex_python PYTHON]

The data are those of the Debian package dataset-fashion-mnist. Each model is trained by launch.py, as a user would
train it; its peer, by the interpreter of an environment in which that library is installed, gets the CPU time that our
process took, compilation included. 1,000 samples of each are evaluated by the library's own protocol. The results go
to benchmarks/results/fashion.json, pictures to docs/images, and a table to docs/results.md.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from results_page import ROOT, cpu_seconds, write_section

import jaxgen
from jaxgen.core import images as image_tools
from jaxgen.data import load, read_arrays

LAUNCH = [sys.executable, "launch.py"]
RESULTS = ROOT / "benchmarks" / "results" / "fashion.json"
PICTURES = ROOT / "docs" / "images"
NUM_SAMPLES = 1000

MODELS = ("vae", "dcgan", "wgan_gp", "cgan_pd", "r3gan", "ddpm", "edm")

# The peer of a model that has one: the library, the program below benchmarks/peers, and its model.
PEERS = {
    "ddpm": ("diffusers", "diffusers_unet.py", "unet"),
    "dcgan": ("artifex", "artifex_models.py", "dcgan"),
    "vae": ("artifex", "artifex_models.py", "vae"),
}

COLUMNS = {
    "hardware": ("hardware", "{}"),
    "parameters": ("parameters", "{:,}"),
    "images": ("images seen", "{:,}"),
    "cpu_minutes": ("training, CPU min", "{:.1f}"),
    "wall_minutes": ("wall, min", "{:.1f}"),
    "frechet_classifier": ("Fréchet, features", "{:.2f}"),
    "frechet_pixels": ("Fréchet, pixels", "{:.2f}"),
    "precision_classifier": ("precision", "{:.2f}"),
    "recall_classifier": ("recall", "{:.2f}"),
    "class_accuracy": ("classes agree", "{:.1%}"),
}

LEGEND = """Made by `python benchmarks/fashion.py`, one seed each. The data are the 60,000 training images of Debian's
package dataset-fashion-mnist; the peer of a model gets as much CPU time for its training as a run of ours took from its
start to its end, compilation included. {count:,} samples of each, evaluated against the training images: Fréchet
distance in the features of a classifier of the data and in pixels, precision and recall (k = 3) in those features, and
agreement of the classifier with the class that was asked for. The row `held-out` says what as many held-out images
score.
"""


def main() -> None:
    """Trains every model and its peer, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_of_models = "all, if not given; none: the table alone"
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS), help=help_of_models)
    parser.add_argument("--diffusers_python", help="of an environment with diffusers and torch; none: no such row")
    parser.add_argument("--artifex_python", help="of an environment with avitai-artifex; none: no such rows")
    parser.add_argument("--peers_only", action="store_true", help="train the peers alone, beside the rows there are")
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    arguments = parser.parse_args()
    pythons = {"diffusers": arguments.diffusers_python, "artifex": arguments.artifex_python}
    work = ROOT / "runs" / "benchmark"
    work.mkdir(parents=True, exist_ok=True)
    data = export_data(work / "fashion.npz")
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for model in arguments.models:
        if not arguments.peers_only:
            rows[f"jaxgen {model}"] = train_ours(model, work) | {"hardware": arguments.hardware}
        ours = rows[f"jaxgen {model}"]
        library, program, name = PEERS.get(model, ("", "", ""))
        if not library:
            print(f"{model} has no peer.")
        elif pythons[library] is None:
            print(f"{library} has no row: give --{library}_python=PYTHON of an environment that has it.")
        else:
            command = [pythons[library], str(ROOT / "benchmarks" / "peers" / program), name, f"--data={data}"]
            row = train_peer(f"{library}_{model}", command, ours["cpu_minutes"], work)
            rows[f"{library} {model}"] = row | {"hardware": arguments.hardware}
        RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    text = table(rows)
    write_section("Fashion-MNIST", text)
    print(text)


def export_data(path: Path) -> Path:
    """Writes the training images for the peers."""
    arrays = read_arrays(load("fashion", "train"))
    np.savez(path, images=arrays["image"], labels=arrays["label"])
    return path


def train_ours(model: str, work: Path) -> dict[str, Any]:
    """Trains one of our configs, draws samples, and evaluates them."""
    directory, samples = work / f"fashion-{model}", work / f"fashion_{model}.npz"
    shutil.rmtree(directory, ignore_errors=True)
    samples.unlink(missing_ok=True)
    config = [f"--config=configs/{model}.py:fashion", "--config.evaluate.num_samples=0"]
    cpu, wall, printed = timed([*LAUNCH, "train", f"--workdir={directory}", *config])
    timed([*LAUNCH, "sample", f"--workdir={directory}", f"--num_samples={NUM_SAMPLES}", f"--output={samples}"])
    settings = json.loads((directory / "config.json").read_text())
    settings = settings.get("content", settings)
    seen = settings["train"]["num_steps"] * settings["data"]["batch_size"]
    done = {"images": seen, "parameters": num_parameters(printed), "cpu_minutes": cpu / 60, "wall_minutes": wall / 60}
    return done | evaluated(samples, model)


def num_parameters(printed: str) -> int:
    """Returns the number that training has printed, of all players."""
    found = re.search(r"^([\d,]+) parameters", printed, re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", ""))


def train_peer(name: str, command: list[str], cpu_minutes: float, work: Path) -> dict[str, Any]:
    """Trains a peer for as long, and evaluates its samples."""
    samples = work / f"fashion_{name}.npz"
    begin = time.monotonic()
    _, _, printed = timed([*command, f"--cpu_seconds={60 * cpu_minutes:.0f}", f"--output={samples}"])
    done = json.loads(printed.strip().splitlines()[-1])
    wall = (time.monotonic() - begin) / 60  # of the drawing of samples, too
    done["images"] = done.pop("steps") * done.pop("batch_size")
    return {**done, "cpu_minutes": cpu_minutes, "wall_minutes": wall} | evaluated(samples, name)


def timed(command: list[str]) -> tuple[float, float, str]:
    """Runs a command; returns the CPU seconds and the wall seconds of it, and its standard output."""
    before, begin = cpu_seconds(), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return cpu_seconds() - before, time.monotonic() - begin, done.stdout


def evaluated(samples: Path, name: str) -> dict[str, Any]:
    """Returns the figures of a file of samples; of our own, draws a picture of the first hundred."""
    with np.load(samples) as file:
        images, labels = file["images"], file.get("labels")
    if name in MODELS:
        image_tools.save_png(str(PICTURES / f"fashion_{name}.png"), image_tools.grid(images[:100], columns=10))
    figures = jaxgen.evaluate_images(jaxgen.config("ddpm:fashion"), images, labels)
    known = {column: figures[column]["value"] for column in COLUMNS if column in figures}
    ideal = {column: figures[column]["held_out"]["value"] for column in known}
    return known | {"held_out": ideal}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the legend and a Markdown table with one row a model, and one of held-out images."""
    ideal: dict[str, Any] = {}
    for row in rows.values():
        ideal |= row["held_out"]
    lines = [
        LEGEND.format(count=NUM_SAMPLES),
        "| model | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, row in {**rows, "held-out": ideal}.items():
        cells = [form.format(row[column]) if column in row else "" for column, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    shown = [name.removeprefix("jaxgen ") for name in rows if name.startswith("jaxgen ")]
    lines += ["", *(f"![The first hundred samples of {name}:fashion](images/fashion_{name}.png)" for name in shown)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
