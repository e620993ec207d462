"""The evaluation of a run: `evaluation.json` in its work directory, each figure with its protocol."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxgen.core import subsets
from jaxgen.core.contract import ModelSpec
from jaxgen.data import Dataset, read_arrays
from jaxgen.data.faults import Faults
from jaxgen.evaluation import inception, report
from jaxgen.evaluation.inception import Inception, SplitFeatures
from jaxgen.evaluation.report import EvaluationSettings, Figure, LabeledImages, Likelihood
from jaxgen.parallel import hosts, sampling
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import with_settings
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.opened import Run
from jaxgen.runs.refusals import agreed
from jaxgen.runs.settings import parse
from jaxgen.training.durability.whole_files import write_whole

EVALUATION_IMAGES = 50_000  # of a split of real images; what the field's protocols use


def report_file(directory: Path) -> Path:
    """Returns the path of the file that the figures of a run are written to."""
    return directory / "evaluation.json"


def reported_step(directory: Path) -> int | None:
    """Returns the step of the checkpoint that was evaluated last; None if there are no figures that can be read."""
    try:
        return int(json.loads(report_file(directory).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def network_of(settings: EvaluationSettings) -> Inception | None:
    """Returns the protocol in the config's section `evaluate`, and the Inception network where it names one.

    Raises:
      ValueError: if there is none to read.
    """
    return inception.load(Path(settings.inception)) if settings.inception is not None else None


class _Inputs(NamedTuple):
    """The inputs of an evaluation, after all checks."""

    settings: EvaluationSettings
    network: Inception | None
    num_classes: int
    train: LabeledImages
    held_out: LabeledImages
    labels: np.ndarray | None


def evaluate(run: Run, *, say: Say = silent, **settings: Any) -> dict[str, Figure]:
    """Draws samples from a run's checkpoint, evaluates them, and writes the figures into `evaluation.json` of the run.

    Args:
      run: what to evaluate.
      say: takes the faulty examples that are skipped, and their number.
      **settings: of the config's section `evaluate`, in the place of the run's own, such as `num_samples=200`.

    Returns:
      The figures by name, each with its protocol; of several processes, on the first one only.

    Raises:
      RefusedError: if a setting is wrong, or the data or the checkpoint cannot be had.
    """
    faults: dict[str, Faults] = {}
    with agreed():
        inputs = _inputs(run, {f"evaluate.{name}": value for name, value in settings.items()}, faults, say)
    samples = run.sample(inputs.settings.num_samples, seed=inputs.settings.seed, label=inputs.labels)
    reconstructions = _reconstructions(run, inputs.held_out)
    likelihood = _likelihood(run, subset(inputs.held_out, inputs.settings.num_likelihood))
    cache_dir = run.directory / "evaluation"
    extracted = _inception(inputs, samples, mesh=run.experiment.runner.mesh, cache_dir=cache_dir)
    if not hosts.is_first():
        return {}
    figures = report.evaluate(
        LabeledImages(samples, inputs.labels),
        inputs.train,
        inputs.held_out,
        num_classes=inputs.num_classes,
        settings=inputs.settings,
        reconstructions=reconstructions,
        likelihood=likelihood,
        inception=extracted,
        cache_dir=cache_dir,
    )
    write_whole(report_file(run.directory), json.dumps({"step": run.step, "figures": figures}, indent=2) + "\n")
    for split in faults.values():
        split.say_count()
    return figures


def _inputs(run: Run, changes: dict[str, Any], faults: dict[str, Faults], say: Say) -> _Inputs:
    """Reads the inputs of an evaluation; adds the counts of faulty examples to `faults`, by split."""
    given = parse(with_settings(run.config, changes))
    settings = given.evaluate
    report.check_settings(settings)
    network = network_of(settings)
    for split in ("train", "test"):
        faults[split] = experiments.make_faults(given, split, run.directory, say=say)
    data = experiments.load_pixels(given, run.directory, "train", faults["train"])
    spec, _ = run.spec, run.step  # the model is built, then the checkpoint is restored
    train = _arrays(data)
    held_out = _arrays(experiments.load_pixels(given, run.directory, "test", faults["test"]))
    if network is not None:
        inception.check(held_out.images)
    return _Inputs(settings, network, data.num_classes, train, held_out, sample_labels(spec, settings.num_samples))


def _arrays(data: Dataset) -> LabeledImages:
    arrays = read_arrays(data, limit=EVALUATION_IMAGES)
    return LabeledImages(arrays["image"], arrays.get("label"))


def subset(split: LabeledImages, count: int) -> LabeledImages:
    """Returns at most `count` images of a split with their labels: a random subset, which is always the same."""
    indices = np.sort(subsets.draw(len(split.images), count))
    return LabeledImages(split.images[indices], None if split.labels is None else split.labels[indices])


def sample_labels(spec: ModelSpec, count: int) -> np.ndarray | None:
    """Returns labels for `count` samples: all classes in turn, and a random subset of them for what is left over.

    Fewer samples than classes are thus of random classes, not of the first ones.
    """
    labels = sampling.balanced_labels(spec, count)
    if labels is not None and (rest := count % spec.num_classes):
        labels[-rest:] = np.sort(subsets.draw(spec.num_classes, rest))
    return labels


def _reconstructions(run: Run, held_out: LabeledImages) -> np.ndarray | None:
    if run.spec.latent_shape is None or run.model.encode is None:
        return None
    mesh = run.experiment.runner.mesh
    return sampling.reconstruct_images(
        run.model, run.variables, held_out.images, held_out.labels, mesh=mesh, batch_size=run.batch_size
    )


def _likelihood(run: Run, held_out: LabeledImages) -> Likelihood | None:
    if run.spec.likelihood is None:
        return None
    mesh = run.experiment.runner.mesh
    nats = sampling.score_images(
        run.model, run.variables, held_out.images, held_out.labels, mesh=mesh, batch_size=run.batch_size
    )
    return Likelihood(nats, run.spec.likelihood)


def _inception(inputs: _Inputs, samples: np.ndarray, *, mesh: Mesh, cache_dir: Path) -> SplitFeatures | None:
    network = inputs.network
    if network is None:
        return None
    return SplitFeatures(
        samples=inception.extract(network, samples, mesh=mesh),
        train=inception.extract(network, inputs.train.images, mesh=mesh, cache_dir=cache_dir),
        held_out=inception.extract(network, inputs.held_out.images, mesh=mesh, cache_dir=cache_dir),
        fingerprint=network.fingerprint,
    )
