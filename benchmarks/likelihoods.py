"""Trains a config of each family that has likelihoods, and puts their held-out bits per dimension beside compressors'.

    python benchmarks/likelihoods.py [--data digits] [--configs glow vae:digits_likelihood ...] [--seeds 0 1 2]

Everything runs through launch.py, as a user would run it. The results go to benchmarks/results/likelihoods_DATA.json,
where those of other configs are kept, and as a table to docs/results.md.
"""

import argparse
import concurrent.futures
import io
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from PIL import Image
from results_page import ROOT, cell, cpu_seconds, write_section

from jaxgen.data import load, read_arrays

RESULTS = ROOT / "benchmarks" / "results"
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
VARIANTS = {"digits": {"vae": "vae:digits_likelihood"}, "fashion": {}}
"""The configs of likelihoods, where the variant is not named after the data."""

COLUMNS = {
    "bits_per_dim": ("bits/dim", "{:.3f}"),
    "train_seconds": ("training, s", "{:.0f}"),
    "train_cpu_seconds": ("training, CPU s", "{:.0f}"),
    "frechet_pixels": ("Fréchet, pixels", "{:.3f}"),
    "class_accuracy": ("classes agree", "{:.3f}"),
}


def main() -> None:
    """Runs every config with every seed, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=list(VARIANTS))
    parser.add_argument("--configs", nargs="*", help="all of the data, if not given; none: the table alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, for a GPU that has room for several")
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    arguments = parser.parse_args()
    own = VARIANTS[arguments.data]
    configs = arguments.configs
    if configs is None:
        configs = [own.get(name, f"{name}:{arguments.data}") for name in NAMES]
    kept = RESULTS / f"likelihoods_{arguments.data}.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"runs": {}}
    jobs = [(config, seed) for seed in arguments.seeds for config in configs]
    alone = arguments.workers == 1
    with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
        waiting = {pool.submit(measure, *job, alone=alone): job for job in jobs}
        for done in concurrent.futures.as_completed(waiting):
            config, seed = waiting[done]
            if done.exception():
                print(f"{config} with seed {seed} has no row: {done.exception()}", flush=True)
                continue
            row = done.result() | {"hardware": arguments.hardware}
            print(config, seed, row, flush=True)
            results["runs"].setdefault(config, {})[str(seed)] = row
            kept.write_text(json.dumps(results, indent=2) + "\n")
    text = table(results["runs"], compressed(arguments.data), arguments.data)
    write_section(f"Likelihoods of {arguments.data}", text)
    print(text)


def measure(config: str, seed: int, *, alone: bool) -> dict[str, float]:
    """Trains one config with one seed, and evaluates it; CPU seconds are told apart only where it runs alone."""
    workdir = ROOT / "runs" / "benchmark" / f"likelihood-{config.replace(':', '-')}-{seed}"
    shutil.rmtree(workdir, ignore_errors=True)
    launch = [sys.executable, "launch.py"]
    settings = ["--config.evaluate.num_samples=0", "--config.train.sample_every_steps=1_000_000"]
    begin, before = time.monotonic(), cpu_seconds()
    run([*launch, "train", f"--config={config}", f"--workdir={workdir}", f"--config.seed={seed}", *settings])
    row = {"train_seconds": time.monotonic() - begin}
    if alone:
        row["train_cpu_seconds"] = cpu_seconds() - before
    run([*launch, "evaluate", f"--workdir={workdir}", "--config.evaluate.num_samples=1000"])
    (evaluation,) = (workdir / "evaluations").glob("*.json")
    figures = json.loads(evaluation.read_text())
    figures = figures.get("figures", figures)
    return row | {name: figures[name]["value"] for name in COLUMNS if name in figures}


def run(command: list[str]) -> None:
    """Runs a command, whose words are shown if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-500:])


def compressed(data: str) -> dict[str, float]:
    """Returns bits per dimension of the held-out images by histograms of the training images, and by image formats."""
    images = {split: read_arrays(load(data, split))["image"] for split in ("train", "test")}
    values = np.unique(images["train"])
    train, test = (np.searchsorted(values, images[split]).reshape(len(images[split]), -1) for split in images)
    counts = np.ones((train.shape[1], len(values)))  # one of each level is added, so that none is impossible
    np.add.at(counts, (np.arange(train.shape[1]), train), 1)
    by_pixel = counts / counts.sum(1, keepdims=True)
    at_all = counts.sum(0) / counts.sum()
    rows = {
        "one histogram": -np.mean(np.log2(at_all[test])),
        "a histogram a pixel": -np.mean(np.log2(by_pixel[np.arange(test.shape[1]), test])),
    }
    for name, options in {"PNG": {"optimize": True}, "WebP, lossless": {"lossless": True, "quality": 100}}.items():
        size = size_of(images["test"].reshape(-1, *images["test"].shape[2:]), name.partition(",")[0], options)
        rows[f"{name}, all images below each other"] = 8 * size / images["test"].size
    return rows


def size_of(image: np.ndarray, form: str, options: dict[str, Any]) -> int:
    """Returns the bytes of the file of an image."""
    file = io.BytesIO()
    picture = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(picture).save(file, form, **options)
    return len(file.getvalue())


def table(runs: dict[str, dict[str, dict[str, Any]]], others: dict[str, float], data: str) -> str:
    """Returns a Markdown table of means, with the lowest and the highest of the seeds in brackets."""
    dimensions = {"digits": 64, "fashion": 784}[data]
    lines = [
        f"Made by `python benchmarks/likelihoods.py --data {data}`: bits per dimension of the held-out images, by",
        "`log_prob` of the config's own protocol (exact; or a lower bound on the likelihood, whose bits are an upper",
        "bound), and figures of 1,000 samples against the training images. Means over seeds, lowest to highest in",
        "brackets. Models with a figure of classes are told the class, and score images given it: a class is worth at",
        f"most log2(10) / {dimensions} = {math.log2(10) / dimensions:.3f} bits/dim. Times are of whole processes,",
        "start-up included; where several ran at a time, they are long.",
        "",
        "| model | seeds | hardware | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    lines += [f"| {name} | | | {value:.3f} |" + " |" * (len(COLUMNS) - 1) for name, value in others.items()]
    for config, seeds in sorted(runs.items(), key=lambda item: mean_bits(item[1])):
        rows = list(seeds.values())
        cells = [cell([row[name] for row in rows if name in row], form) for name, (_, form) in COLUMNS.items()]
        lines.append(f"| {config} | {len(rows)} | {rows[-1]['hardware']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_bits(seeds: dict[str, dict[str, Any]]) -> float:
    """Returns the mean over seeds of bits per dimension."""
    return statistics.fmean(row["bits_per_dim"] for row in seeds.values())


if __name__ == "__main__":
    main()
