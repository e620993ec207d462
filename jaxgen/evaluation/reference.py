"""Features of sets of images, and what figures need of the real ones alone, which the next evaluation need not compute.

`Keep` functions name what they compute, so that a cache can have it already.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt

from jaxgen.core.progress import OnProgress, unseen
from jaxgen.evaluation import features
from jaxgen.evaluation.frechet import Gaussian, gaussian
from jaxgen.evaluation.inception import Features
from jaxgen.evaluation.kid import self_similarity
from jaxgen.evaluation.neighbors import kth_neighbor_distances, nearest_distances
from jaxgen.evaluation.streams import FilledArray

Arrays: TypeAlias = Mapping[str, Shaped[np.ndarray, "..."]]

Keep: TypeAlias = Callable[[str, Callable[[], Arrays]], Arrays]
"""Returns the arrays of a name: those that are kept, or those that the function computes."""


def keep_nothing(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """Computes the arrays of a name."""
    del name
    return compute()


SPACES = ("pixels", "classifier", "inception")


class ImageSet(NamedTuple):
    """A set of images by its features.

    Attributes:
      pixels: `features.pixel_features`.
      labels: classes; for samples, those that were asked for. None: no classes.
      classifier: features of the classifier; None where the data has no classes.
      predicted: the classes that it predicts.
      inception: features of the Inception network; None to do without.
    """

    pixels: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None = None
    classifier: Float[np.ndarray, "n f"] | None = None
    predicted: Int[np.ndarray, " n"] | None = None
    inception: Features | None = None

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self.pixels)


class PixelStream:
    """Pixel features, labels and, where there are classes, inputs of the classifier, of images batch by batch."""

    def __init__(self, count: int, *, max_features: int, max_side: int | None) -> None:
        """Takes the number of images, and the limits of both features; None for no classifier."""
        self._max_features, self._max_side = max_features, max_side
        self._pixels, self._labels, self._inputs = FilledArray(count), FilledArray(count), FilledArray(count)
        self._labeled = False

    def add(self, images: UInt[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Takes the next images."""
        self._pixels.add(features.pixel_features(images, max_features=self._max_features))
        if self._max_side is not None:
            self._inputs.add(features.classifier_inputs(images, self._max_side))
        if labels is not None:
            self._labeled = True
            self._labels.add(labels.astype(np.int32))

    def image_set(self, classifier: features.Classifier | None) -> ImageSet:
        """Returns the features of all images, once they have come."""
        labels = self._labels.whole() if self._labeled else None
        if classifier is None:
            return ImageSet(self._pixels.whole(), labels)
        activations, logits = features.classify(classifier, self._inputs.whole())
        return ImageSet(self._pixels.whole(), labels, activations, logits.argmax(axis=1))


class Reference(NamedTuple):
    """The real images, and the classifier that was trained on them.

    Attributes:
      train: the split that the model was trained on.
      held_out: a split that it was not trained on.
      num_classes: of the data; 0 where it has none, and then there is no classifier.
      classifier: the hash of the classifier.
      inception: the hash of the Inception network.
      keep: what becomes of arrays that depend on the real images alone, by the name of their space.
    """

    train: ImageSet
    held_out: ImageSet
    num_classes: int = 0
    classifier: str | None = None
    inception: str | None = None
    keep: Mapping[str, Keep] = MappingProxyType(dict.fromkeys(SPACES, keep_nothing))


class Space(NamedTuple):
    """The three sets of images in one feature space.

    Attributes:
      name: of the space.
      description: of the features, for each figure.
      samples: their features.
      train: likewise.
      held_out: likewise.
      keep: what becomes of arrays that depend on the real images alone.
    """

    name: str
    description: dict[str, Any]
    samples: Float[np.ndarray, "n d"]
    train: Float[np.ndarray, "m d"]
    held_out: Float[np.ndarray, "l d"]
    keep: Keep = keep_nothing

    def gaussian(self, name: str) -> Gaussian:
        """Returns mean and covariance of the real images: `train`, `held_out` or `all`."""

        def compute() -> Arrays:
            sets = {"train": self.train, "held_out": self.held_out}
            return gaussian(np.concatenate([*sets.values()]) if name == "all" else sets[name])._asdict()

        return Gaussian(**self.keep(f"gaussian-{name}", compute))

    def radii(self, k: int, on_progress: OnProgress = unseen) -> Float[np.ndarray, " m"]:
        """Returns the distance of each training image to its k-th nearest other one."""

        def compute() -> Arrays:
            return {"radii": kth_neighbor_distances(self.train, k, on_progress=on_progress)}

        return self.keep(f"radii-{k}", compute)["radii"]

    def held_out_distances(self, on_progress: OnProgress = unseen) -> Float[np.ndarray, " l"]:
        """Returns the distance of each held-out image to the nearest training image."""

        def compute() -> Arrays:
            return {"distances": nearest_distances(self.held_out, self.train, on_progress=on_progress)}

        return self.keep("nearest", compute)["distances"]

    def train_similarity(self) -> float:
        """Returns `kid.self_similarity` of the training images."""

        def compute() -> Arrays:
            return {"similarity": np.array(self_similarity(self.train))}

        return float(self.keep("similarity", compute)["similarity"])

    def figures(self, name: str, compute: Callable[[], Mapping[str, float | None]]) -> Mapping[str, float | None]:
        """Returns figures of the real images alone."""

        def as_array() -> Arrays:
            return {"json": np.array(json.dumps(compute()))}

        return json.loads(str(self.keep(name, as_array)["json"]))
