"""Trains each digits config from scratch with several seeds, draws 1,000 images, and judges them: `make benchmark`.

    python benchmarks/digits.py [--configs ddpm vae dcgan] [--seeds 0 1 2] [--hardware "2-core CPU"]

Everything runs through launch.py, as a user would run it. The results go to benchmarks/results/digits.json and .md.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = {
    "train_seconds": ("training, s", "{:.0f}"),
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
    parser.add_argument("--configs", nargs="+", default=["ddpm", "vae", "dcgan"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    arguments = parser.parse_args()
    rows = {config: [measure(config, seed) for seed in arguments.seeds] for config in arguments.configs}
    RESULTS.mkdir(exist_ok=True)
    results = {"hardware": arguments.hardware, "seeds": arguments.seeds, "runs": rows}
    (RESULTS / "digits.json").write_text(json.dumps(results, indent=2) + "\n")
    text = table(rows, arguments.hardware)
    (RESULTS / "digits.md").write_text(text)
    print(text)


def measure(config: str, seed: int) -> dict[str, float]:
    """Trains, samples and judges one config with one seed."""
    workdir = ROOT / "runs" / "benchmark" / f"{config}-{seed}"
    shutil.rmtree(workdir, ignore_errors=True)
    samples = workdir / "judged.npz"
    launch = [sys.executable, "launch.py"]
    train = [f"--config=configs/{config}.py", f"--config.seed={seed}", "--config.evaluate.num_samples=0"]
    train_seconds = timed([*launch, "train", f"--workdir={workdir}", *train])
    sample = [*launch, "sample", f"--workdir={workdir}", "--num_samples=1000", f"--seed={seed}", f"--output={samples}"]
    timed(sample)  # fills the compilation cache
    sample_seconds = timed(sample)
    judge = [sys.executable, "benchmarks/judge_digits.py", str(samples), "--json"]
    judged = json.loads(subprocess.run(judge, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return {"seed": seed, "train_seconds": train_seconds, "sample_seconds": sample_seconds} | row_of(judged, samples)


def row_of(judged: dict, samples: Path) -> dict[str, float]:
    """The judge's figures for a file of samples, those that do not apply left out."""
    row = judged["figures"][str(samples)]
    return {name: row[name] for name in COLUMNS if row.get(name) is not None}


def timed(command: list[str]) -> float:
    """Runs a command and returns its seconds, start-up and compilation included."""
    begin = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - begin


def table(rows: dict[str, list[dict[str, float]]], hardware: str) -> str:
    """A Markdown table of medians, with the lowest and the highest of the seeds in brackets."""
    lines = [
        f"Median of the seeds, lowest to highest in brackets. {hardware}; times of whole processes, start-up included.",
        "",
        "| config | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for config, runs in rows.items():
        cells = [cell([run[name] for run in runs if name in run], form) for name, (_, form) in COLUMNS.items()]
        lines.append(f"| {config} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(values: list[float], form: str) -> str:
    """One figure over the seeds."""
    if not values:
        return ""
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(statistics.median(values))} ({low} to {high})"


if __name__ == "__main__":
    main()
