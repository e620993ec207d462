"""Weights of the Inception-v3 of FID, by the names of its ports to PyTorch: pytorch-fid and torch-fidelity."""

import re

from jaxgen.interop.format import ExtractorFormat
from jaxgen.nn.inception import InceptionV3

_COUNTERS = r".*\.num_batches_tracked"

_RENAMED = (
    (r"^(params|batch_stats)/", ""),
    (r"fc_bias", "fc.bias"),
    (r"/(mean|var)$", r"/running_\1"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def official_name(name: str) -> str:
    """Returns the state-dict entry of a variable of ours: `params/...`, or `batch_stats/...` for running statistics."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


FORMAT = ExtractorFormat(InceptionV3(), official_name, ignored=_COUNTERS)
