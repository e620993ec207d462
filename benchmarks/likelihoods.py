"""Trains a config of each family that has likelihoods, and puts their held-out bits per dimension beside compressors'.

    python benchmarks/likelihoods.py [--data digits] [--configs glow vae:digits_likelihood ...] [--seeds 0 1 2]
    python benchmarks/likelihoods.py [--data digits] [--configs ...] --cpu_steps 20
    python benchmarks/likelihoods.py [--data digits] --formats

Everything is trained and evaluated by launch.py, as a user would do it. The results go to
benchmarks/results/likelihoods_DATA.json, where those of other configs are kept, and as a table to docs/results.md. With
`--cpu_steps` the CPU time of the configs' training is extrapolated from a few steps on the machine at hand, and nothing
is trained to its end; with `--formats` the held-out images are compressed.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from image_formats import formats, sheet_bits
from results_page import ROOT, cell, wrapped, write_section

import jaxgen
from jaxgen.core import grids
from jaxgen.core import images as image_tools
from jaxgen.data import load, read_arrays
from jaxgen.runs.config_files import Config

RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "images"
NAMES = (
    "vae",
    "vdvae",
    "realnvp",
    "glow",
    "spline_flow",
    "tarflow",
    "jet",
    "pixelcnn",
    "gated_pixelcnn",
    "pixelcnnpp",
    "wavenet",
    "pixel_transformer",
    "maskgit",
)
VARIANTS = {"digits": {"vae": "vae:digits_likelihood"}, "fashion": {"vae": "vae:fashion_likelihood"}}
"""The configs of likelihoods, where the variant is not named after the data."""

COLUMNS = {
    "bits_per_dim": ("bits/dim", "{:.3f}"),
    "train_seconds": ("training, s", "{:.0f}"),
    "frechet_pixels": ("Fréchet, pixels", "{:.3f}"),
    "class_accuracy": ("classes agree", "{:.3f}"),
}
CPU_MEANS = 3  # of a step's CPU time
SHOWN = (2, 20)  # rows and columns of samples in a picture


def main() -> None:
    """Runs every config with every seed, or measures the CPU time of each or the formats; writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=list(VARIANTS))
    parser.add_argument("--configs", nargs="*", help="all of the data, if not given; none: the table alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, for a GPU that has room for several")
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    parser.add_argument("--pictures", action="store_true", help="draw samples of the first seed into docs/images")
    parser.add_argument("--cpu_steps", type=int, help="steps by which CPU time is measured, in the place of training")
    parser.add_argument("--formats", action="store_true", help="compress the held-out images, and train nothing")
    arguments = parser.parse_args()
    own = VARIANTS[arguments.data]
    names = NAMES if arguments.configs is None else arguments.configs
    configs = [name if ":" in name else own.get(name, f"{name}:{arguments.data}") for name in names]
    kept = RESULTS / f"likelihoods_{arguments.data}.json"

    def read() -> dict[str, Any]:
        return json.loads(kept.read_text()) if kept.exists() else {"runs": {}}

    def keep(kind: str, name: str, found: Any) -> None:
        print(name, found, flush=True)
        results = read()
        results.setdefault(kind, {})[name] = found
        kept.write_text(json.dumps(results, indent=2) + "\n")

    if arguments.formats:
        for name, bits in compressed(arguments.data):
            keep("formats", name, bits)
    elif arguments.cpu_steps:
        for config in configs:
            keep("cpu", config, cpu_time(config, arguments.cpu_steps) | {"hardware": arguments.hardware})
    else:
        for config, seed, row in trained(configs, arguments):
            seeds = read()["runs"].get(config, {})
            keep("runs", config, seeds | {str(seed): row | {"hardware": arguments.hardware}})
    text = table(read(), arguments.data)
    write_section(f"Likelihoods of {arguments.data}", text)
    print(text)


def trained(configs: list[str], arguments: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yields each config and seed with its figures, as runs end."""
    jobs = [(config, seed) for seed in arguments.seeds for config in configs]
    with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
        waiting = {pool.submit(measure, config, seed): (config, seed) for config, seed in jobs}
        for done in concurrent.futures.as_completed(waiting):
            config, seed = waiting[done]
            if done.exception():
                print(f"{config} with seed {seed} has no row: {done.exception()}", flush=True)
                continue
            if arguments.pictures and seed == arguments.seeds[0]:
                picture(config, directory_of(config, seed) / "samples.npz")
            yield config, seed, done.result()


def measure(config: str, seed: int) -> dict[str, float]:
    """Trains one config with one seed, evaluates it, and draws some samples."""
    workdir = directory_of(config, seed)
    shutil.rmtree(workdir, ignore_errors=True)
    launch = [sys.executable, "launch.py"]
    settings = ["--config.evaluate.num_samples=0", "--config.train.sample_every_steps=1_000_000"]
    begin = time.monotonic()
    cpu = run([*launch, "train", f"--config={config}", f"--workdir={workdir}", f"--config.seed={seed}", *settings])
    row = {"train_seconds": time.monotonic() - begin, "cpu_minutes": cpu / 60}
    run([*launch, "evaluate", f"--workdir={workdir}", "--config.evaluate.num_samples=1000"])
    count = math.prod(SHOWN)
    run([*launch, "sample", f"--workdir={workdir}", f"--num_samples={count}", f"--output={workdir}/samples.npz"])
    (evaluation,) = (workdir / "evaluations").glob("*.json")
    figures = json.loads(evaluation.read_text())
    figures = figures.get("figures", figures)
    return row | {name: figures[name]["value"] for name in COLUMNS if name in figures}


def directory_of(config: str, seed: int) -> Path:
    """Returns the work directory of a run."""
    return ROOT / "runs" / "benchmark" / f"likelihood-{config.replace(':', '-')}-{seed}"


def run(command: list[str]) -> float:
    """Runs a command, whose words are shown if it fails; returns its CPU seconds."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)  # of this process alone, where several run at a time
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(printed[-500:])
    return used.ru_utime + used.ru_stime


def picture(config: str, samples: Path) -> None:
    """Draws the samples of a file."""
    with np.load(samples) as file:
        drawn = grids.picture(file["images"], columns=SHOWN[1])
    image_tools.save_png(str(picture_of(config)), drawn)


def picture_of(config: str) -> Path:
    """Returns the file of a config's samples."""
    return PICTURES / f"likelihood_{config.replace(':', '_')}.png"


def cpu_time(name: str, steps: int) -> dict[str, float]:
    """Returns CPU seconds of the start of a config's training, compilation included, and of a step.

    A step is the mean of `steps` of them after as many, and the least of three such means, since other processes make
    each longer. Samples, checkpoints and evaluation are left out.
    """
    config: Config = jaxgen.config(name)
    dispatch = config.train.steps_per_dispatch
    steps = dispatch * math.ceil(steps / dispatch)
    never = 1_000_000
    settings = {"log_every_steps": steps, "sample_every_steps": never, "checkpoint_every_steps": never}
    config = jaxgen.config(name, **{f"train.{key}": value for key, value in settings.items()})
    marks: list[float] = [time.process_time()]

    def say(line: str) -> None:
        if re.match(r"step \d+/", line):
            marks.append(time.process_time())
            if len(marks) == 2 + CPU_MEANS:
                raise _EnoughError

    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_EnoughError):
        jaxgen.train(config, Path(folder) / "run", say=say)
    step = min(after - before for before, after in itertools.pairwise(marks[1:])) / steps
    start = marks[1] - marks[0] - steps * step
    return {"start": start, "step": step, "measured_steps": steps}


class _EnoughError(Exception):
    """Ends a run of which enough is known."""


def compressed(data: str) -> Iterator[tuple[str, float]]:
    """Yields bits per dimension of the held-out images by histograms of the training images, and by image formats."""
    images = {split: read_arrays(load(data, split))["image"] for split in ("train", "test")}
    values = np.unique(images["train"])
    train, test = (np.searchsorted(values, images[split]).reshape(len(images[split]), -1) for split in images)
    counts = np.ones((train.shape[1], len(values)))  # one of each level is added, so that none is impossible
    np.add.at(counts, (np.arange(train.shape[1]), train), 1)
    by_pixel = counts / counts.sum(1, keepdims=True)
    at_all = counts.sum(0) / counts.sum()
    yield "one histogram", float(-np.mean(np.log2(at_all[test])))
    yield "a histogram a pixel", float(-np.mean(np.log2(by_pixel[np.arange(test.shape[1]), test])))
    for name, write in formats().items():
        yield name, sheet_bits(images["test"], write)


def table(results: dict[str, Any], data: str) -> str:
    """Returns the section of the page: its legend, a table, and pictures of samples where there are any."""
    dimensions, cpu = {"digits": 64, "fashion": 784}[data], results.get("cpu", {})
    machines = " or ".join(sorted({row["hardware"] for row in cpu.values()}))
    legend = f"""Made by `python benchmarks/likelihoods.py --data {data}`: bits per dimension of the held-out images, by
        `log_prob` of the config's own protocol (exact; or a lower bound on the likelihood, whose bits are an upper
        bound), and figures of 1,000 samples against the training images. Means over seeds, lowest to highest in
        brackets. Models with a figure of classes are told the class, and score images given it: a class is worth at
        most log2(10) / {dimensions} = {math.log2(10) / dimensions:.3f} bits/dim. Image formats hold all held-out images
        in one file. Seconds of training are of whole processes on the hardware of the row, start-up included; where
        several ran at a time, they are long."""
    extrapolated = f"""`CPU min` with an asterisk is not of these runs: it is what training takes on a {machines},
        extrapolated (`--cpu_steps`) from its start, compilation included, and a few steps after it (the least of three
        means), to the config's number of steps."""
    columns = [*(title for title, _ in COLUMNS.values()), "CPU min"]
    body, runs = [], sorted(results["runs"].items(), key=lambda item: mean_bits(item[1]))
    for name, bits in results.get("formats", {}).items():
        body.append(f"| {name} | | | {bits:.3f} |" + " |" * (len(columns) - 1))
    for config, seeds in runs:
        rows = list(seeds.values())
        cells = [cell([row[name] for row in rows if name in row], form) for name, (_, form) in COLUMNS.items()]
        cells.append(cpu_minutes(config, rows, cpu.get(config)))
        body.append(f"| {config} | {len(rows)} | {rows[-1]['hardware']} | " + " | ".join(cells) + " |")
    lines = [
        wrapped(legend),
        *(["", wrapped(extrapolated)] if "*" in "".join(body) else []),
        "",
        "| model | seeds | hardware | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 3) + "|",
        *body,
    ]
    pictures = [config for config, _ in runs if picture_of(config).exists()]
    lines += [""] * bool(pictures)
    lines += [f"![Samples of {config}](images/{picture_of(config).name})" for config in pictures]
    return "\n".join(lines) + "\n"


def cpu_minutes(config: str, rows: list[dict[str, Any]], measured: dict[str, Any] | None) -> str:
    """Returns the CPU minutes of a config's training: of its runs on a CPU, or by what `cpu_time` has found."""
    own = [row["cpu_minutes"] for row in rows if "CPU" in row["hardware"] and "cpu_minutes" in row]
    if own or measured is None:
        return cell(own, "{:.1f}")
    return f"{(measured['start'] + jaxgen.config(config).train.num_steps * measured['step']) / 60:.1f}*"


def mean_bits(seeds: dict[str, dict[str, Any]]) -> float:
    """Returns the mean over seeds of bits per dimension."""
    return statistics.fmean(row["bits_per_dim"] for row in seeds.values())


if __name__ == "__main__":
    main()
