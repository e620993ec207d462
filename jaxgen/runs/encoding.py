"""The cache of the latents of a trained autoencoder's data, for a model that is trained on them."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxgen.core import images, keys, paths
from jaxgen.core.contract import Posterior
from jaxgen.data import ENDLESS, Dataset, subset_indices
from jaxgen.data.sources import latents
from jaxgen.parallel import sampling
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.opened import Run
from jaxgen.runs.refusals import agreed
from jaxgen.training.durability.whole_files import whole_directory

ENDLESS_IMAGES = 50_000  # number of images taken of endless data, unless the user gives one


class Encoder(NamedTuple):
    """The encoder of a trained autoencoder, with its variables and devices.

    Attributes:
      posterior: returns mean and standard deviation of the latents of images.
      variables: of the autoencoder.
      latent_shape: height, width, channels.
      mesh: the devices.
      batch_size: images in one call.
    """

    posterior: Posterior
    variables: PyTree
    latent_shape: tuple[int, int, int]
    mesh: Mesh
    batch_size: int


class Cached(NamedTuple):
    """Facts of the cache: mean and standard deviation of each channel of the latents, number of examples by split."""

    shift: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]
    num_examples: dict[str, int]


class Encoded(NamedTuple):
    """The number of examples of each split, the shape of a latent, and the step of the autoencoder."""

    num_examples: dict[str, int]
    latent_shape: tuple[int, int, int]
    step: int


def encode(
    run: Run,
    output: Path,
    *,
    num_train: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    say: Say = silent,
) -> Encoded:
    """Caches mean and standard deviation of the latents of both splits of a run's data in a new directory.

    Args:
      run: of an autoencoder.
      output: the directory to make.
      num_train: how many images of the training split, at most; see `write_splits`.
      dtype: of the latents in the files.
      say: takes the faulty examples that are skipped.

    Raises:
      RefusedError: if the run is of no autoencoder, the data cannot be had, or the directory is taken.
    """
    with agreed():
        output = paths.expanded(output)
        _check_free(output)
        if num_train is not None and num_train < 1:
            raise ValueError(f"The number of training images is {num_train}, but must be at least 1.")
        config, encoder = run.config, _encoder(run)
        faults = {split: experiments.make_faults(run.settings, split, say=say) for split in ("train", "test")}
        data = {split: experiments.load_data(run.settings, split, faults[split]) for split in faults}
    with whole_directory(output) as unfinished:
        cached = write_splits(unfinished, encoder, data, num_train=num_train, mirror=config.data.flip, dtype=dtype)
        home, spec = unfinished / latents.AUTOENCODER, run.experiment.spec
        window = data["train"].window
        frozen.save_autoencoder(
            home, config, spec, encoder.variables, window=window, shift=cached.shift, scale=cached.scale
        )
        latents.save_facts(
            unfinished,
            data["train"],
            latent_shape=encoder.latent_shape,
            num_examples=cached.num_examples,
            step=run.step,
        )
    return Encoded(cached.num_examples, encoder.latent_shape, run.step)


def write_splits(
    directory: Path, encoder: Encoder, data: dict[str, Dataset], *, num_train: int | None, mirror: bool, dtype: str
) -> Cached:
    """Encodes the splits `train` and `test` into a directory.

    Args:
      directory: an empty one.
      encoder: the autoencoder.
      data: its data, by split.
      num_train: how many images of the training split, a subset drawn by `data.subset_indices`; all if None, or
        `ENDLESS_IMAGES` of endless data.
      mirror: whether training images are encoded a second time mirrored, as examples of their own.
      dtype: to store, float32 or float16.
    """
    statistics = LatentStatistics(encoder.latent_shape[-1])
    train = _encode(encoder, data["train"], limit=num_train, mirror=mirror)
    test = _encode(encoder, data["test"], limit=None, mirror=False)
    for split, encoded in (("train", train), ("test", test)):
        batches = statistics.watch(encoded.batches) if split == "train" else encoded.batches
        latents.save_moments(
            directory / split, batches, count=len(encoded.label), latent_shape=encoder.latent_shape, dtype=dtype
        )
        latents.save_labels(directory / split, encoded.label)
    return Cached(*statistics.shift_and_scale(), {"train": len(train.label), "test": len(test.label)})


class _Moments(NamedTuple):
    """Batches of moments [b, h, w, 2c], computed when iterated over, and the labels, which are complete afterwards."""

    batches: Iterator[np.ndarray]
    label: Int[np.ndarray, " n"]


def _encode(encoder: Encoder, data: Dataset, *, limit: int | None, mirror: bool) -> _Moments:
    chosen = subset_indices(data, limit or (ENDLESS_IMAGES if len(data.examples) == ENDLESS else None))
    count = len(chosen)
    passes = (False, True) if mirror else (False,)
    label = np.zeros(count * len(passes), np.int32)

    def moments(sample_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Float[Array, "n h w _"]:
        del sample_keys
        return jnp.concatenate(encoder.posterior(variables, images.to_float(rows["image"])), axis=-1)

    def batches() -> Iterator[np.ndarray]:
        unused_keys = keys.per_example(keys.root_key(0), jnp.arange(count))
        for i, mirrored in enumerate(passes):
            reader = Reader(data, chosen, label[i * count : (i + 1) * count], mirrored)
            yield from sampling.map_batches(
                moments, encoder.mesh, unused_keys, encoder.variables, {"image": reader}, batch_size=encoder.batch_size
            )

    return _Moments(batches(), label)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A lazy array of images, which are read when it is indexed; their labels are then written to `label`.

    Attributes:
      data: the dataset.
      chosen: positions in the dataset of the examples 0, 1, ...
      label: the array that the labels are written to.
      mirrored: whether the images are mirrored.
    """

    data: Dataset
    chosen: Sequence[int] | Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    mirrored: bool = False

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> Shaped[np.ndarray, "b h w c"]:
        examples = self.data.examples.__getitems__([int(self.chosen[index]) for index in indices])
        if self.data.num_classes:
            self.label[indices] = [example["label"] for example in examples]
        batch = np.stack([example["image"] for example in examples])
        return batch[:, :, ::-1] if self.mirrored else batch


class LatentStatistics:
    """Running mean and variance of latents; the variance is that of the means plus the mean of the variances."""

    def __init__(self, channels: int) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(channels), np.zeros(channels)

    def watch(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields batches of moments [b, h, w, 2c] unchanged, and adds them to the sums."""
        for batch in batches:
            mean, std = np.split(batch.astype(np.float64), 2, axis=-1)
            self._count += mean[..., 0].size
            self._sum += mean.sum(axis=(0, 1, 2))
            self._squares += (mean**2 + std**2).sum(axis=(0, 1, 2))
            yield batch

    def shift_and_scale(self) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Returns mean and standard deviation of each channel."""
        shift = self._sum / self._count
        return shift.astype(np.float32), np.sqrt(self._squares / self._count - shift**2).astype(np.float32)


def _encoder(run: Run) -> Encoder:
    config = run.config
    posterior, shape = run.model.posterior, run.spec.latent_shape
    if posterior is None or shape is None or len(shape) != 3:
        raise ValueError(
            f"The run in {run.directory} is of the method {config.method}, which has no feature maps as latents to "
            "cache: train an autoencoder first, as in configs/autoencoder_kl.py."
        )
    return Encoder(posterior, run.variables, shape, run.experiment.runner.mesh, run.batch_size)


def _check_free(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output} exists already: choose another --output, or remove it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another --output.") from error
