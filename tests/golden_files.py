"""Golden files: official state dicts with inputs and outputs, images channels-last, from the directory under test."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from jaxgen.interop import state_dict
from jaxgen.interop.format import RunFormat, Target

DIRECTORY = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parent / "golden"))

TOLERANCE = 2e-4
"""The largest difference allowed to float32 outputs, in standard deviations of the official output."""


class Golden(NamedTuple):
    """Arrays by name, without their prefixes; those of rank 4 among inputs and outputs are NHWC."""

    state_dict: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def load(name: str) -> Golden:
    """Reads one file."""
    with np.load(DIRECTORY / f"{name}.npz") as file:
        weights, inputs, outputs = (_below(file, prefix) for prefix in ("param/", "input/", "output/"))
    return Golden(weights, _channels_last(inputs), _channels_last(outputs))


def variables(golden: Golden, format_: RunFormat, network: nn.Module, *inputs: Array, **options: Any) -> dict:
    """The official weights as variables of a network of ours, which could be initialized with these inputs."""
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, **options))["params"]
    part = network_part(format_, network, golden.state_dict)
    return {"params": state_dict.to_params(golden.state_dict, target, part.official, ignore=part.ignored)}


def network_part(format_: RunFormat, network: nn.Module, weights: state_dict.StateDict) -> state_dict.Part:
    """The part that fills the network of a diffusion model without an uncertainty head."""
    (part,) = format_.parts(Target("denoising.diffusion", network, {"network": {}}), weights)
    return part


def assert_parity(ours: Array, official: np.ndarray) -> None:
    """Compares two arrays of one layout."""
    assert ours.shape == official.shape
    assert np.abs(np.asarray(ours) - official).max() <= TOLERANCE * official.std()


def _below(file: np.lib.npyio.NpzFile, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}


def _channels_last(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.moveaxis(array, 1, -1) if array.ndim == 4 else array for name, array in arrays.items()}
