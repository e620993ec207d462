"""Trains each digits config from scratch with several seeds, draws 1,000 images, and evaluates them: `make benchmark`.

    python benchmarks/digits.py [--configs ddpm edm ...] [--seeds 0 1 2] [--hardware "2-core CPU"]

Everything runs through launch.py, as a user would run it. The results go to benchmarks/results/digits.json, where those
of other configs are kept, and as a table to docs/results.md.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results_page import ROOT, cell, cpu_seconds, write_section

RESULTS = ROOT / "benchmarks" / "results"
LAUNCH = [sys.executable, "launch.py"]
HEAD = """\
Made by `python benchmarks/digits.py` (`make benchmark`) and evaluated by `benchmarks/evaluate_digits.py`, which
uses none of this library: 1,000 samples each, against scikit-learn's 1,797 digits. Evaluations are of the network, for
one image; of the energy's gradient for ebm, and of the transformer for mar, whose denoiser takes 100 steps after each.
The rows of ddpm, edm, consistency, meanflow, vae, progan and post_training are from before samples were rounded to the
17 levels of the digits: theirs have 256.

"""

# Ways to sample from each config's model: evaluations of its network for one image, and the settings; the first are its
# own. Guidance takes two evaluations at every step.
SAMPLERS: dict[str, list[tuple[int, list[str]]]] = {
    "ddpm": [(50, [])],
    "edm": [(19, []), (9, ["--config.sampler.num_steps=5"])],
    "flow": [(19, [])],
    "consistency": [(4, []), (2, ["--config.sampler.sigmas=(1.0,)"]), (1, ["--config.sampler.sigmas=()"])],
    "meanflow": [(4, []), (2, ["--config.sampler.num_steps=2"]), (1, ["--config.sampler.num_steps=1"])],
    "vae": [(1, [])],
    "dcgan": [(1, [])],
    "wgan_gp": [(1, [])],
    "sngan": [(1, [])],
    "cgan_pd": [(1, [])],
    "stylegan2": [(1, [])],
    "r3gan": [(1, [])],
    "progan": [(1, [])],
    "post_training": [(1, [])],
    "ebm": [(301, [])],
    "mar": [(4, [])],
}

COLUMNS = {
    "evaluations": ("evaluations", "{:.0f}"),
    "train_seconds": ("training, s", "{:.0f}"),
    "train_cpu_seconds": ("training, CPU s", "{:.0f}"),
    "sample_seconds": ("1,000 samples, s", "{:.1f}"),
    "frechet": ("Fréchet", "{:.3f}"),
    "class_agreement": ("classes agree", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "precision": ("precision", "{:.3f}"),
    "distance_ratio": ("distance ratio", "{:.3f}"),
    "classes_seen": ("classes seen", "{:.0f}"),
}


def main() -> None:
    """Runs every config with every seed and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_of_configs = "all, if not given; none: the table alone"
    parser.add_argument("--configs", nargs="*", default=list(SAMPLERS), choices=list(SAMPLERS), help=help_of_configs)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "digits.json"
    results = json.loads(kept.read_text()) if kept.exists() else {"runs": {}}
    for config in arguments.configs:
        rows = [measure(config, seed) for seed in arguments.seeds]
        for i, runs in enumerate(zip(*rows, strict=True)):
            results["runs"][f"{config}-{i}"] = [run | {"hardware": arguments.hardware} for run in runs]
        kept.write_text(json.dumps(results, indent=2) + "\n")
    ordered = [f"{config}-{i}" for config, ways in SAMPLERS.items() for i in range(len(ways))]
    text = table({name: results["runs"][name] for name in ordered if name in results["runs"]})
    write_section("Digits", HEAD + text)
    print(text)


def measure(config: str, seed: int) -> list[dict[str, float]]:
    """Trains one config with one seed; samples in each of its ways, and evaluates them."""
    workdir = ROOT / "runs" / "benchmark" / f"{config}-{seed}"
    shutil.rmtree(workdir, ignore_errors=True)
    train = [f"--config=configs/{config}.py", f"--config.seed={seed}", "--config.evaluate.num_samples=0"]
    before = cpu_seconds()
    train_seconds = timed([*LAUNCH, "train", f"--workdir={workdir}", *train])
    common = {"seed": seed, "train_seconds": train_seconds, "train_cpu_seconds": cpu_seconds() - before}
    return [common | draw(workdir, seed, *way) for way in SAMPLERS[config]]


def draw(workdir: Path, seed: int, evaluations: int, settings: list[str]) -> dict[str, float]:
    """Draws 1,000 images from a run, and evaluates them."""
    samples = workdir / f"evaluated-{evaluations}.npz"
    command = [*LAUNCH, "sample", f"--workdir={workdir}", "--num_samples=1000", f"--seed={seed}", f"--output={samples}"]
    timed([*command, *settings])  # fills the compilation cache
    sample_seconds = timed([*command, *settings])
    evaluate = [sys.executable, "benchmarks/evaluate_digits.py", str(samples), "--json"]
    printed = json.loads(subprocess.run(evaluate, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return {"evaluations": evaluations, "sample_seconds": sample_seconds} | row_of(printed, samples)


def row_of(printed: dict, samples: Path) -> dict[str, float]:
    """Returns the figures for a file of samples, without those that do not apply."""
    row = printed["figures"][str(samples)]
    return {name: row[name] for name in COLUMNS if name in row and row[name] is not None}


def timed(command: list[str]) -> float:
    """Runs a command and returns its seconds, start-up and compilation included."""
    begin = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - begin


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table of means, with the lowest and the highest of the seeds in brackets."""
    lines = [
        "Mean of the seeds, lowest to highest in brackets; times of whole processes, start-up included. Runs on a GPU",
        "were several at a time, and have no times. Where there are three seeds and one time, the first seed had both",
        "cores, and the others, which took less CPU time, one core each.",
        "",
        "| config | seeds | hardware | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for config, runs in rows.items():
        cells = [cell([run[name] for run in runs if name in run], form) for name, (_, form) in COLUMNS.items()]
        told = f"{config.rpartition('-')[0]} | {len(runs)} | {runs[-1].get('hardware', '2-core CPU')}"
        lines.append(f"| {told} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
