"""Traversals of the latents of a trained run: images in which one dimension moves at a time."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, UInt

from jaxgen.applications.latents import traversal
from jaxgen.core import images as image_tools
from jaxgen.core import keys
from jaxgen.core.contract import Posterior, require
from jaxgen.data import Dataset, read_arrays
from jaxgen.losses.divergence import kl_of_dimensions
from jaxgen.parallel import sampling
from jaxgen.runs.opened import Run

NUM_IMAGES = 1_000
"""Held-out images that divergences are means over, at most."""


class Traversal(NamedTuple):
    """Images of the latent of a held-out image, with one dimension moved in each row.

    Attributes:
      images: of the decoder.
      points: their latents.
      dimensions: of each row.
      values: that the dimension takes along a row, quantiles of N(0, 1).
      divergences: mean over held-out images of KL(q(z_j | x) || N(0, 1)) of each row's dimension, in nats; None of a
        model that does not tell its posterior.
      labels: class of the held-out image, once a row; None for an unconditional model.
    """

    images: UInt[np.ndarray, "rows steps h w c"]
    points: Float[np.ndarray, "rows steps d"]
    dimensions: Int[np.ndarray, " rows"]
    values: Float[np.ndarray, " steps"]
    divergences: Float[np.ndarray, " rows"] | None
    labels: Int[np.ndarray, " rows"] | None


def traverse(run: Run, *, dimensions: int | None = None, steps: int = 9, example: int = 0) -> Traversal:
    """Moves each dimension of a latent over the quantiles of its prior, N(0, 1), while the others stay.

    Args:
      run: of a model with `encode` and `decode`, whose latents are vectors.
      dimensions: how many, those of the largest divergences from the prior first, or the first ones where the model
        does not tell its posterior; all by default.
      steps: values of each.
      example: the number of the held-out image whose latent it is.

    Raises:
      ValueError: if the model has no such latents, or an argument is wrong.
    """
    require(run.model, "encode", "decode", by="A traversal")
    size = _dimensions(run)
    values = traversal.prior_quantiles(steps)
    count = size if dimensions is None else dimensions
    if not 1 <= count <= size:
        raise ValueError(f"{count} dimensions are to be traversed, but the latents have {size}: choose 1 to {size}.")
    data = run.data("test")
    if not 0 <= example < len(data.examples):
        last = len(data.examples) - 1
        raise ValueError(f"The held-out image {example} is asked for, but must be one of 0 to {last}.")
    own = data.examples[example]
    chosen = np.array([own["label"]], np.int32) if run.spec.num_classes else None
    latent = run.encode(own["image"][None], labels=chosen)[0]
    divergences = None if run.model.posterior is None else _divergences(run, run.model.posterior, data)
    order = np.arange(size) if divergences is None else np.argsort(-divergences, kind="stable")
    rows = order[:count]
    points = np.asarray(traversal.traverse(jnp.asarray(latent), values))[rows]
    flat = points.reshape(-1, size)
    decoded = run.decode(flat, labels=None if chosen is None else chosen.repeat(len(flat)))
    return Traversal(
        decoded.reshape(count, steps, *decoded.shape[1:]),
        points,
        rows,
        np.asarray(values),
        None if divergences is None else divergences[rows],
        None if chosen is None else chosen.repeat(count),
    )


def _dimensions(run: Run) -> int:
    shape = run.spec.latent_shape
    if shape is None or len(shape) != 1 or run.spec.latent_levels is not None:
        raise ValueError("Traversals are those of latents that are vectors of real numbers, and this model's are not.")
    return shape[0]


def _divergences(run: Run, posterior: Posterior, data: Dataset) -> Float[np.ndarray, " d"]:
    """Returns the mean over some images of KL(q(z_j | x) || N(0, 1)) of each dimension, in nats."""
    levels, images = run.spec.levels, read_arrays(data, limit=NUM_IMAGES)

    def divergence(row_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Float[Array, "n d"]:
        del row_keys
        cond = {"label": rows["label"]} if "label" in rows else None
        mean, deviation = posterior(variables, image_tools.to_float(rows["image"], levels), cond)
        return kl_of_dimensions(mean, 2.0 * jnp.log(deviation))

    rows = {name: array for name, array in images.items() if name == "image" or run.spec.num_classes}
    row_keys, mesh = keys.per_example(keys.root_key(0), jnp.arange(len(rows["image"]))), run.experiment.runner.mesh
    parts = sampling.map_batches(divergence, mesh, row_keys, run.variables, rows, batch_size=run.batch_size)
    return np.concatenate(list(parts)).mean(axis=0)
