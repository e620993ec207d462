"""Data: sources of images by name, and the host pipeline that turns them into training batches."""

from jaxgen.data.dataset import ENDLESS, Dataset, Example, Examples
from jaxgen.data.loading import facts, load
from jaxgen.data.pipeline import read_arrays, subset_indices, train_batches

__all__ = [
    "ENDLESS",
    "Dataset",
    "Example",
    "Examples",
    "facts",
    "load",
    "read_arrays",
    "subset_indices",
    "train_batches",
]
