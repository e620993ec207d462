"""`launch.py import` of a network that gives features: official weights into a directory that `evaluate` reads."""

from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core import trees
from jaxgen.evaluation import inception
from jaxgen.interop.files import read_state_dict
from jaxgen.interop.state_dict import to_params
from jaxgen.training.durability.whole_files import whole_directory

_OF_MODELS = ("config", "image_shape", "num_classes", "autoencoder")  # flags that say what generates, and what


def main(format: ModuleType, directory: Path, flags: Any) -> int:
    """Runs the command for such a format; returns the exit code.

    Raises:
      ValueError: if flags say what cannot be said of such a network, or the weights are not those of the format.
    """
    for name in _OF_MODELS:
        if getattr(flags, name) is not None:
            raise ValueError(f"--format={flags.format} is of a network that generates nothing: leave --{name} out.")
    network = format.NETWORK()
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8)))
    weights = read_state_dict(Path(flags.weights), entry=flags.entry)
    variables = to_params(weights, target, lambda name: format.official_name(name, network), ignore=format.IGNORED)
    with whole_directory(directory) as unfinished:
        inception.save(unfinished, variables)
    print(f"{directory} holds {type(network).__name__} with {trees.count(variables):,} numbers of {flags.weights}.")
    print("Try next:")
    print(f"  python launch.py evaluate --workdir=RUN --config.evaluate.inception={directory}")
    return 0
