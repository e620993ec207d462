"""Features to compare images in: raw pixels, and a small classifier trained on the data itself.

Inception features say little about 8x8 digits; a classifier of the data at hand is the small-image counterpart
(Bińkowski et al. 2018 do the same with LeNet features on MNIST).
"""

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped, UInt

from jaxgen.core import keys
from jaxgen.core.images import levels_of
from jaxgen.evaluation.streams import FilledArray

BATCH = 256
"""Images that are worked on at a time."""


class ClassifierSettings(NamedTuple):
    """The architecture and the training of the classifier; with the data, they determine the features completely.

    Attributes:
      width: channels of the first convolution; doubled at each halving of the image, up to 4 times.
      num_features: size of the penultimate layer.
      max_side: larger images are averaged down until no side exceeds this many pixels.
      training_steps: optimizer updates.
      batch_size: images an update, drawn with replacement.
      learning_rate: peak of the one-cycle schedule of AdamW.
      seed: of weights, batches and shifts.
    """

    width: int = 32
    num_features: int = 64
    max_side: int = 32
    training_steps: int = 600
    batch_size: int = 128
    learning_rate: float = 3e-3
    seed: int = 0


class ConvClassifier(nn.Module):
    """3x3 convolutions that halve the image down to 3 pixels or fewer, one hidden layer, class logits."""

    num_classes: int
    width: int
    num_features: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> tuple[Float[Array, "b f"], Float[Array, "b k"]]:
        """Returns the activations of the hidden layer, and logits, of images in [-1, 1]."""
        x = nn.relu(nn.Dense(self.width)(_neighborhoods(images, stride=1)))
        width = self.width
        while max(x.shape[1:3]) > 3:
            width = min(2 * width, 4 * self.width)
            x = nn.relu(nn.Dense(width)(_neighborhoods(x, stride=2)))
        features = nn.relu(nn.Dense(self.num_features)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.num_classes)(features)


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
      network: maps float images to features and logits.
      variables: its parameters.
      max_side: images are averaged down to this before they are given to the network.
      fingerprint: a hash of all that determines it: data, architecture, training settings, seed.
    """

    network: ConvClassifier
    variables: PyTree
    max_side: int
    fingerprint: str


def average_down(images: UInt[np.ndarray, "n h w c"], factor: int) -> Float[np.ndarray, "n hs ws c"]:
    """Returns means over factor x factor blocks (the last ones of a side may be smaller), float32 levels."""
    _, height, width, _ = images.shape
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    areas = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))[..., None].astype(np.float32)

    def average(part: UInt[np.ndarray, "m h w c"]) -> Float[np.ndarray, "m hs ws c"]:
        return np.add.reduceat(np.add.reduceat(part, rows, axis=1, dtype=np.float32), columns, axis=2) / areas

    # In parts, since large images as floats would not fit where their averages do.
    return np.concatenate([average(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def pixel_factor(image_shape: tuple[int, ...], max_features: int) -> int:
    """Returns the smallest block side whose averages leave at most `max_features` numbers of an image."""
    height, width, channels = image_shape
    factor = 1
    while math.ceil(height / factor) * math.ceil(width / factor) * channels > max(max_features, channels):
        factor += 1
    return factor


def pixel_features(images: UInt[np.ndarray, "n h w c"], *, max_features: int = 1024) -> Float[np.ndarray, "n d"]:
    """Returns flattened pixels in [0, 1]; images of more than `max_features` numbers are averaged over blocks first."""
    averaged = average_down(images, pixel_factor(images.shape[1:], max_features))
    return averaged.reshape(len(images), -1) / np.float32(levels_of(images.dtype) - 1)


def classifier_inputs(images: UInt[np.ndarray, "n h w c"], max_side: int) -> Float[np.ndarray, "n hs ws c"]:
    """Returns images as the classifier takes them: averaged down to `max_side` pixels a side at most, in [-1, 1]."""
    half = np.float32(0.5 * (levels_of(images.dtype) - 1))
    return average_down(images, classifier_factor(images.shape[1:], max_side)) / half - np.float32(1)


def classifier_factor(image_shape: tuple[int, ...], max_side: int) -> int:
    """Returns the side of the blocks that are averaged for the classifier."""
    return math.ceil(max(image_shape[:2]) / max_side)


class TrainingImages:
    """The images that the classifier is trained on, which come batch by batch: averaged down, with a hash of them."""

    def __init__(self, shape: tuple[int, int, int, int], num_classes: int, settings: ClassifierSettings) -> None:
        """Takes the shape of all images, [n, h, w, c], their number of classes, and the settings of the training."""
        self._num_classes, self._settings = num_classes, settings
        self._network = ConvClassifier(num_classes, settings.width, settings.num_features)
        self._digest = hashlib.sha256(f"{shape} {self._network!r} {settings!r}".encode())
        self._inputs, self._labels = FilledArray(shape[0]), FilledArray(shape[0])

    def add(self, images: UInt[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Takes the next images.

        Raises:
          ValueError: if there are no labels, or they do not lie in [0, num_classes).
        """
        if labels is None:
            raise ValueError(f"The data has {self._num_classes} classes, so its images must come with labels.")
        if labels.min() < 0 or labels.max() >= self._num_classes:
            raise ValueError(
                f"Labels must lie in [0, {self._num_classes}), and they reach {labels.min()} and {labels.max()}."
            )
        self._inputs.add(classifier_inputs(images, self._settings.max_side))
        self._labels.add(labels.astype(np.int32))
        self._digest.update(np.ascontiguousarray(images).data)

    @property
    def inputs(self) -> Float[np.ndarray, "n hs ws c"]:
        """The images as the classifier takes them, once all of them have come."""
        return self._inputs.whole()

    def train(self) -> Classifier:
        """Trains the classifier on all images."""
        labels = self._labels.whole()
        key = keys.stream(keys.root_key(self._settings.seed), "classifier")
        variables = jax.device_get(_fit(key, self._network, self._settings, self.inputs, labels))
        digest = self._digest.copy()
        digest.update(labels.tobytes())
        return Classifier(self._network, variables, self._settings.max_side, digest.hexdigest()[:16])


def restored_classifier(
    arrays: Mapping[str, Shaped[np.ndarray, "..."]], num_classes: int, settings: ClassifierSettings, fingerprint: str
) -> Classifier:
    """Returns the classifier of parameters by their names, such as `core.trees.named_leaves` gives."""
    network = ConvClassifier(num_classes, settings.width, settings.num_features)
    variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
    return Classifier(network, variables, settings.max_side, fingerprint)


def classify(
    classifier: Classifier, inputs: Float[np.ndarray, "n hs ws c"]
) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n k"]]:
    """Returns penultimate features and class logits of images that are given as `classifier_inputs`."""
    features, logits = [], []
    for start in range(0, len(inputs), BATCH):
        batch = inputs[start : start + BATCH]
        padded = np.pad(batch, ((0, BATCH - len(batch)), (0, 0), (0, 0), (0, 0)))  # one shape, one compilation
        outputs = jax.device_get(_apply(classifier.network, classifier.variables, padded))
        features.append(outputs[0][: len(batch)])
        logits.append(outputs[1][: len(batch)])
    return np.concatenate(features), np.concatenate(logits)


def _neighborhoods(x: Float[Array, "b h w c"], *, stride: int) -> Float[Array, "b hs ws c9"]:
    """Returns the 3x3 patch around every pixel, zero-padded and flattened into channels: Dense on it is a convolution.

    In this form training in one `lax.scan` is tens of times faster on CPU, where XLA runs convolutions inside a loop
    on one thread with generic code.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


_apply = jax.jit(lambda network, variables, images: network.apply(variables, images), static_argnums=0)


@jax.jit(static_argnums=(1, 2))
def _fit(
    key: Key[Array, ""],
    network: ConvClassifier,
    settings: ClassifierSettings,
    images: Float[Array, "n h w c"],
    labels: Int[Array, " n"],
) -> PyTree:
    """Does all updates in one `lax.scan`, since on small images the dispatch of a step costs more than the step."""
    schedule = optax.cosine_onecycle_schedule(settings.training_steps, settings.learning_rate)
    optimizer = optax.adamw(schedule, weight_decay=1e-2)

    def loss(variables, batch, targets):
        return optax.softmax_cross_entropy(network.apply(variables, batch)[1], targets).mean()

    def update(carry, step):
        variables, opt_state = carry
        batch, targets = _draw(keys.at_step(key, step), network.num_classes, settings.batch_size, images, labels)
        updates, opt_state = optimizer.update(jax.grad(loss)(variables, batch, targets), opt_state, variables)
        return (optax.apply_updates(variables, updates), opt_state), None

    variables = network.init(keys.stream(key, "init"), images[:1])  # only the shape counts
    carry, _ = jax.lax.scan(update, (variables, optimizer.init(variables)), jnp.arange(settings.training_steps))
    return carry[0]


def _draw(
    key: Key[Array, ""], num_classes: int, size: int, images: Float[Array, "n h w c"], labels: Int[Array, " n"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Draws a random batch, each image shifted by up to an eighth of its side, with smoothed one-hot targets."""
    chosen = jax.random.randint(keys.stream(key, "images"), (size,), 0, len(images))
    reach = max(images.shape[1:3]) // 8
    shifts = jax.random.randint(keys.stream(key, "shifts"), (size, 2), 0, 2 * reach + 1)
    padded = jnp.pad(images[chosen], ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    shifted = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), images.shape[1:]))(padded, shifts)
    return shifted, optax.smooth_labels(jax.nn.one_hot(labels[chosen], num_classes), 0.05)
