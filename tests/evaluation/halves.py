"""A data set of two classes and the settings of a classifier for it: shared by the tests, so as to compile it once."""

from typing import NamedTuple

import numpy as np

from jaxgen.evaluation import report
from jaxgen.evaluation.features import ClassifierSettings, TrainingImages
from jaxgen.evaluation.reference import PixelStream, Reference

TINY = ClassifierSettings(width=4, num_features=8, training_steps=60, batch_size=16)


class LabeledImages(NamedTuple):
    """Images and their classes; None: no classes."""

    images: np.ndarray
    labels: np.ndarray | None = None


def halves(seed, count):
    """Noisy images, bright on the left (class 0) or on the right (class 1), and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 8, 8, 1)).astype(np.uint8)
    images[labels == 0, :, :4] += 150
    images[labels == 1, :, 4:] += 150
    return images, labels


def features_of(split, settings, classifier=None, inception=None):
    """The features of images that come in two parts."""
    max_side = None if classifier is None else settings.classifier.max_side
    stream = PixelStream(len(split.images), max_features=settings.max_pixel_features, max_side=max_side)
    half = len(split.images) // 2
    for part in (slice(0, half), slice(half, None)):
        stream.add(split.images[part], None if split.labels is None else split.labels[part])
    return stream.image_set(classifier)._replace(inception=inception)


def figures_of(samples, train, held_out, *, num_classes, settings, inception=None, **options):
    """The figures of arrays of images; `inception` are the features of the three sets."""
    classifier = None
    if num_classes:
        training = TrainingImages(train.images.shape, num_classes, settings.classifier)
        training.add(*train)
        classifier = training.train()
    sets = [
        features_of(split, settings, classifier, None if inception is None else inception[i])
        for i, split in enumerate((samples, train, held_out))
    ]
    fingerprint = None if classifier is None else classifier.fingerprint
    reference = Reference(*sets[1:], num_classes, fingerprint, None if inception is None else "hash")
    return report.evaluate(sets[0], reference, image_shape=train.images.shape[1:], settings=settings, **options)
