"""The evaluation of a run: its figures in its work directory, each with its protocol."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Shaped, UInt

from jaxgen.core import images as image_tools
from jaxgen.core import subsets
from jaxgen.core.config import Section
from jaxgen.core.contract import ModelSpec
from jaxgen.core.progress import OnProgress, unseen
from jaxgen.data import Dataset
from jaxgen.data.faults import Faults
from jaxgen.evaluation import report
from jaxgen.evaluation.inception import Inception
from jaxgen.evaluation.report import EvaluationSettings, Figure, Likelihood, Reconstructions
from jaxgen.evaluation.streams import FilledArray, Mean
from jaxgen.parallel import hosts, sampling
from jaxgen.parallel.mesh import make_mesh
from jaxgen.parallel.streaming import StreamedMap
from jaxgen.runs import environment, evaluation_checks, evaluation_features, evaluation_files
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import Config, read_only, with_settings
from jaxgen.runs.evaluation_features import RealImages, SampleStream, num_images
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.opened import Run
from jaxgen.runs.refusals import agreed
from jaxgen.runs.settings import Settings, parse
from jaxgen.training import workdir


class _Inputs(NamedTuple):
    """The inputs of an evaluation, after all checks."""

    config: Section
    settings: EvaluationSettings
    data: RealImages
    labels: np.ndarray | None


def evaluate(run: Run, *, say: Say = silent, on_progress: OnProgress = unseen, **settings: Any) -> dict[str, Figure]:
    """Draws samples from a run's checkpoint, evaluates them, and writes the figures into a file of the run.

    That is `evaluation.json` for the run's own settings and newest checkpoint; see `runs.evaluation_files`.

    Args:
      run: what to evaluate.
      say: takes the faulty examples that are skipped, and their number.
      on_progress: takes the progress of what takes long.
      **settings: of the config's section `evaluate`, in the place of the run's own, such as `num_samples=200`.

    Returns:
      The figures by name, each with its protocol; of several processes, on the first one only.

    Raises:
      RefusedError: if a setting is wrong, or the data or the checkpoint cannot be had.
    """
    faults: dict[str, Faults] = {}
    with agreed():
        inputs = _inputs(run, {f"evaluate.{name}": value for name, value in settings.items()}, faults, say)
    samples = _draw(run, inputs, on_progress)
    reconstruction, scoring = _reconstruction(run, inputs.data), _scoring(run, inputs)
    others = [consumer for consumer in (reconstruction, scoring) if consumer is not None]
    reference, classifier = evaluation_features.read_reference(inputs.data, others, on_progress=on_progress)
    if not hosts.is_first():
        return {}
    figures = report.evaluate(
        samples.image_set(classifier)._replace(labels=inputs.labels),
        reference,
        image_shape=inputs.data.train.image_shape,
        settings=inputs.settings,
        class_names=inputs.data.train.class_names,
        reconstructions=None if reconstruction is None else reconstruction.result(),
        likelihood=None if scoring is None else scoring.result(),
        on_progress=on_progress,
    )
    evaluation_files.write(run.directory, figures, step=run.step, newest=run.is_newest, config=inputs.config)
    for split in faults.values():
        split.say_count()
    return figures


def evaluate_images(
    config: Config,
    images: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."] | None = None,
    *,
    say: Say = silent,
    on_progress: OnProgress = unseen,
) -> dict[str, Figure]:
    """Evaluates images that any program has drawn, as `evaluate` does the samples of a run, and writes nothing.

    Args:
      config: names the data that they are compared with, and the protocol; `evaluate.num_samples` is their number.
      images: [n, h, w, c], of the shape and the type of the data.
      labels: [n], the classes that they were drawn for; None for an unconditional model.
      say: takes the faulty examples of the data that are skipped, and their number.
      on_progress: takes the progress of what takes long.

    Returns:
      The figures by name, each with its protocol.

    Raises:
      ValueError: if a setting is wrong, the data cannot be had, or the images or labels do not fit them.
    """
    environment.ready()
    given = parse(with_settings(config, {"evaluate.num_samples": len(images)}))
    report.check_settings(given.evaluate)  # also where there are no images
    network = evaluation_checks.load_network(given.evaluate)
    faults = {split: experiments.make_faults(given, split, say=say) for split in ("train", "test")}
    data = _real_images(given, given.evaluate, network, make_mesh(), faults, say)
    _check_images(data.train, images, labels)
    samples = SampleStream(data, len(images))
    samples.add(images)
    reference, classifier = evaluation_features.read_reference(data, [], on_progress=on_progress)
    figures = report.evaluate(
        samples.image_set(classifier)._replace(labels=labels),
        reference,
        image_shape=data.train.image_shape,
        settings=given.evaluate,
        class_names=data.train.class_names,
        on_progress=on_progress,
    )
    for split in faults.values():
        split.say_count()
    return figures


def _check_images(data: Dataset, images: np.ndarray, labels: np.ndarray | None) -> None:
    wanted = f"{data.image_dtype} of shape {('n', *data.image_shape)}"
    if images.dtype != data.image_dtype or images.shape[1:] != tuple(data.image_shape):
        raise ValueError(f"The images are {images.dtype} of shape {images.shape}, but those of the data are {wanted}.")
    if labels is None:
        return
    if not data.num_classes:
        raise ValueError("The images have labels, but the data has no classes: give no labels.")
    whole = labels.shape == (len(images),) and np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < 0 or labels.max() >= data.num_classes:
        raise ValueError(
            f"The labels are {labels.dtype} of shape {labels.shape}, but must be a whole number from 0 to "
            f"{data.num_classes - 1} for each of the {len(images)} images."
        )


def _inputs(run: Run, changes: dict[str, Any], faults: dict[str, Faults], say: Say) -> _Inputs:
    """Opens the inputs of an evaluation; adds the counts of faulty examples to `faults`, by split."""
    config = read_only(with_settings(run.config, changes))
    given = parse(config)
    settings = given.evaluate
    report.check_settings(settings)
    network = evaluation_checks.load_network(settings)
    for split in ("train", "test"):
        faults[split] = experiments.make_faults(given, split, run.directory, say=say)
    spec, _ = run.spec, run.step  # the model is built, then the checkpoint is restored
    of_pixels = experiments.pixel_settings(given, run.directory)
    data = _real_images(of_pixels, settings, network, run.experiment.runner.mesh, faults, say)
    if change := workdir.change_of_data(experiments.home_of_pixels(run.directory), data.train):
        say(f"The data are not those that the run was trained on ({change}): it is compared with those that are here.")
    return _Inputs(config, settings, data, sample_labels(spec, settings.num_samples))


def _real_images(
    given: Settings,
    evaluate: EvaluationSettings,
    network: Inception | None,
    mesh: Mesh,
    faults: Mapping[str, Faults],
    say: Say,
) -> RealImages:
    """Opens both splits of the data that `given` names, and the caches of their features."""
    train, held_out = (experiments.load_data(given, split, faults[split]) for split in ("train", "test"))
    evaluation_checks.check(evaluate, train, held_out, network)
    caches = evaluation_features.open_caches(train, held_out, given=given, evaluate=evaluate, network=network, say=say)
    return RealImages(train, held_out, evaluate, network, mesh, caches)


def sample_labels(spec: ModelSpec, count: int) -> np.ndarray | None:
    """Returns labels for `count` samples: all classes in turn, and a random subset of them for what is left over.

    Fewer samples than classes are thus of random classes, not of the first ones.
    """
    labels = sampling.balanced_labels(spec, count)
    if labels is not None and (rest := count % spec.num_classes):
        labels[-rest:] = np.sort(subsets.draw(spec.num_classes, rest))
    return labels


def _draw(run: Run, inputs: _Inputs, on_progress: OnProgress) -> SampleStream:
    """Draws the samples, of which only the features are kept."""
    count = inputs.settings.num_samples
    samples = SampleStream(inputs.data, count)
    name, done = "drawing samples", 0
    on_progress(name, done, count)
    for batch in run.sample_batches(count, seed=inputs.settings.seed, label=inputs.labels):
        samples.add(batch)
        done += len(batch)
        on_progress(name, done, count)
    return samples


class _Reconstruction:
    """The error of the held-out images after encoding and decoding."""

    def __init__(self, run: Run, count: int) -> None:
        self._count = count
        self._mean = Mean(count * math.prod(run.spec.image_shape))
        self._levels, self._conditional = run.spec.levels, run.spec.num_classes > 0
        self._map = _over_images(sampling.reconstruction(run.model), run, count, self._take)

    def add(self, images: UInt[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Takes the next images."""
        self._map.add(_rows(images, labels if self._conditional else None))

    def _take(self, rows: dict[str, np.ndarray], results: np.ndarray) -> None:
        originals = rows["image"]
        reconstructions = image_tools.to_levels(results, self._levels)
        largest = image_tools.levels_of(originals.dtype) - 1
        self._mean.add(((reconstructions.astype(np.float64) - originals) / largest) ** 2)

    def result(self) -> Reconstructions:
        """Returns the error, once all images have come."""
        return Reconstructions(self._mean.value(), self._count)


class _Scoring:
    """The likelihoods of a drawn subset of the held-out images, the same for all models."""

    def __init__(self, run: Run, count: int, limit: int) -> None:
        self._chosen = np.zeros(count, bool)
        self._chosen[subsets.draw(count, limit)] = True
        self._done = 0
        self._nats = FilledArray(int(self._chosen.sum()))
        self._kind = run.spec.likelihood
        self._conditional = run.spec.num_classes > 0
        fn = sampling.likelihood(run.model)
        self._map = _over_images(fn, run, int(self._chosen.sum()), lambda _, nats: self._nats.add(nats))

    def add(self, images: UInt[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Takes the next images."""
        chosen = self._chosen[self._done : self._done + len(images)]
        self._done += len(images)
        if chosen.any():
            told = labels[chosen] if labels is not None and self._conditional else None
            self._map.add(_rows(images[chosen], told))

    def result(self) -> Likelihood:
        """Returns the likelihoods, once all images have come."""
        assert self._kind is not None
        return Likelihood(self._nats.whole(), self._kind)


def _rows(images: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"image": images} | ({} if labels is None else {"label": labels})


def _over_images(
    fn: Callable[..., Array], run: Run, count: int, take: Callable[[Any, np.ndarray], None]
) -> StreamedMap:
    mesh, key = run.experiment.runner.mesh, sampling.stream_of(fn)
    return StreamedMap(fn, mesh, run.variables, key=key, count=count, batch_size=run.batch_size, take=take)


def _reconstruction(run: Run, data: RealImages) -> _Reconstruction | None:
    if run.spec.latent_shape is None or run.model.encode is None:
        return None
    return _Reconstruction(run, num_images(data.held_out))


def _scoring(run: Run, inputs: _Inputs) -> _Scoring | None:
    if run.spec.likelihood is None:
        return None
    count = num_images(inputs.data.held_out)
    return _Scoring(run, count, inputs.settings.num_likelihood)


def figures_file(run: Run) -> Path:
    """Returns the path of the file that the figures of a run, with its settings, are written to."""
    return evaluation_files.path_of(run.directory, step=run.step, newest=run.is_newest, config=run.config)
