"""A data set of two classes and the settings of a classifier for it: shared by the tests, so as to compile it once."""

import numpy as np

from jaxgen.evaluation.features import ClassifierSettings

TINY = ClassifierSettings(width=4, num_features=8, training_steps=60, batch_size=16)


def halves(seed, count):
    """Noisy images, bright on the left (class 0) or on the right (class 1), and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 8, 8, 1)).astype(np.uint8)
    images[labels == 0, :, :4] += 150
    images[labels == 1, :, 4:] += 150
    return images, labels
