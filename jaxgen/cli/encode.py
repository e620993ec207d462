"""`launch.py encode`: cache the latents of a trained autoencoder's data, for a model that is trained on them."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8
from ml_collections import ConfigDict

from jaxgen.cli.main import refusals
from jaxgen.core import config as configs
from jaxgen.core import images, keys
from jaxgen.core.contract import ModelSpec
from jaxgen.data import ENDLESS, Dataset, subset_indices
from jaxgen.data.sources import latents
from jaxgen.methods.vae.autoencoder_kl import PosteriorFn
from jaxgen.parallel import sampling
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen
from jaxgen.training.durability.whole_files import whole_directory
from jaxgen.training.settings import train_settings
from jaxgen.training.workdir import load_spec

ENDLESS_IMAGES = 50_000  # so many of endless data, unless the user says how many


class Coder(NamedTuple):
    """A trained autoencoder, and how to run it.

    Attributes:
      posterior: mean and standard deviation of the latents of images.
      variables: of the autoencoder.
      latent_shape: height, width, channels.
      mesh: the devices.
      batch_size: images in one call.
    """

    posterior: PosteriorFn
    variables: PyTree
    latent_shape: tuple[int, int, int]
    mesh: Mesh
    batch_size: int


class Cached(NamedTuple):
    """What was written: mean and standard deviation of each channel of the latents, and examples by split."""

    shift: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]
    num_examples: dict[str, int]


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    directory = Path(flags.workdir)
    with refusals():
        output = _output(flags)
        spec = load_spec(directory)
        coder, step = _coder(config, spec, directory, flags.step)
        data = {split: experiments.load_data(config, split) for split in ("train", "test")}
    with whole_directory(output) as unfinished:
        cached = write_splits(
            unfinished, coder, data, num_train=flags.num_samples, mirror=config.data.flip, dtype=flags.dtype
        )
        frozen.save(unfinished, config, spec, coder.variables, shift=cached.shift, scale=cached.scale)
        latents.save_facts(
            unfinished, data["train"], latent_shape=coder.latent_shape, num_examples=cached.num_examples, step=step
        )
    sizes = " and ".join(f"{count:,} {split}" for split, count in cached.num_examples.items())
    print(f"{output} holds the latents of {sizes} examples, {coder.latent_shape}, by step {step} of {directory}.")
    print(f"Train on them: python launch.py train --config=configs/latent.py --config.data.path={output}")
    return 0


def write_splits(
    directory: Path, coder: Coder, data: dict[str, Dataset], *, num_train: int | None, mirror: bool, dtype: str
) -> Cached:
    """Encodes the splits `train` and `test` into a directory.

    Args:
      directory: an empty one.
      coder: the autoencoder.
      data: its data, by split.
      num_train: how many images of the training split, a subset drawn by `data.subset_indices`; all if None, or
        `ENDLESS_IMAGES` of endless data.
      mirror: whether training images are encoded a second time mirrored, as examples of their own.
      dtype: to store, float32 or float16.
    """
    statistics = Statistics(coder.latent_shape[-1])
    train = _encode(coder, data["train"], limit=num_train, mirror=mirror)
    test = _encode(coder, data["test"], limit=None, mirror=False)
    for split, encoded in (("train", train), ("test", test)):
        batches = statistics.watch(encoded.batches) if split == "train" else encoded.batches
        latents.save_moments(
            directory / split, batches, count=len(encoded.label), latent_shape=coder.latent_shape, dtype=dtype
        )
        latents.save_labels(directory / split, encoded.label)
    return Cached(*statistics.shift_and_scale(), {"train": len(train.label), "test": len(test.label)})


class Encoded(NamedTuple):
    """Moments [b, h, w, 2c] to come, and the labels, which are known once these have come."""

    batches: Iterator[np.ndarray]
    label: Int[np.ndarray, " n"]


def _encode(coder: Coder, data: Dataset, *, limit: int | None, mirror: bool) -> Encoded:
    chosen = subset_indices(data, limit or (ENDLESS_IMAGES if len(data.examples) == ENDLESS else None))
    count = len(chosen)
    passes = (False, True) if mirror else (False,)
    label = np.zeros(count * len(passes), np.int32)

    def moments(sample_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Float[Array, "n h w _"]:
        del sample_keys
        return jnp.concatenate(coder.posterior(variables, images.to_float(rows["image"])), axis=-1)

    def batches() -> Iterator[np.ndarray]:
        unused_keys = keys.per_example(keys.root_key(0), jnp.arange(count))
        for i, mirrored in enumerate(passes):
            reader = Reader(data, chosen, label[i * count : (i + 1) * count], mirrored)
            yield from sampling.map_batches(
                moments, coder.mesh, unused_keys, coder.variables, {"image": reader}, batch_size=coder.batch_size
            )

    return Encoded(batches(), label)


@dataclasses.dataclass(frozen=True)
class Reader:
    """Images that are read when they are asked for, as an array in the place of which it stands; notes their labels.

    Attributes:
      data: what to read.
      chosen: which of its examples stand at 0, 1, ...
      label: where their labels are noted.
      mirrored: whether the images are.
    """

    data: Dataset
    chosen: Sequence[int] | Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    mirrored: bool = False

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> UInt8[np.ndarray, "b h w c"]:
        examples = self.data.examples.__getitems__([int(self.chosen[index]) for index in indices])
        if self.data.num_classes:
            self.label[indices] = [example["label"] for example in examples]
        batch = np.stack([example["image"] for example in examples])
        return batch[:, :, ::-1] if self.mirrored else batch


class Statistics:
    """Sums over the latents that pass by, for their mean and variance: that of the means, and the mean variance."""

    def __init__(self, channels: int) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(channels), np.zeros(channels)

    def watch(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Lets batches of moments [b, h, w, 2c] pass."""
        for batch in batches:
            mean, std = np.split(batch.astype(np.float64), 2, axis=-1)
            self._count += mean[..., 0].size
            self._sum += mean.sum(axis=(0, 1, 2))
            self._squares += (mean**2 + std**2).sum(axis=(0, 1, 2))
            yield batch

    def shift_and_scale(self) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Mean and standard deviation of each channel."""
        shift = self._sum / self._count
        return shift.astype(np.float32), np.sqrt(self._squares / self._count - shift**2).astype(np.float32)


def _coder(config: ConfigDict, spec: ModelSpec, directory: Path, step: int | None) -> tuple[Coder, int]:
    module = configs.resolve("jaxgen.methods", config.method, where="method")
    if not hasattr(module, "make_posterior"):
        raise ValueError(
            f"The run in --workdir is of the method {config.method}, which has no latents to cache: train an "
            "autoencoder first, as in configs/autoencoder_kl.py."
        )
    experiment = experiments.build(config, spec)
    variables, step = experiments.load_variables(experiment, train_settings(config), directory, step)
    shape = experiment.model.spec.latent_shape
    assert shape is not None
    assert len(shape) == 3
    mesh, batch_size = experiment.runner.mesh, sampling.sample_settings(config).batch_size
    return Coder(module.make_posterior(config, spec), variables, shape, mesh, batch_size), step


def _output(flags: Any) -> Path:
    if flags.output is None:
        raise ValueError("encode needs --output=DIR, the directory to make.")
    if flags.num_samples is not None and flags.num_samples < 1:
        raise ValueError(f"--num_samples is {flags.num_samples}, but must be at least 1.")
    output = Path(flags.output)
    if output.exists():
        raise ValueError(f"{output} exists already: choose another --output, or remove it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another --output.") from error
    return output
