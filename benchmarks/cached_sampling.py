"""CPU seconds of sampling with and without caches, for autoregressive models: `python benchmarks/cached_sampling.py`.

Networks are untrained: the time does not depend on the weights. The images of both ways are compared, too. The section
"Cached sampling" of docs/results.md is written anew.
"""

import argparse
import os
import time
from typing import NamedTuple

from results_page import wrapped, write_section

import jaxgen.runs.environment

jaxgen.runs.environment.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.core import conditioning, keys  # noqa: E402
from jaxgen.core.build import build_model  # noqa: E402
from jaxgen.core.contract import GenerativeModel, ModelSpec  # noqa: E402
from jaxgen.runs import config_files  # noqa: E402
from jaxgen.runs.settings import parse  # noqa: E402

CONFIGS = ("pixelcnn", "gated_pixelcnn", "pixelcnnpp", "wavenet", "pixel_transformer")
SPECS = {
    "digits": ModelSpec((8, 8, 1), {"label": conditioning.classes(10)}, levels=17),
    "fashion": ModelSpec((28, 28, 1), {"label": conditioning.classes(10)}),
}


class Row(NamedTuple):
    """The CPU seconds of one model, and whether both ways drew the same images."""

    name: str
    cached: float
    uncached: float
    equal: bool


def seconds(model: GenerativeModel, number: int) -> tuple[float, np.ndarray]:
    """Returns the CPU time, of all threads, of drawing images in a compiled program, and the images."""
    height, width, channels = model.spec.image_shape
    batch = {"image": jnp.zeros((1, 1, height, width, channels), jnp.uint8), "index": jnp.zeros((1, 1), jnp.int32)}
    batch |= {name: jnp.zeros((1, 1), jnp.int32) for name in model.spec.conditioning}
    params = jax.jit(model.init)(keys.root_key(0), batch).params
    cond = {name: jnp.arange(number) % 10 for name in model.spec.conditioning}
    image_keys = keys.per_example(keys.root_key(0), jnp.arange(number))
    sample = jax.jit(model.sample).lower(image_keys, params, cond).compile()
    start = time.process_time()
    images = np.asarray(sample(image_keys, params, cond))
    return time.process_time() - start, images


def measure(name: str, variant: str, number: int) -> Row:
    """Draws the same images with caches and without."""
    found = {}
    for cached in (True, False):
        config = parse(config_files.config(f"{name}:{variant}", **{"sampler.cached": cached})).config
        found[cached] = seconds(build_model(config, SPECS[variant]), number)
    (cached_time, images), (uncached_time, others) = found[True], found[False]
    return Row(f"{name}:{variant}", cached_time, uncached_time, np.array_equal(images, others))


def table(rows: list[Row], number: int, command: str, hardware: str) -> str:
    """Returns the section of the page."""
    about = f"""Made by `{command}`: {hardware}; CPU seconds, of all threads, of drawing {number} images with the caches
      of `jaxgen/autoregressive` and without, compiled before, float32, untrained weights, one run each."""
    lines = ["| model | cached, CPU s | uncached, CPU s | ratio | images |", "|---|---|---|---|---|"]
    for row in rows:
        equal = "the same, bit for bit" if row.equal else "OTHERS"
        ratio = row.uncached / row.cached
        lines.append(f"| {row.name} | {row.cached:.2f} | {row.uncached:.2f} | {ratio:.1f} | {equal} |")
    return "\n".join([wrapped(about), "", *lines])


def main() -> None:
    """Prints a line for each config, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=list(SPECS), default="digits")
    parser.add_argument("--number", type=int, default=100, help="images")
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core CPU", help="named in the results, in general")
    given = parser.parse_args()
    rows = []
    for name in given.configs:
        rows.append(measure(name, given.variant, given.number))
        print(rows[-1], flush=True)
    options = {"variant": given.variant, "number": given.number} | (
        {} if tuple(given.configs) == CONFIGS else {"configs": " ".join(given.configs)}
    )
    command = " ".join(["python benchmarks/cached_sampling.py", *(f"--{name} {it}" for name, it in options.items())])
    write_section("Cached sampling", table(rows, given.number, command, given.hardware))


if __name__ == "__main__":
    main()
