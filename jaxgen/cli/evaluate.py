"""`launch.py evaluate`: judge a trained run and write `evaluation.json`, each figure with its protocol."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.cli import setup
from jaxgen.cli.main import refusals
from jaxgen.core.contract import GenerativeModel
from jaxgen.data import Dataset, read_arrays
from jaxgen.evaluation import report
from jaxgen.evaluation.report import LabeledImages, Likelihood, evaluation_settings
from jaxgen.parallel import hosts, sampling
from jaxgen.parallel import mesh as meshes
from jaxgen.training.settings import train_settings
from jaxgen.training.workdir import load_spec, write_whole

EVALUATION_IMAGES = 50_000  # of a split of real images; what the field's protocols use


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    evaluate_run(config, Path(flags.workdir), step=flags.step)
    return 0


def report_file(directory: Path) -> Path:
    """Where the figures of a run are written."""
    return directory / "evaluation.json"


def evaluate_run(config: ConfigDict, directory: Path, *, step: int | None = None) -> None:
    """Draws samples from a run's checkpoint, judges them, writes the figures and prints them as a table."""
    with refusals():
        settings = evaluation_settings(config)
        batch_size = sampling.sample_settings(config).batch_size
        data = setup.load_pixels(config, directory, "train")
        experiment = setup.build(config, load_spec(directory), directory)
        state, step = setup.restore(experiment, train_settings(config), directory, step)
        train = _arrays(data)
        held_out = _arrays(setup.load_pixels(config, directory, "test"))
        labels = sampling.balanced_labels(experiment.model.spec, settings.num_samples)
    mesh = meshes.make_mesh(config.parallel.num_devices)
    variables = experiment.model.eval_variables(state)
    samples = sampling.draw_images(
        experiment.model,
        variables,
        labels,
        count=settings.num_samples,
        seed=settings.seed,
        mesh=mesh,
        batch_size=batch_size,
    )
    reconstructions = _reconstructions(experiment.model, variables, held_out, mesh=mesh, batch_size=batch_size)
    scored = _first(held_out, settings.num_likelihood)
    likelihood = _likelihood(experiment.model, variables, scored, mesh=mesh, batch_size=batch_size)
    if not hosts.is_first():
        return
    figures = report.evaluate(
        LabeledImages(samples, labels),
        train,
        held_out,
        num_classes=data.num_classes,
        settings=settings,
        reconstructions=reconstructions,
        likelihood=likelihood,
        cache_dir=directory / "evaluation",
    )
    write_whole(report_file(directory), json.dumps({"step": step, "figures": figures}, indent=2) + "\n")
    print(f"Evaluation of {directory}, step {step}, {len(samples)} samples, seed {settings.seed}:")
    print(report.format_table(figures))


def _arrays(data: Dataset) -> LabeledImages:
    arrays = read_arrays(data, limit=EVALUATION_IMAGES)
    return LabeledImages(arrays["image"], arrays.get("label"))


def _first(split: LabeledImages, count: int) -> LabeledImages:
    return LabeledImages(split.images[:count], None if split.labels is None else split.labels[:count])


def _reconstructions(
    model: GenerativeModel, variables: PyTree, held_out: LabeledImages, *, mesh: Mesh, batch_size: int
) -> np.ndarray | None:
    if model.spec.latent_shape is None:
        return None
    return sampling.reconstruct_images(
        model, variables, held_out.images, held_out.labels, mesh=mesh, batch_size=batch_size
    )


def _likelihood(
    model: GenerativeModel, variables: PyTree, held_out: LabeledImages, *, mesh: Mesh, batch_size: int
) -> Likelihood | None:
    if model.spec.likelihood is None:
        return None
    nats = sampling.score_images(model, variables, held_out.images, held_out.labels, mesh=mesh, batch_size=batch_size)
    return Likelihood(nats, model.spec.likelihood)
