"""Data: sources of images by name, and the host pipeline that turns them into training batches."""

from jaxgen.data.dataset import ENDLESS, Dataset, Example, Examples, Facts
from jaxgen.data.loading import facts, load
from jaxgen.data.pipeline import StepLayout, read_arrays, read_batches, subset_indices, train_batches

__all__ = [
    "ENDLESS",
    "Dataset",
    "Example",
    "Examples",
    "Facts",
    "StepLayout",
    "facts",
    "load",
    "read_arrays",
    "read_batches",
    "subset_indices",
    "train_batches",
]
