"""`launch.py evaluate`: judge a trained run and write `evaluation.json`, each figure with its protocol."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.cli.main import refusals
from jaxgen.core import subsets
from jaxgen.core.contract import GenerativeModel, ModelSpec
from jaxgen.data import Dataset, read_arrays
from jaxgen.evaluation import inception, report
from jaxgen.evaluation.inception import Inception, SplitFeatures
from jaxgen.evaluation.report import EvaluationSettings, LabeledImages, Likelihood, evaluation_settings
from jaxgen.parallel import hosts, sampling
from jaxgen.runs import experiment as experiments
from jaxgen.training.durability.whole_files import write_whole
from jaxgen.training.settings import train_settings
from jaxgen.training.workdir import load_spec

EVALUATION_IMAGES = 50_000  # of a split of real images; what the field's protocols use


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    evaluate_run(config, Path(flags.workdir), step=flags.step)
    return 0


def report_file(directory: Path) -> Path:
    """Where the figures of a run are written."""
    return directory / "evaluation.json"


def asked_for(config: ConfigDict) -> tuple[EvaluationSettings, Inception | None]:
    """The protocol in the config's section `evaluate`, and the Inception network where it names one.

    Raises:
      ValueError: if a setting is wrong, or the network cannot be read.
    """
    settings = evaluation_settings(config)
    return settings, inception.load(Path(settings.inception)) if settings.inception is not None else None


def evaluate_run(config: ConfigDict, directory: Path, *, step: int | None = None) -> None:
    """Draws samples from a run's checkpoint, judges them, writes the figures and prints them as a table."""
    with refusals():
        settings, network = asked_for(config)
        batch_size = sampling.sample_settings(config).batch_size
        faults = {split: experiments.make_faults(config, split, directory) for split in ("train", "test")}
        data = experiments.load_pixels(config, directory, "train", faults["train"])
        experiment = experiments.build(config, load_spec(directory), directory)
        variables, step = experiments.load_variables(experiment, train_settings(config), directory, step)
        train = _arrays(data)
        held_out = _arrays(experiments.load_pixels(config, directory, "test", faults["test"]))
        if network is not None:
            inception.check(held_out.images)
        labels = sample_labels(experiment.model.spec, settings.num_samples)
    mesh = experiment.runner.mesh
    samples = sampling.draw_images(
        experiment.model,
        variables,
        labels,
        count=settings.num_samples,
        seed=settings.seed,
        mesh=mesh,
        batch_size=batch_size,
    )
    cache_dir = directory / "evaluation"
    reconstructions = _reconstructions(experiment.model, variables, held_out, mesh=mesh, batch_size=batch_size)
    scored = subset(held_out, settings.num_likelihood)
    likelihood = _likelihood(experiment.model, variables, scored, mesh=mesh, batch_size=batch_size)
    extracted = _inception(network, samples, train, held_out, mesh=mesh, cache_dir=cache_dir)
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
        inception=extracted,
        cache_dir=cache_dir,
    )
    write_whole(report_file(directory), json.dumps({"step": step, "figures": figures}, indent=2) + "\n")
    print(f"Evaluation of {directory}, step {step}, {len(samples)} samples, seed {settings.seed}:")
    print(report.format_table(figures))
    for split in faults.values():
        split.say_count()


def _arrays(data: Dataset) -> LabeledImages:
    arrays = read_arrays(data, limit=EVALUATION_IMAGES)
    return LabeledImages(arrays["image"], arrays.get("label"))


def subset(split: LabeledImages, count: int) -> LabeledImages:
    """Returns at most `count` images of a split with their labels: always the same ones, drawn from all over it."""
    indices = np.sort(subsets.draw(len(split.images), count))
    return LabeledImages(split.images[indices], None if split.labels is None else split.labels[indices])


def sample_labels(spec: ModelSpec, count: int) -> np.ndarray | None:
    """Returns labels for `count` samples: all classes in turn, but for the last turn's, which are drawn if not all.

    So samples that are fewer than the classes are not all of the first classes, which the data's images are not either.
    """
    labels = sampling.balanced_labels(spec, count)
    if labels is not None and (rest := count % spec.num_classes):
        labels[-rest:] = np.sort(subsets.draw(spec.num_classes, rest))
    return labels


def _reconstructions(
    model: GenerativeModel, variables: PyTree, held_out: LabeledImages, *, mesh: Mesh, batch_size: int
) -> np.ndarray | None:
    if model.spec.latent_shape is None or model.encode is None:
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


def _inception(
    network: Inception | None,
    samples: np.ndarray,
    train: LabeledImages,
    held_out: LabeledImages,
    *,
    mesh: Mesh,
    cache_dir: Path,
) -> SplitFeatures | None:
    if network is None:
        return None
    return SplitFeatures(
        samples=inception.extract(network, samples, mesh=mesh),
        train=inception.extract(network, train.images, mesh=mesh, cache_dir=cache_dir),
        held_out=inception.extract(network, held_out.images, mesh=mesh, cache_dir=cache_dir),
        fingerprint=network.fingerprint,
    )
