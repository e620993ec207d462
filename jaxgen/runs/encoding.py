"""The cache of the latents of a trained autoencoder's data, for a model that is trained on them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxgen.core import images, keys, paths
from jaxgen.core.contract import GenerativeModel
from jaxgen.core.latents import ROLE, Kind, encoder_of, map_shape
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
      values: `(variables, images) -> values`, those that are cached for images.
      variables: of the autoencoder.
      latent_shape: height, width, channels.
      mesh: the devices.
      batch_size: images in one call.
      kind: of the values.
      latent_levels: of codes, the number of their values.
      pixel_levels: of images, `ModelSpec.levels` of the autoencoder.
    """

    values: Callable[[PyTree, Array], Array]
    variables: PyTree
    latent_shape: tuple[int, int, int]
    mesh: Mesh
    batch_size: int
    kind: Kind = "moments"
    latent_levels: int | None = None
    pixel_levels: int | None = None


class Cached(NamedTuple):
    """Facts of the cache: mean and standard deviation of each channel of the latents, number of examples by split.

    Codes have no such statistics: 0 and 1 stand for them.
    """

    shift: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]
    num_examples: dict[str, int]


class Encoded(NamedTuple):
    """The number of examples of each split, the shape of a latent, the step of the autoencoder, and the kind."""

    num_examples: dict[str, int]
    latent_shape: tuple[int, int, int]
    step: int
    kind: Kind


def encode(
    run: Run,
    output: Path,
    *,
    num_train: int | None = None,
    dtype: Literal["float32", "float16"] | None = None,
    numbers: bool = False,
    say: Say = silent,
) -> Encoded:
    """Caches the latents of both splits of a run's data in a new directory.

    They are codes, of a tokenizer, or mean and standard deviation of a posterior or, without one, the numbers alone.

    Args:
      run: of an autoencoder.
      output: the directory to make.
      num_train: how many images of the training split, at most; see `write_splits`.
      dtype: of the latents in the files, float32 if None; codes have the smallest type of integers that holds them.
      numbers: whether those of a tokenizer before quantization are cached in the place of codes.
      say: takes the faulty examples that are skipped.

    Raises:
      RefusedError: if the run is of no autoencoder, the data cannot be had, or the directory is taken.
    """
    with agreed():
        output = paths.expanded(output)
        _check_free(output)
        if num_train is not None and num_train < 1:
            raise ValueError(f"The number of training images is {num_train}, but must be at least 1.")
        _check_autoencoder(run)
        config, mesh = run.config, run.experiment.runner.mesh
        encoder = make_encoder(run.model, run.variables, mesh, run.batch_size, numbers=numbers)
        if encoder.latent_levels is not None and dtype is not None:
            raise ValueError(f"--dtype is {dtype}, but has no effect on codes, which are integers: leave it out.")
        faults = {split: experiments.make_faults(run.settings, split, say=say) for split in ("train", "test")}
        data = {split: experiments.load_data(run.settings, split, faults[split]) for split in faults}
    with whole_directory(output) as unfinished:
        kept_as = "float32" if dtype is None else dtype
        cached = write_splits(unfinished, encoder, data, num_train=num_train, mirror=config.data.flip, dtype=kept_as)
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
            kind=encoder.kind,
            latent_levels=encoder.latent_levels,
        )
    return Encoded(cached.num_examples, encoder.latent_shape, run.step, encoder.kind)


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
    statistics = LatentStatistics(encoder.latent_shape[-1], encoder.kind)
    if encoder.latent_levels is not None:
        dtype = np.min_scalar_type(encoder.latent_levels - 1).name
    train = _encode(encoder, data["train"], limit=num_train, mirror=mirror)
    test = _encode(encoder, data["test"], limit=None, mirror=False)
    for split, encoded in (("train", train), ("test", test)):
        batches = statistics.watch(encoded.batches) if split == "train" else encoded.batches
        latents.save_values(
            directory / split,
            batches,
            count=len(encoded.label),
            latent_shape=encoder.latent_shape,
            dtype=dtype,
            kind=encoder.kind,
        )
        latents.save_labels(directory / split, encoded.label)
    return Cached(*statistics.shift_and_scale(), {"train": len(train.label), "test": len(test.label)})


class _Values(NamedTuple):
    """Batches of values [b, h, w, ...], computed when iterated over, and the labels, which are complete afterwards."""

    batches: Iterator[np.ndarray]
    label: Int[np.ndarray, " n"]


def _encode(encoder: Encoder, data: Dataset, *, limit: int | None, mirror: bool) -> _Values:
    chosen = subset_indices(data, limit or (ENDLESS_IMAGES if len(data.examples) == ENDLESS else None))
    count = len(chosen)
    passes = (False, True) if mirror else (False,)
    label = np.zeros(count * len(passes), np.int32)

    def values(sample_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Shaped[Array, "n h w _"]:
        del sample_keys
        found = encoder.values(variables, images.to_float(rows["image"], encoder.pixel_levels))
        return found.reshape(len(found), *encoder.latent_shape[:2], -1)

    def batches() -> Iterator[np.ndarray]:
        unused_keys = keys.per_example(keys.root_key(0), jnp.arange(count))
        for i, mirrored in enumerate(passes):
            reader = Reader(data, chosen, label[i * count : (i + 1) * count], mirrored)
            yield from sampling.map_batches(
                values, encoder.mesh, unused_keys, encoder.variables, {"image": reader}, batch_size=encoder.batch_size
            )

    return _Values(batches(), label)


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

    def __init__(self, channels: int, kind: Kind = "moments") -> None:
        self._count, self._sum, self._squares, self._kind = 0, np.zeros(channels), np.zeros(channels), kind

    def watch(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields batches of values [b, h, w, ...] unchanged, and adds them to the sums."""
        for batch in batches:
            numbers = batch.astype(np.float64)
            mean, std = np.split(numbers, 2, axis=-1) if self._kind == "moments" else (numbers, np.zeros(()))
            self._count += mean[..., 0].size
            self._sum += mean.sum(axis=(0, 1, 2))
            self._squares += (mean**2 + std**2).sum(axis=(0, 1, 2))
            yield batch

    def shift_and_scale(self) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Returns mean and standard deviation of each channel; 0 and 1 of codes."""
        if self._kind == "codes":
            return np.zeros_like(self._sum, np.float32), np.ones_like(self._sum, np.float32)
        shift = self._sum / self._count
        return shift.astype(np.float32), np.sqrt(self._squares / self._count - shift**2).astype(np.float32)


def make_encoder(
    model: GenerativeModel, variables: PyTree, mesh: Mesh, batch_size: int, *, numbers: bool = False
) -> Encoder:
    """Returns the encoder of an autoencoder, to codes, moments or numbers; the arguments are as of `Encoder`, `encode`.

    Raises:
      ValueError: if the model has no such latents, or is conditional.
    """
    spec = model.spec
    if numbers and spec.latent_levels is None:
        raise ValueError("Latents that are no codes are numbers already: leave --numbers out.")
    needed = [name for name, condition in spec.conditioning.items() if not condition.null]
    if needed:
        raise ValueError(
            f"The latents of this model depend on {', '.join(needed)}, which a model of them would not know: train the "
            "autoencoder without conditions."
        )
    kind = _kind(model, numbers)
    height, width, channels = map_shape(spec)
    shape = (height, width, spec.code_dim if numbers and spec.code_dim else channels)
    levels = spec.latent_levels if kind == "codes" else None
    return Encoder(_values(model, kind), variables, shape, mesh, batch_size, kind, levels, spec.levels)


def _kind(model: GenerativeModel, numbers: bool) -> Kind:
    if model.spec.latent_levels is not None:
        return "plain" if numbers else "codes"
    return "plain" if model.posterior is None else "moments"


def _values(model: GenerativeModel, kind: Kind) -> Callable[[PyTree, Array], Array]:
    """The function from images to the values of a kind."""
    if kind == "moments":
        posterior = model.posterior
        assert posterior is not None
        return lambda variables, images: jnp.concatenate(posterior(variables, images), axis=-1)
    encode = encoder_of(model, kind)

    def values(variables: PyTree, images: Array) -> Array:
        # No encoder makes use of its keys: one that draws latents has moments.
        return encode(keys.per_example(keys.root_key(0), jnp.arange(len(images))), variables, images)

    return values


def _check_autoencoder(run: Run) -> None:
    shape = run.spec.latent_shape
    if shape is None or len(shape) not in (1, 3) or run.model.encode is None or ROLE in run.experiment.frozen:
        raise ValueError(
            f"The run in {run.directory} is of the method {run.config.method}, which has no feature maps as latents to "
            "cache, nor vectors: train an autoencoder first, as in configs/autoencoder_kl.py."
        )


def _check_free(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output} exists already: choose another --output, or remove it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another --output.") from error
