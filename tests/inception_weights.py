"""Weights of the Inception-v3 of FID that need no storing: each entry is drawn from a seed made of its name."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from golden_files import DIRECTORY

from jaxgen.interop.formats.inception import FORMAT
from jaxgen.interop.state_dict import to_params


def entries() -> dict[str, tuple[int, ...]]:
    """The shapes of the official state dict, by name."""
    with np.load(DIRECTORY / "inception.npz") as golden:
        named = [str(entry).partition(":")[::2] for entry in golden["state_dict_names"]]
    return {name: tuple(int(side) for side in shape.strip("()").split(",") if side.strip()) for name, shape in named}


def state_dict() -> dict[str, np.ndarray]:
    """The state dict whose outputs the golden file holds."""
    return {name: _draw(name, shape) for name, shape in entries().items()}


def variables() -> dict:
    """The same as variables of our network."""
    images = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    target = jax.eval_shape(lambda: FORMAT.network.init(jax.random.key(0), images))
    return to_params(state_dict(), target, FORMAT.official, ignore=FORMAT.ignored)


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) >= 2:
        values = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(("running_var", "weight")):
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = 0.1 * random.randn(*shape)
    return np.asarray(values, np.float32)
