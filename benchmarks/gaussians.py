"""Every adversarial loss on two-dimensional toy targets: a ring of 8 Gaussians and a grid of 25.

    python benchmarks/gaussians.py [--losses hinge wasserstein ...] [--num_steps 6000]

The networks are perceptrons; a point is an image of one pixel with two channels. Each loss is trained with three seeds
on either target, all with one setting. The results go to benchmarks/results/gaussians.json, where those of losses that
are not named are kept, a picture to docs/images and a table to docs/results.md.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key
from results_page import ROOT, write_section

from jaxgen.adversarial.builder import AdversarialTraining, make_training, read_settings
from jaxgen.adversarial.players import players_of
from jaxgen.core import keys
from jaxgen.core.config import Section
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.core.loops import scan
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.mlp import MLP
from jaxgen.runs import config_files

RESULTS = ROOT / "benchmarks" / "results" / "gaussians.json"
PICTURE = ROOT / "docs" / "images" / "gaussians.png"
SEEDS = 3
NUM_SAMPLES = 2500
BATCH = 64
HIDDEN = (128, 128, 128)
SHAPE = (1, 1, 2)

# The terms of each loss: none where it stands alone, and those that its papers add.
LOSSES: dict[str, tuple[tuple[str, ...], ...]] = {
    "minimax": ((),),
    "non_saturating": ((), ("r1(gamma=0.003)",)),
    "least_squares": ((),),
    "hinge": ((),),
    "wasserstein": (("gradient_penalty(weight=1.0)",),),
    "relativistic_average": ((),),
    "relativistic_average_least_squares": ((),),
    "relativistic_average_hinge": ((),),
    "relativistic_pairing": ((), ("r1(gamma=0.003)", "r2(gamma=0.003)")),
}


class Mixture(NamedTuple):
    """Gaussians of equal weights.

    Attributes:
      centers: their means.
      std: their standard deviation.
    """

    centers: Float[np.ndarray, "modes 2"]
    std: float


class Generator(nn.Module):
    """Points in the plane, without the bounds of images; see `jaxgen.nn.adversarial.GeneratorNetwork`."""

    latent_dim: int

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b 1 1 2"]:
        """Maps latents to points."""
        del label, train, keys
        return MLP(2, HIDDEN, name="mlp")(latents)[:, None, None, :]


class Discriminator(nn.Module):
    """A logit for each point; see `jaxgen.nn.adversarial.DiscriminatorNetwork`."""

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b 1 1 2"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Critique:
        """Returns a logit for each point."""
        del label, train, keys
        features, logits = MLP(1, HIDDEN, name="mlp").features_and_output(images)
        return Critique(logits[:, 0], features)


def targets() -> dict[str, Mixture]:
    """Returns the ring of Metz et al. 2017, and the grid of Lin et al. 2018."""
    angles = 2.0 * np.pi * np.arange(8) / 8
    side = np.linspace(-4.0, 4.0, 5)
    return {
        "ring": Mixture(2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=-1), 0.02),
        "grid": Mixture(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2), 0.05),
    }


def make(loss: str, terms: tuple[str, ...], num_steps: int) -> tuple[Generator, AdversarialTraining]:
    """Returns the generator and its training, with the optimizers of all losses."""
    config = config_files.config("gan:digits")
    config.gan.loss, config.gan.terms, config.gan.latent_dim = loss, terms, 2
    config.train.num_steps = num_steps
    for player in config.optimizer.values():
        player.learning_rate, player.schedule, player.b1, player.b2 = 1e-3, "cosine", 0.0, 0.99
    section = Section(config.to_dict())
    settings, spec = read_settings(section, ModelSpec(SHAPE))
    generator = Generator(settings.latent_dim)
    return generator, make_training(players_of(generator, Discriminator()), settings, section, spec, Env())


def draw(mixture: Mixture, key: Key[Array, ""]) -> Float[Array, "1 b 1 1 2"]:
    """Draws one microbatch of a mixture."""
    modes = jax.random.randint(keys.stream(key, "mode"), (1, BATCH), 0, len(mixture.centers))
    noise = jax.random.normal(keys.stream(key, "noise"), (1, BATCH, 2))
    return (jnp.asarray(mixture.centers, jnp.float32)[modes] + mixture.std * noise)[:, :, None, None, :]


def train(loss: str, terms: tuple[str, ...], mixture: Mixture, num_steps: int) -> Float[np.ndarray, "seeds n 2"]:
    """Trains with every seed and returns samples of the last generators."""
    generator, training = make(loss, terms, num_steps)

    def batch(key: Key[Array, ""]) -> dict[str, Array]:
        return {"image": draw(mixture, key), "index": jnp.arange(BATCH)[None]}

    def run(seed: Int[Array, ""]) -> Float[Array, "n 2"]:
        root = jax.random.key(seed)

        def step(state: Any, index: Int[Array, ""]) -> tuple[Any, None]:
            key = keys.at_step(keys.stream(root, "train"), index)
            return training.update(key, state, batch(keys.stream(key, "data")))[0], None

        state = training.init(keys.stream(root, "init"), batch(keys.stream(root, "examples")), ())
        state, _ = scan(step, state, jnp.arange(num_steps))
        latents = jax.random.normal(keys.stream(root, "samples"), (NUM_SAMPLES, generator.latent_dim))
        return generator.apply({"params": state.params["generator"]}, latents, train=False)[:, 0, 0, :]

    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(SEEDS)))


def measure(points: Float[np.ndarray, "n 2"], mixture: Mixture) -> dict[str, float]:
    """Returns the modes with a point within 3 standard deviations, and the share of such points (Lin et al. 2018)."""
    distances = np.linalg.norm(points[:, None] - mixture.centers, axis=-1)
    good = distances.min(axis=1) <= 3.0 * mixture.std
    return {"modes": len(np.unique(distances.argmin(axis=1)[good])), "high_quality": float(good.mean())}


def run_loss(loss: str, num_steps: int) -> list[dict[str, Any]]:
    """Returns one row for each choice of terms and target."""
    rows = []
    for terms, (target, mixture) in itertools.product(LOSSES[loss], targets().items()):
        start = time.process_time()
        samples = train(loss, terms, mixture, num_steps)
        row = {"loss": loss, "terms": list(terms), "target": target, "num_steps": num_steps}
        row |= {"seeds": [measure(points, mixture) for points in samples]}
        row |= {"cpu_s": round(time.process_time() - start, 1), "points": np.round(samples[0], 2).tolist()}
        rows.append(row)
        print(loss, terms, target, row["seeds"], row["cpu_s"], flush=True)
    return rows


def identity(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns the loss and the terms of a row, in one tuple."""
    return (row["loss"], *row["terms"])


def in_order(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Returns rows by loss and terms, in the order of `LOSSES`, then by target."""
    order = [(loss, *terms) for loss, choices in LOSSES.items() for terms in choices]
    found = {name: {row["target"]: row for row in rows if identity(row) == name} for name in order}
    return {name: by_target for name, by_target in found.items() if by_target}


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a table, means over seeds with the least and the greatest."""

    def cell(row: dict[str, Any], metric: str, form: str) -> str:
        values = [seed[metric] for seed in row["seeds"]]
        return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    lines = [
        "| loss | terms | ring: modes of 8 | ring: high quality | grid: modes of 25 | grid: high quality |",
        "|---|---|---|---|---|---|",
    ]
    for (loss, *terms), by_target in in_order(rows).items():
        cells = [
            cell(row, metric, form)
            for row in (by_target["ring"], by_target["grid"])
            for metric, form in (("modes", ".3g"), ("high_quality", ".2f"))
        ]
        lines.append(f"| {' | '.join([loss, ', '.join(terms), *cells])} |")
    return "\n".join(lines)


def draw_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the points of the first seeds, in blue, over the means of the targets, in orange."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ordered = in_order(rows)
    figure, axes = pyplot.subplots(2, len(ordered), figsize=(1.7 * len(ordered), 3.9), squeeze=False)
    for column, (name, by_target) in enumerate(ordered.items()):
        for axis, (target, mixture) in zip(axes[:, column], targets().items(), strict=True):
            reach = 1.3 * np.abs(mixture.centers).max()
            axis.scatter(*mixture.centers.T, s=14, color="tab:orange")
            axis.scatter(*np.array(by_target[target]["points"]).T, s=0.3, color="tab:blue")
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
        words = "\n".join([name[0].replace("relativistic_", "relativistic\n"), *name[1:]])
        axes[0, column].set_title(words, fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(rows: list[dict[str, Any]], num_steps: int) -> None:
    """Writes the picture and the section of the page."""
    draw_picture(rows, PICTURE)
    write_section(
        "Toy targets of GANs",
        f"""Made by `python benchmarks/gaussians.py`: every loss of `jaxgen.losses.adversarial` on a ring of 8 Gaussians
(radius 2, deviation 0.02) and a grid of 25 (spacing 2, deviation 0.05), {SEEDS} seeds each: mean (least to greatest).
Generator and discriminator are perceptrons with three hidden layers of 128 ReLU units, latents have two dimensions;
{num_steps:,} steps of {BATCH} points, Adam (0, 0.99), its rate falling from 0.001 by a cosine; one setting for all,
nothing averaged. A mode is covered if one of {NUM_SAMPLES:,} samples lies within 3 standard deviations of it, and such
samples are of high quality.

{table(rows)}

![Samples of the first seed of each](images/gaussians.png)""",
    )


def main() -> None:
    """Runs the losses that are named, and writes the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--num_steps", type=int, default=6000)
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in options.losses:
        new = run_loss(name, options.num_steps)
        rows = [row for row in rows if row["loss"] != name] + new
        RESULTS.write_text(json.dumps(rows) + "\n")
        write(rows, options.num_steps)


if __name__ == "__main__":
    main()
