"""Features to compare images in: raw pixels, and a small classifier trained on the data itself.

Inception features say little about 8x8 digits; a classifier of the data at hand is the small-image counterpart
(Bińkowski et al. 2018 do the same with LeNet features on MNIST).
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from jaxgen.core import keys, trees
from jaxgen.evaluation import cache

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
      fingerprint: hash of all that determines it: data, architecture, training settings, seed.
    """

    network: ConvClassifier
    variables: PyTree
    max_side: int
    fingerprint: str


def average_down(images: UInt8[np.ndarray, "n h w c"], factor: int) -> Float[np.ndarray, "n hs ws c"]:
    """Returns means over factor x factor blocks (the last ones of a side may be smaller), float32 in [0, 255]."""
    _, height, width, _ = images.shape
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    areas = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))[..., None].astype(np.float32)

    def average(part: UInt8[np.ndarray, "m h w c"]) -> Float[np.ndarray, "m hs ws c"]:
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


def pixel_features(images: UInt8[np.ndarray, "n h w c"], *, max_features: int = 1024) -> Float[np.ndarray, "n d"]:
    """Returns flattened pixels in [0, 1]; images of more than `max_features` numbers are averaged over blocks first."""
    averaged = average_down(images, pixel_factor(images.shape[1:], max_features))
    return averaged.reshape(len(images), -1) / np.float32(255)


def train_classifier(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    *,
    settings: ClassifierSettings,
    cache_dir: str | Path | None = None,
) -> Classifier:
    """Trains the classifier, or reads it from `cache_dir` if the same one was trained before.

    A damaged file in the cache is ignored with a warning, and the classifier is trained again.

    Raises:
      ValueError: if the labels do not lie in [0, num_classes).
    """
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"Labels must lie in [0, {num_classes}), and they reach {labels.min()} and {labels.max()}.")
    network = ConvClassifier(num_classes, settings.width, settings.num_features)
    fingerprint = _fingerprint(images, labels, network, settings)
    small = _inputs(images, settings.max_side)
    key = keys.stream(keys.root_key(settings.seed), "classifier")
    template = jax.eval_shape(network.init, key, small[:1])
    arrays = cache.stored(cache_dir, f"classifier-{fingerprint}")
    if arrays is None:
        arrays = trees.named_leaves(jax.device_get(_fit(key, network, settings, small, labels.astype(np.int32))))
        if cache_dir is not None:
            cache.store(cache_dir, f"classifier-{fingerprint}", arrays)
    variables = trees.map_named(lambda name, _: arrays[name], template)
    return Classifier(network, variables, settings.max_side, fingerprint)


def classify(
    classifier: Classifier, images: UInt8[np.ndarray, "n h w c"]
) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n k"]]:
    """Returns penultimate features and class logits of images."""
    features, logits = [], []
    for start in range(0, len(images), BATCH):
        batch = _inputs(images[start : start + BATCH], classifier.max_side)
        padded = np.pad(batch, ((0, BATCH - len(batch)), (0, 0), (0, 0), (0, 0)))  # one shape, one compilation
        outputs = jax.device_get(_apply(classifier.network, classifier.variables, padded))
        features.append(outputs[0][: len(batch)])
        logits.append(outputs[1][: len(batch)])
    return np.concatenate(features), np.concatenate(logits)


def _inputs(images: UInt8[np.ndarray, "n h w c"], max_side: int) -> Float[np.ndarray, "n hs ws c"]:
    factor = math.ceil(max(images.shape[1:3]) / max_side)
    return average_down(images, factor) / np.float32(127.5) - np.float32(1)


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


def _fingerprint(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    network: ConvClassifier,
    settings: ClassifierSettings,
) -> str:
    digest = hashlib.sha256(f"{images.shape} {network!r} {settings!r}".encode())
    digest.update(images.tobytes())
    digest.update(labels.astype(np.int32).tobytes())
    return digest.hexdigest()[:16]
