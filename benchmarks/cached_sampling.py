"""Seconds of sampling with and without caches, for the autoregressive configs: `python benchmarks/cached_sampling.py`.

Networks are untrained: the time does not depend on the weights. The images of both ways are compared, too.
"""

import argparse
import importlib
import time

import jaxgen.runs.environment

jaxgen.runs.environment.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.core import conditioning, keys  # noqa: E402
from jaxgen.core.build import build_model  # noqa: E402
from jaxgen.core.contract import GenerativeModel, ModelSpec  # noqa: E402
from jaxgen.runs.settings import parse  # noqa: E402

CONFIGS = ("pixelcnn", "gated_pixelcnn", "pixelcnnpp", "wavenet", "pixel_transformer")
SPECS = {
    "digits": ModelSpec((8, 8, 1), {"label": conditioning.classes(10)}, levels=17),
    "fashion": ModelSpec((28, 28, 1), {"label": conditioning.classes(10)}),
}


def seconds(model: GenerativeModel, number: int) -> tuple[float, np.ndarray]:
    """Returns the time of drawing a number of images, without that of compilation, and the images."""
    height, width, channels = model.spec.image_shape
    batch = {"image": jnp.zeros((1, 1, height, width, channels), jnp.uint8), "index": jnp.zeros((1, 1), jnp.int32)}
    batch |= {name: jnp.zeros((1, 1), jnp.int32) for name in model.spec.conditioning}
    params = jax.jit(model.init)(keys.root_key(0), batch).params
    cond = {name: jnp.arange(number) % 10 for name in model.spec.conditioning}
    sample = jax.jit(model.sample).lower(keys.per_example(keys.root_key(0), jnp.arange(number)), params, cond).compile()
    start = time.perf_counter()
    images = np.asarray(sample(keys.per_example(keys.root_key(0), jnp.arange(number)), params, cond))
    return time.perf_counter() - start, images


def main() -> None:
    """Prints a line for each config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=list(SPECS), default="digits")
    parser.add_argument("--number", type=int, default=100, help="images")
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    given = parser.parse_args()
    for name in given.configs:
        found = {}
        for cached in (True, False):
            config = importlib.import_module(f"configs.{name}").get_config(given.variant)
            config.sampler.cached = cached
            found[cached] = seconds(build_model(parse(config).config, SPECS[given.variant]), given.number)
        (cached_time, images), (whole_time, others) = found[True], found[False]
        equal = "the same images" if np.array_equal(images, others) else "OTHER IMAGES"
        ratio = whole_time / cached_time
        print(f"{name}: {cached_time:.2f} s cached, {whole_time:.2f} s whole, {ratio:.1f} times, {equal}", flush=True)


if __name__ == "__main__":
    main()
