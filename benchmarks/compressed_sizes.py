"""Compresses the held-out images with trained models and with image formats, by launch.py as a user would.

    python benchmarks/compressed_sizes.py WORKDIR [WORKDIR ...]

The work directories are those of runs on gray digits, of models that predict one pixel after the other or have latents,
such as `pixel_transformer:digits` and `vae:digits_likelihood`. Every image is decompressed and compared. The results go
to benchmarks/results/compression.json, where those of other runs are kept, and as a table to docs/results.md.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from image_formats import formats, sheet_bits, single_bits
from results_page import ROOT, cpu_seconds, wrapped, write_section

import jaxgen
from jaxgen.data import read_arrays
from jaxgen.runs import compressing
from jaxgen.runs.opened import Run

RESULTS = ROOT / "benchmarks" / "results" / "compression.json"
SINGLE = 20  # images that are compressed one by one


def main() -> None:
    """Measures the runs that are named and the formats, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="work directories; none: the formats and the table alone")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"formats": {}, "runs": {}}
    directories = parser.parse_args().runs
    for directory in directories:
        run = jaxgen.open(directory)
        results["runs"][directory.name] = measure(run)
        print(directory.name, results["runs"][directory.name], flush=True)
    if directories:
        held_out = read_arrays(jaxgen.open(directories[0]).data("test"))["image"]
        pixel = np.zeros((1, 1), np.uint8)
        results["formats"] = {
            name: {
                "bits_per_dim": sheet_bits(held_out, write),
                "single_bits_per_dim": single_bits(held_out, write),
                "overhead_bytes": len(write(pixel)),
            }
            for name, write in formats().items()
        }
        results["images"], results["dimensions"] = len(held_out), held_out[0].size
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    write_section("Compression of digits", text)
    print(text)


def measure(run: Run) -> dict[str, Any]:
    """Compresses the held-out images of a run by the command, decompresses and compares them."""
    held_out = read_arrays(run.data("test"))
    images, labels = held_out["image"], held_out.get("label") if run.spec.num_classes else None
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder) / "held-out.jxg", Path(folder) / "held-out.npz"
        said, encoding = launch("compress", f"--workdir={run.directory}", f"--output={file}")
        _, decoding = launch("decompress", f"--workdir={run.directory}", f"--input={file}", f"--output={output}")
        compressed = compressing.read(file)
        with np.load(output) as arrays:
            if not np.array_equal(arrays["images"], images) or not same(arrays.get("labels"), labels):
                raise RuntimeError(f"{run.directory} does not bring back its images.")
    numbers = {name: float(value) for value, name in re.findall(r"([\d.]+) of them (for the classes|to draw)", said)}
    ((information, log_prob),) = re.findall(r"information is ([\d.]+) .* log-likelihood ([\d.]+)\.$", said.strip())
    alone = jaxgen.open(run.directory, **{"sample.batch_size": 1})
    single = [one(alone, images, labels, i) for i in range(SINGLE)]
    dimensions = images.size
    return {
        "config": run.config.method,
        "step": run.step,
        "bits_per_dim": 8 * compressed.num_bytes / dimensions,
        "classes": numbers.get("for the classes", 0.0),
        "initial": numbers.get("to draw", 0.0),
        "overhead_bytes": compressed.num_bytes - compressed.code.nbytes - compressed.labels.nbytes,
        "information": float(information),
        "log_loss": float(log_prob),
        "single_bits_per_dim": 8 * float(np.mean(single)) / images[0].size,
        "encoding_cpu_seconds": encoding,
        "decoding_cpu_seconds": decoding,
    }


def launch(*words: str) -> tuple[str, float]:
    """Runs a command; returns what it says, and its CPU seconds."""
    before = cpu_seconds()
    done = subprocess.run([sys.executable, "launch.py", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-500:])
    return done.stdout, cpu_seconds() - before


def same(found: np.ndarray | None, expected: np.ndarray | None) -> bool:
    """Returns whether both are None, or arrays of the same values."""
    if found is None or expected is None:
        return found is expected
    return np.array_equal(found, expected)


def one(run: Run, images: np.ndarray, labels: np.ndarray | None, i: int) -> int:
    """Returns the bytes of a file of one image."""
    label = None if labels is None else labels[i : i + 1]
    return compressing.compress(run, images[i : i + 1], labels=label).num_bytes


def table(results: dict[str, Any]) -> str:
    """Returns the section of the page: what it shows, and a table."""
    header = next(iter(results["runs"].values()))["overhead_bytes"]
    files = f"""Made by `python benchmarks/compressed_sizes.py WORKDIR ...`: bits per dimension of the files that
        `launch.py compress` makes of the {results["images"]} held-out images, which `launch.py decompress`
        brings back exactly, and of image formats. `one file` holds all images, of formats as one sheet (the
        smaller one of a column of images and of rows of them); `single files` hold one each. A file of ours
        begins with {header} bytes: the step, and checksums of the model, of some of its predictions and of the
        images. Formats take the bytes of the last column for one black pixel. Either weighs much on an image of
        {results["dimensions"]} pixels, and little on all of them."""
    parts = """Parts of `one file` are the classes, which a conditional model is given and image formats do
        not store, and the random bits that a VAE draws its first latents by. `information` is that of the
        images as they were coded: -log2 p(x) of an autoregressive model; of a VAE the negative evidence lower
        bound by the latents that were drawn. `-log_prob` is the config's own figure: of a VAE it may be a bound
        by several latents, which is tighter, and which a code by one latent does not attain. One run each. The
        networks, which both sides need, do not count."""
    columns = ("step", "one file", "of it classes", "of it initial bits", "information", "-log_prob", "single files")
    lines = [
        wrapped(files),
        "",
        wrapped(parts),
        "",
        f"| | {' | '.join(columns)} | header, bytes |",
        "|---" * 9 + "|",
    ]
    for name, row in sorted(results["runs"].items(), key=lambda item: item[1]["bits_per_dim"]):
        numbers = [row[key] for key in ("bits_per_dim", "classes", "initial", "information", "log_loss")]
        cells = [f"{value:.3f}" if value else "" for value in (*numbers, row["single_bits_per_dim"])]
        lines.append(f"| {name} | {row['step']:,} | " + " | ".join(cells) + f" | {row['overhead_bytes']} |")
    for name, row in sorted(results["formats"].items(), key=lambda item: item[1]["bits_per_dim"]):
        cells = [f"{row['bits_per_dim']:.3f}", "", "", "", "", f"{row['single_bits_per_dim']:.3f}"]
        lines.append(f"| {name} | | " + " | ".join(cells) + f" | {row['overhead_bytes']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
