"""The deep variational information bottleneck on the digits: what a nat of the image is worth to a classifier.

    python benchmarks/information_bottleneck.py [--num_steps 1000]

A classifier of `jaxgen.variational.information_bottleneck` is trained at each of several prices beta, with three seeds.
The figures are of the held-out digits: rate, bound on I(Z; Y), accuracy of the mean of several predictions, and of
a single one. They go to benchmarks/results/information_bottleneck.json, a picture to docs/images and a table to
docs/results.md.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from results_page import ROOT, cell, write_section

from jaxgen.core import images as image_tools
from jaxgen.core import keys
from jaxgen.core.builders import Player, one_player
from jaxgen.data import load, read_arrays
from jaxgen.nn.conv_autoencoder import ConvEncoder
from jaxgen.variational.information_bottleneck import InformationBottleneck, make_init, make_objective

RESULTS = ROOT / "benchmarks" / "results" / "information_bottleneck.json"
PICTURE = ROOT / "docs" / "images" / "information_bottleneck.png"
BETAS = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 1.0)
SEEDS = 3
CLASSES, LATENT_DIM, BATCH = 10, 8, 128
NUM_DRAWS = 12  # of the paper's predictions


class Digits(NamedTuple):
    """Images of a split in [-1, 1], and their classes."""

    images: Float[Array, "n 8 8 1"]
    label: Int[Array, " n"]


def read(split: str) -> Digits:
    """Reads a split of the digits."""
    arrays = read_arrays(load("digits", split))
    return Digits(image_tools.to_float(jnp.asarray(arrays["image"])), jnp.asarray(arrays["label"], jnp.int32))


def measure(beta: float, num_steps: int, train: Digits, held_out: Digits) -> list[dict[str, float]]:
    """Trains with every seed, and returns the figures of the held-out digits, in nats."""
    bottleneck = InformationBottleneck.of(ConvEncoder(2 * LATENT_DIM, width=16, hidden=64, base_side=2), CLASSES)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))
    init, update = one_player(make_init(bottleneck), Player(make_objective(bottleneck, beta), optimizer))
    index = jnp.arange(BATCH)[None]

    def batch(key: Array) -> dict[str, Array]:
        rows = jax.random.randint(keys.stream(key, "rows"), (1, BATCH), 0, len(train.label))
        return {"image": train.images[rows], "label": train.label[rows], "index": index}

    def run(seed: Int[Array, ""]) -> dict[str, Array]:
        root = jax.random.key(seed)

        def step(state: Any, number: Int[Array, ""]) -> tuple[Any, None]:
            key = keys.at_step(keys.stream(root, "train"), number)
            return update(key, state, batch(key))[0], None

        state = init(keys.stream(root, "init"), batch(root))
        state, _ = jax.lax.scan(step, state, jnp.arange(num_steps))
        own = keys.per_example(keys.stream(root, "evaluate"), jnp.arange(len(held_out.label)))
        single = bottleneck.terms(state.params, own, *held_out)
        mean = bottleneck.terms(state.params, own, *held_out, num_draws=NUM_DRAWS)
        return {
            "rate": jnp.mean(mean.rate),
            "distortion": jnp.mean(mean.distortion),
            "accuracy": jnp.mean(jnp.argmax(mean.probabilities, axis=1) == held_out.label),
            "accuracy_of_one": jnp.mean(jnp.argmax(single.probabilities, axis=1) == held_out.label),
        }

    found = jax.jit(jax.vmap(run))(jnp.arange(SEEDS))
    return [{name: float(values[seed]) for name, values in found.items()} for seed in range(SEEDS)]


def entropy(label: Int[Array, " n"]) -> float:
    """Returns the entropy of the classes of some images, in nats."""
    share = np.bincount(np.asarray(label), minlength=CLASSES) / len(label)
    return float(-(share * np.log(share)).sum())


def table(rows: list[dict[str, Any]], of_classes: float) -> str:
    """Returns the rows as a table, in bits, means over seeds with the least and the greatest."""
    lines = [
        "| beta | rate, bits | I(Z; Y) at least, bits | accuracy of 12 draws | accuracy of one |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = row["seeds"]
        rates = [seed["rate"] / math.log(2.0) for seed in seeds]
        information = [(of_classes - seed["distortion"]) / math.log(2.0) for seed in seeds]
        accuracies = [[seed[name] for seed in seeds] for name in ("accuracy", "accuracy_of_one")]
        cells = [cell(rates, "{:.2f}"), cell(information, "{:.2f}"), *(cell(a, "{:.3f}") for a in accuracies)]
        lines.append(f"| {row['beta']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_picture(rows: list[dict[str, Any]], of_classes: float, path: Path) -> None:
    """Writes the information about the class, and the accuracy, over the rate; a point for each seed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.0, 3.2))
    rates = np.array([[seed["rate"] for seed in row["seeds"]] for row in rows]) / math.log(2.0)
    distortion = np.array([[seed["distortion"] for seed in row["seeds"]] for row in rows])
    accuracy = np.array([[seed["accuracy"] for seed in row["seeds"]] for row in rows])
    for axis, values in zip(axes, ((of_classes - distortion) / math.log(2.0), accuracy), strict=True):
        axis.plot(rates.mean(1), values.mean(1), color="tab:blue")
        axis.scatter(rates, values, s=10, color="tab:orange")
        axis.set(xscale="symlog", xlabel="rate, bits")
    axes[0].axhline(of_classes / math.log(2.0), color="gray", linestyle=":")
    axes[0].set_ylabel("lower bound on I(Z; Y), bits")
    axes[1].set_ylabel("held-out accuracy")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(rows: list[dict[str, Any]], label: Int[Array, " n"], num_steps: int) -> None:
    """Writes the picture and the section of the page."""
    of_classes = entropy(label)
    draw_picture(rows, of_classes, PICTURE)
    write_section(
        "Information bottleneck",
        f"""Made by `python benchmarks/information_bottleneck.py`: classifiers of the digits whose latents, of
{LATENT_DIM} dimensions, have the price beta a nat (Alemi et al. 2017; `jaxgen/variational`). Figures are of the
{len(label)} held-out digits, of {SEEDS} seeds: mean (least to greatest). The rate bounds I(Z; X) from above; the
classes have {of_classes / math.log(2.0):.2f} bits. {num_steps:,} steps of {BATCH} images, Adam, its rate falling from
0.002 by a cosine.

{table(rows, of_classes)}

![Information about the class and accuracy over the rate](images/information_bottleneck.png)""",
    )


def main() -> None:
    """Trains at every price, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_steps", type=int, default=1000)
    num_steps = parser.parse_args().num_steps
    train, held_out = read("train"), read("test")
    rows = []
    for beta in BETAS:
        start = time.process_time()
        seeds = measure(beta, num_steps, train, held_out)
        rows.append({"beta": beta, "seeds": seeds, "cpu_s": round(time.process_time() - start, 1)})
        print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps({"num_steps": num_steps, "rows": rows}, indent=1) + "\n")
    write(rows, held_out.label, num_steps)


if __name__ == "__main__":
    main()
