"""The features of the images of an evaluation, which are read batch by batch, or not at all where a cache has them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt

from jaxgen.core import subsets, trees
from jaxgen.core.progress import OnProgress
from jaxgen.data import Dataset, read_batches, subset_indices
from jaxgen.evaluation import features, inception
from jaxgen.evaluation.cache import Cache, default_directory
from jaxgen.evaluation.features import Classifier, TrainingImages
from jaxgen.evaluation.inception import Extraction, Inception
from jaxgen.evaluation.reference import SPACES, Arrays, ImageSet, PixelStream, Reference
from jaxgen.evaluation.report import EvaluationSettings
from jaxgen.parallel import agreement, hosts
from jaxgen.runs.messages import Say
from jaxgen.runs.settings import Settings

EVALUATION_IMAGES = 50_000
"""Images of a split, at most; the field's protocols use as many."""

_VERSION = 1
"""Of the features in a cache: another number for other ones of the same images and settings."""

_PROBED = 32
_LOCATIONS = ("path", "data_dir")
"""Settings of the data that say where they lie, not what they are."""


def num_images(data: Dataset) -> int:
    """Returns the number of images of a split that an evaluation reads."""
    return min(len(data.examples), EVALUATION_IMAGES)


@runtime_checkable
class Consumer(Protocol):
    """Takes images batch by batch."""

    def add(self, images: UInt[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Takes the next images."""
        ...


class RealImages(NamedTuple):
    """The data of an evaluation, and what is measured of them.

    Attributes:
      train: the split that the model was trained on.
      held_out: the other split.
      settings: the protocol.
      network: the Inception network, or None.
      mesh: the devices.
      caches: where the features are kept, by space.
    """

    train: Dataset
    held_out: Dataset
    settings: EvaluationSettings
    network: Inception | None
    mesh: Mesh
    caches: Mapping[str, Cache]

    @property
    def num_classes(self) -> int:
        """The number of classes of the data; 0 if it has none."""
        return self.train.num_classes

    @property
    def spaces(self) -> tuple[str, ...]:
        """The feature spaces of this evaluation."""
        has = {"pixels": True, "classifier": self.num_classes > 0, "inception": self.network is not None}
        return tuple(space for space in SPACES if has[space])


def open_caches(
    train: Dataset,
    held_out: Dataset,
    *,
    given: Settings,
    evaluate: EvaluationSettings,
    network: Inception | None,
    say: Say,
) -> dict[str, Cache]:
    """Returns the caches of the features of data, by space; without a fingerprint of the data, they keep nothing.

    Args:
      train: the split that the model was trained on.
      held_out: the other split.
      given: the settings that the data were opened with.
      evaluate: the protocol.
      network: the Inception network, or None.
      say: is told, once, that nothing can be written.
    """
    known = None not in (train.fingerprint, held_out.fingerprint) and hosts.is_first()
    directory = default_directory() if known else None
    facts = {"data": [_facts(split) for split in (train, held_out)] if directory else [], "version": _VERSION}
    source = {name: value for name, value in given.data.source.items() if name not in _LOCATIONS}
    facts |= {"source": source, "on_fault": given.data.faults.on_fault, "name": given.data.name}
    facts |= {"limit": EVALUATION_IMAGES, "subset": subsets.SEED}
    more: dict[str, Any] = {
        "pixels": evaluate.max_pixel_features,
        "classifier": evaluate.classifier._asdict(),
        "inception": network and network.fingerprint,
    }
    said: list[str] = []

    def say_once(text: str) -> None:
        if not said:
            said.append(text)
            say(text)

    return {space: Cache(directory, f"{space}-{_digest([facts, more[space]])}", say=say_once) for space in SPACES}


def _facts(data: Dataset) -> dict[str, Any]:
    """Returns what tells a split from others, with a hash of some of its examples, as they are read by this program."""
    indices = np.asarray(subset_indices(data, EVALUATION_IMAGES))
    chosen = indices[:: -(-len(indices) // _PROBED)]
    digest = hashlib.sha256()
    for example in data.examples.__getitems__([int(index) for index in chosen]):
        digest.update(np.ascontiguousarray(example["image"]).data)
        digest.update(str(example.get("label")).encode())
    return {
        "fingerprint": data.fingerprint,
        "examples": len(data.examples),
        "shape": data.image_shape,
        "dtype": data.image_dtype,
        "classes": data.num_classes,
        "probe": digest.hexdigest(),
    }


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class SampleStream:
    """The features of samples that come batch by batch."""

    def __init__(self, data: RealImages, count: int) -> None:
        """Takes the data that they are compared with, and their number."""
        self._pixels = _pixel_stream(data, count) if hosts.is_first() else None
        self._extraction = _extraction(data, count)

    def add(self, images: UInt[np.ndarray, "b h w c"]) -> None:
        """Takes the next samples."""
        for consumer in (self._pixels, self._extraction):
            if consumer is not None:
                consumer.add(images)

    def image_set(self, classifier: Classifier | None) -> ImageSet:
        """Returns the features of all samples, once they have come; on the first process only."""
        assert self._pixels is not None
        images = self._pixels.image_set(classifier)
        return images._replace(inception=None if self._extraction is None else self._extraction.features())


def read_reference(
    data: RealImages, others: Sequence[Consumer], *, on_progress: OnProgress
) -> tuple[Reference, Classifier | None]:
    """Reads the features of the real images, each from its cache or from the images.

    Args:
      data: the images.
      others: take the held-out images, too.
      on_progress: is told of the images that are read, and of the training of the classifier.

    Returns:
      The features, and the classifier if there are classes. Of several processes, only the first has all features.
    """
    kept: dict[str, Arrays] = {}
    for name in [f"{space}/{split}" for space in data.spaces for split in ("train", "held-out")]:
        space, _, split = name.partition("/")
        if (arrays := data.caches[space].stored(split)) is not None:
            kept[name] = arrays
    found = set(agreement.from_first(lambda: sorted(kept)))
    lacking = {
        split: [space for space in data.spaces if f"{space}/{split}" not in found] for split in ("train", "held-out")
    }
    new = _read_train(data, lacking["train"], on_progress)
    kept |= _stored(data, "train", new)
    classifier = _restored(data, kept.get("classifier/train"))
    hosts.gather("")  # the others wait here, and not at the devices
    kept |= _stored(data, "held-out", _read_held_out(data, lacking["held-out"], classifier, others, on_progress))
    sets = {split: _image_set(kept, split) for split in ("train", "held-out")} if hosts.is_first() else {}
    nothing = ImageSet(np.zeros((0, 0), np.float32))
    reference = Reference(
        sets.get("train", nothing),
        sets.get("held-out", nothing),
        data.num_classes,
        None if classifier is None else classifier.fingerprint,
        None if data.network is None else data.network.fingerprint,
        {space: data.caches[space].keep for space in SPACES},
    )
    return reference, classifier


def _stored(data: RealImages, split: str, new: Mapping[str, Arrays]) -> dict[str, Arrays]:
    for space, arrays in new.items():
        data.caches[space].store(split, arrays)
    return {f"{space}/{split}": arrays for space, arrays in new.items()}


def _image_set(kept: Mapping[str, Arrays], split: str) -> ImageSet:
    pixels, classified, extracted = (kept.get(f"{space}/{split}", {}) for space in SPACES)
    network = None
    if extracted:
        network = inception.Features(extracted["pooled"], extracted.get("logits", np.zeros((0, 1008), np.float32)))
    return ImageSet(
        pixels["pixels"], pixels.get("labels"), classified.get("features"), classified.get("predicted"), network
    )


def _restored(data: RealImages, arrays: Arrays | None) -> Classifier | None:
    if arrays is None:
        return None
    variables = {name.removeprefix("variables/"): x for name, x in arrays.items() if name.startswith("variables/")}
    return features.restored_classifier(
        variables, data.num_classes, data.settings.classifier, str(arrays["fingerprint"])
    )


def _read_train(data: RealImages, lacking: Sequence[str], on_progress: OnProgress) -> dict[str, Arrays]:
    """Reads the training images for the spaces that lack their features; the first process needs them all."""
    count = num_images(data.train)
    first, new = hosts.is_first(), {}
    pixels = _pixel_stream(data, count, classifier=False) if first and "pixels" in lacking else None
    training = None
    if first and "classifier" in lacking:
        shape = (count, *data.train.image_shape)
        training = TrainingImages(shape, data.num_classes, data.settings.classifier)
    extraction = _extraction(data, count) if "inception" in lacking else None
    _read(data.train, [pixels, training, extraction], "reading training images", on_progress)
    if pixels is not None:
        new["pixels"] = _pixel_arrays(pixels.image_set(None))
    if training is not None:
        on_progress("training the classifier", 0, 1)
        new["classifier"] = _classifier_arrays(training)
        on_progress("training the classifier", 1, 1)
    if extraction is not None:
        new["inception"] = {"pooled": extraction.features().pooled}
    return new


def _read_held_out(
    data: RealImages,
    lacking: Sequence[str],
    classifier: Classifier | None,
    others: Sequence[Consumer],
    on_progress: OnProgress,
) -> dict[str, Arrays]:
    """Reads the held-out images, if anything lacks features of them or takes them for another reason."""
    count, new = num_images(data.held_out), {}
    reduces = hosts.is_first() and ("pixels" in lacking or "classifier" in lacking)
    pixels = _pixel_stream(data, count) if reduces else None
    extraction = _extraction(data, count) if "inception" in lacking else None
    _read(data.held_out, [pixels, extraction, *others], "reading held-out images", on_progress)
    if pixels is not None:
        images = pixels.image_set(classifier)
        new["pixels"] = _pixel_arrays(images)
        if images.classifier is not None and images.predicted is not None:
            new["classifier"] = {"features": images.classifier, "predicted": images.predicted}
    if extraction is not None:
        new["inception"] = extraction.features()._asdict()
    return new


def _read(data: Dataset, consumers: Sequence[Consumer | None], name: str, on_progress: OnProgress) -> None:
    present = [consumer for consumer in consumers if consumer is not None]
    if not present:
        return
    done, count = 0, num_images(data)
    on_progress(name, 0, count)
    for batch in read_batches(data, limit=EVALUATION_IMAGES):
        for consumer in present:
            consumer.add(batch["image"], batch.get("label"))
        done += len(batch["image"])
        on_progress(name, done, count)


def _pixel_stream(data: RealImages, count: int, *, classifier: bool = True) -> PixelStream:
    max_side = data.settings.classifier.max_side if data.num_classes and classifier else None
    return PixelStream(count, max_features=data.settings.max_pixel_features, max_side=max_side)


def _extraction(data: RealImages, count: int) -> Extraction | None:
    return None if data.network is None else Extraction(data.network, count=count, mesh=data.mesh)


def _pixel_arrays(images: ImageSet) -> Arrays:
    return {"pixels": images.pixels} | ({} if images.labels is None else {"labels": images.labels})


def _classifier_arrays(training: TrainingImages) -> Arrays:
    classifier = training.train()
    activations, logits = features.classify(classifier, training.inputs)
    variables = {f"variables/{name}": leaf for name, leaf in trees.named_leaves(classifier.variables).items()}
    fingerprint = {"fingerprint": np.array(classifier.fingerprint)}
    return {"features": activations, "predicted": logits.argmax(axis=1)} | fingerprint | variables
