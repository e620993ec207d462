"""Checks of an evaluation before it begins, which training makes at its start, too."""

import math
from pathlib import Path

import psutil

from jaxgen.data import Dataset
from jaxgen.evaluation import features, inception
from jaxgen.evaluation.inception import Inception
from jaxgen.evaluation.report import EvaluationSettings
from jaxgen.runs import experiment as experiments
from jaxgen.runs.evaluation_features import num_images
from jaxgen.runs.settings import Settings, parse
from jaxgen.training.workdir import load_config

_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""The limit of a container's memory, of which `psutil` knows nothing."""

_INCEPTION_FEATURES = 2048 + 1008
_BASE_BYTES = 2**29
"""Blocks of distances, and images that are being read."""


def check_before_training(settings: Settings, data: Dataset) -> None:
    """Refuses a run whose evaluation would be refused when it is trained; nothing if there is to be none.

    Args:
      settings: of the run.
      data: that it is trained on.

    Raises:
      ValueError: in one sentence, says what is wrong and what to do.
    """
    evaluate = settings.evaluate
    if not evaluate.num_samples:
        return
    network = load_network(evaluate)
    given, train = settings, data
    if data.autoencoder is not None:
        given = parse(load_config(data.autoencoder))
        train = experiments.load_data(given, "train", experiments.make_faults(given, "train"))
    try:
        held_out = experiments.load_data(given, "test", experiments.make_faults(given, "test"))
        held_out.examples[0]
    except ValueError as error:
        raise ValueError(
            f"The held-out images, on which the run will be evaluated, cannot be had: {error} Or do without an "
            "evaluation, by evaluate.num_samples=0."
        ) from error
    check(evaluate, train, held_out, network)


def load_network(settings: EvaluationSettings) -> Inception | None:
    """Returns the Inception network that the settings name, if they name one.

    Raises:
      ValueError: if there is none to read.
    """
    return inception.load(Path(settings.inception)) if settings.inception is not None else None


def check(settings: EvaluationSettings, train: Dataset, held_out: Dataset, network: Inception | None) -> None:
    """Refuses data that cannot be evaluated on.

    Raises:
      ValueError: if they are latents, the splits do not agree, there are too few images, or too little memory.
    """
    if train.facts.of_latents:
        raise ValueError(
            "The config names latents, data.name='latents', and images cannot be compared with them: give a config of "
            "images, such as that of the run that encoded them."
        )
    _check_agreement(train, held_out)
    _check_counts(settings, train, held_out)
    if network is not None:
        channels = held_out.image_shape[2]
        inception.check(count=num_images(held_out), channels=channels, dtype=held_out.image_dtype)
    needed, available = needed_bytes(settings, train, held_out), available_bytes()
    if needed > available:
        raise ValueError(
            f"The evaluation needs about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are "
            f"available: set a smaller evaluate.max_pixel_features (now {settings.max_pixel_features}), or do without "
            "it by evaluate.num_samples=0."
        )


def _check_agreement(train: Dataset, held_out: Dataset) -> None:
    for name, ours, theirs in (
        ("shape", train.image_shape, held_out.image_shape),
        ("type", train.image_dtype, held_out.image_dtype),
        ("number of classes", train.num_classes, held_out.num_classes),
    ):
        if ours != theirs:
            raise ValueError(
                f"The held-out images have the {name} {theirs}, and the training images {ours}, so that they cannot be "
                "compared: prepare both alike, or do without an evaluation, by evaluate.num_samples=0."
            )


def _check_counts(settings: EvaluationSettings, train: Dataset, held_out: Dataset) -> None:
    for name, data in (("training", train), ("held-out", held_out)):
        count = num_images(data)
        if count <= settings.k or count < 2:
            least = max(settings.k + 1, 2)
            raise ValueError(
                f"There {'is' if count == 1 else 'are'} {count} {name} image{'s' * (count != 1)}, but an evaluation "
                f"with evaluate.k={settings.k} needs at least {least}: add images, set a smaller evaluate.k, or do "
                "without an evaluation, by evaluate.num_samples=0."
            )


def needed_bytes(settings: EvaluationSettings, train: Dataset, held_out: Dataset) -> int:
    """Returns an estimate of the memory that an evaluation takes at most; it does not depend on the size of images.

    Features are float32. Some stages take one set in float64 as well, or two of them together.
    """
    height, width, channels = train.image_shape
    counts = (settings.num_samples, num_images(train), num_images(held_out))
    sizes = [_pixels(train.image_shape, features.pixel_factor(train.image_shape, settings.max_pixel_features))]
    inputs = 0
    if train.num_classes:
        sizes.append(settings.classifier.num_features)
        factor = features.classifier_factor(train.image_shape, settings.classifier.max_side)
        inputs = _pixels((height, width, channels), factor)
    if settings.inception is not None:
        sizes.append(_INCEPTION_FEATURES)
    held = 4 * sum(sizes) * sum(counts)
    training = 4 * inputs * (counts[0] + 3 * max(counts[1:]))  # on the host, as a batch of it, and on the device
    statistics = (4 + 8) * max(sizes) * (counts[1] + counts[2])
    return _BASE_BYTES + held + max(training, statistics)


def available_bytes() -> int:
    """Returns the memory that this process can still have."""
    available = psutil.virtual_memory().available
    for path in _LIMIT_FILES:
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # there is no such file, or no limit
            continue
        available = min(available, limit - psutil.Process().memory_info().rss)
    return available


def _pixels(shape: tuple[int, int, int], factor: int) -> int:
    return math.ceil(shape[0] / factor) * math.ceil(shape[1] / factor) * shape[2]
