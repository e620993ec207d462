"""CPU seconds and quality of cached features: `python benchmarks/cached_features.py WORKDIR ... [--intervals 1 2 3]`.

Each directory holds a diffusion run of the digits. The same images are drawn at each `sampler.cache_interval`, in a
program that was compiled before, and scored as by benchmarks/evaluate_digits.py. It prints the table of
docs/diffusion.md.
"""

import argparse
import time
from pathlib import Path

import evaluate_digits
import jax
import jax.numpy as jnp
import numpy as np

import jaxgen
from jaxgen.core import images as image_tools
from jaxgen.core import keys

BATCH = 250


def draw(directory: Path, interval: int, number: int, seed: int) -> tuple[float, np.ndarray, np.ndarray | None]:
    """Returns the CPU time, of all threads, of drawing images, the images in uint8, and their labels."""
    run = jaxgen.open(directory, **{"sampler.cache_interval": interval})
    labels = run.labels(number)
    image_keys = keys.per_example(keys.root_key(seed), jnp.arange(number))
    variables = run.variables

    def conditions(part: slice) -> dict[str, jax.Array] | None:
        return None if labels is None else {"label": jnp.asarray(labels[part])}

    parts = [slice(start, start + BATCH) for start in range(0, number, BATCH)]
    sample = jax.jit(run.model.sample).lower(image_keys[:BATCH], variables, conditions(parts[0])).compile()
    start = time.process_time()
    found = [np.asarray(sample(image_keys[part], variables, conditions(part))) for part in parts]
    seconds = time.process_time() - start
    return seconds, np.asarray(image_tools.to_levels(np.concatenate(found), run.spec.levels)), labels


def main() -> None:
    """Prints a row for each run and interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="WORKDIR")
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--number", type=int, default=1000, help=f"images, a multiple of {BATCH}")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    reference = evaluate_digits.make_reference(evaluate_digits.load())
    print("| run | interval | CPU s | Fréchet | classes agree | recall | precision | change of a pixel |")
    print("|---|---|---|---|---|---|---|---|")
    for directory in given.runs:
        plain = None
        for interval in given.intervals:
            seconds, images, labels = draw(directory, interval, given.number, given.seed)
            pixels = images.reshape(len(images), -1) / 255
            plain = pixels if plain is None else plain
            score = evaluate_digits.evaluate_samples(reference, pixels, labels)
            figures = [score[name] for name in ("frechet", "class_agreement", "recall", "precision")]
            cells = [f"{figure:.3f}" for figure in (*figures, np.abs(pixels - plain).mean())]
            print("|", " | ".join([directory.name, str(interval), f"{seconds:.2f}", *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
