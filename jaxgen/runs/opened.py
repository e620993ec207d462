"""A trained run, opened to be used from Python."""

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped, UInt

from jaxgen.core import conditioning, keys, latents, paths
from jaxgen.core import images as image_tools
from jaxgen.core.contract import Decode, Encode, GenerativeModel, ModelSpec, Synthesize, TrainState, require
from jaxgen.core.images import Window
from jaxgen.core.latents import checked_latents
from jaxgen.data import Dataset
from jaxgen.parallel import sampling
from jaxgen.runs import environment, frozen
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import Config, with_settings
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.settings import parse
from jaxgen.training.checkpoint import directory_of, saved_steps
from jaxgen.training.workdir import load_class_names, load_config, load_spec, load_window

Label: TypeAlias = int | np.integer | Sequence[int] | np.ndarray | None
"""A class, several in turn, or None: all of them in turn."""

Labels: TypeAlias = Sequence[int] | np.ndarray | None
"""A class for each image; None for a model that has none, or that was trained without the classes, too."""


def open_run(directory: str | Path, *, step: int | None = None, **settings: Any) -> "Run":
    """Opens the run in a work directory.

    Args:
      directory: the work directory, which is only read.
      step: of the checkpoint to use; by default the newest whole one, also of a run that is being trained.
      **settings: values of single settings in the place of the run's own, by their path, such as
        `**{"sampler.guidance_scale": 2.0}`.

    Raises:
      ValueError: if there is no run, a setting does not exist, or the backend of JAX computes wrong.
    """
    environment.ready()
    found = paths.expanded(directory)
    return Run(found, with_settings(load_config(found), settings), step=step)


class Run:
    """A trained run: its config, its model, and the model's functions.

    The model is built and the checkpoint is read when they are first needed, so that most refusals come then, as a
    `ValueError` of one sentence. Results are functions of the arguments alone: the same call gives the same numbers.

    Attributes:
      directory: the work directory.
      batch_size: images in one call of the model's functions.
      config: all settings. They cannot be changed here: give others to `open_run`.
      settings: the same, as typed records.
    """

    def __init__(self, directory: Path, config: Config, *, step: int | None = None) -> None:
        """Makes a run of a directory and a config; `open_run` reads the latter from the directory.

        Args:
          directory: the work directory.
          config: all settings.
          step: of the checkpoint; None for the newest whole one.

        Raises:
          ValueError: if a setting of the sections that all methods share is wrong.
        """
        self.directory = paths.expanded(directory)
        self.settings = parse(config)
        self.config = self.settings.config
        self.batch_size = self.settings.sample.batch_size
        self._step = step

    def __repr__(self) -> str:
        return f"jaxgen.open({str(self.directory)!r})"

    @functools.cached_property
    def experiment(self) -> experiments.Experiment:
        """The model and its devices."""
        return experiments.build(self.settings, load_spec(self.directory), self.directory)

    @property
    def model(self) -> GenerativeModel:
        """The model, a NamedTuple of pure functions."""
        return self.experiment.model

    @property
    def spec(self) -> ModelSpec:
        """Shape of the images, and their classes."""
        return self.model.spec

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of `label`, in the order of their numbers; none if the data has none."""
        return load_class_names(self.directory)

    @functools.cached_property
    def window(self) -> Window | None:
        """The values that the levels of images stand for, in the units of the data; None if they are the units."""
        described = frozen.kept(self.directory, latents.ROLE)
        return load_window(described if described.exists() else self.directory)

    def in_units(self, images: UInt[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """Returns images such as `sample` draws in the units and the type of the data (`window`)."""
        return image_tools.to_units(images, self.window)

    @functools.cached_property
    def _restored(self) -> tuple[PyTree, int]:
        return experiments.load_variables(self.experiment, self.directory, self._step)

    @property
    def variables(self) -> PyTree:
        """The argument `variables` of the model's functions, on the devices: averages of parameters where kept."""
        return self._restored[0]

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self._restored[1]

    @property
    def is_newest(self) -> bool:
        """True if the checkpoint is the newest one, or the newest whole one where no step was asked for."""
        return self._step is None or self._step == saved_steps(directory_of(self.directory))[0]

    def restore(self) -> tuple[TrainState, int]:
        """Returns the whole state of the checkpoint, for those who train it on by `model.update`, and its step."""
        return experiments.restore(self.experiment, self.directory, self._step)

    def labels(self, count: int, label: Label = None) -> Int[np.ndarray, " n"] | None:
        """Returns the classes of `count` samples: one class, several in turn, or by default all of them in turn.

        Returns:
          int32 [count], or None if the model is unconditional.

        Raises:
          ValueError: if the model does not have a class, or has none.
        """
        chosen = () if label is None else (label,) if isinstance(label, int | np.integer) else tuple(label)
        return sampling.balanced_labels(self.spec, count, [operator.index(item) for item in chosen])

    def sample(
        self,
        count: int,
        *,
        seed: int = 0,
        label: Label = None,
        cond: Mapping[str, Any] = MappingProxyType({}),
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> UInt[np.ndarray, "n h w c"]:
        """Draws images: uint8, or uint16 of 16-bit data, whose levels `in_units` maps to the data's values.

        Args:
          count: how many.
          seed: image i is a function of the seed, of i and of what the model is told of it.
          label: a class, or several in turn; by default all classes in turn. See `labels`.
          cond: the other conditions of `spec.conditioning` by name, each one for all images or an array [count, ...];
            null ones for those that are left out.
          on_batch: is called with the number of images done, after each batch.

        Raises:
          ValueError: if `count` is not positive, the model does not have the class or another condition, or an image is
            not finite.
        """
        drawn: list[np.ndarray] = []
        for batch in self.sample_batches(count, seed=seed, label=label, cond=cond):
            drawn.append(batch)
            on_batch(sum(map(len, drawn)))
        return np.concatenate(drawn)

    def sample_batches(
        self,
        count: int,
        *,
        seed: int = 0,
        label: Label = None,
        cond: Mapping[str, Any] = MappingProxyType({}),
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[UInt[np.ndarray, "b h w c"]]:
        """Returns an iterator over the images of `sample`, in batches that are drawn one by one.

        Args:
          count: how many there are in all; those before `start` and from `stop` on are not drawn.
          seed: as of `sample`.
          label: as of `sample`.
          cond: as of `sample`.
          start: the first image to draw.
          stop: the image before which to end; all if None.

        Raises:
          ValueError: as `sample`; what the arguments say is checked before the first batch is drawn.
        """
        if count < 1:
            raise ValueError(f"The number of samples is {count}, but must be at least 1.")
        if not 0 <= start <= (count if stop is None else stop) <= count:
            raise ValueError(f"The images from {start} to {stop} are asked for, but there are {count} samples.")
        return sampling.draw_batches(
            self.model,
            self.variables,
            self.labels(count, label),
            count=count,
            seed=seed,
            mesh=self.experiment.runner.mesh,
            batch_size=self.batch_size,
            more=self.conditions(cond, count),
            start=start,
            stop=stop,
        )

    def data(self, split: str, *, say: Say = silent) -> Dataset:
        """Returns the images that the run is of, `train` or `test`; `jaxgen.data.read_arrays` reads them into memory.

        Those of a model of latents are its autoencoder's. Faulty examples that the config skips are given to `say`.

        Raises:
          ValueError: if the data cannot be had.
        """
        faults = experiments.make_faults(self.settings, split, say=say)
        return experiments.load_pixels(self.settings, self.directory, split, faults)

    def encode(
        self, images: Shaped[np.ndarray, "..."], *, labels: Labels = None, seed: int = 0
    ) -> Shaped[np.ndarray, "n ..."]:
        """Returns the latents of images, of a model that has latents: integers if they are codes.

        Args:
          images: uint8 or, of 16-bit data, uint16 [n, h, w, c], of the shape `spec.image_shape`, as `data` has them.
          labels: their classes, where the model is conditional.
          seed: of the latents that are drawn, where the model draws them.

        Raises:
          ValueError: if the model has no latents, or the images or labels are not such.
        """
        require(self.model, "encode", by="Encoding")
        assert self.model.encode is not None
        rows = {"image": self._images(images), **self._cond(labels, len(images))}
        encode = _encoder(self.model.encode, self.spec.levels)  # type: ignore[arg-type]  # functions are hashable
        return self._map(encode, rows, key=keys.stream(keys.root_key(seed), "encode"))

    def decode(self, latents: Shaped[np.ndarray, "..."], *, labels: Labels = None) -> UInt[np.ndarray, "n h w c"]:
        """Returns the images of latents [n, ...] such as `encode` returns.

        Raises:
          ValueError: if the model cannot decode, or the latents or labels are not such.
        """
        require(self.model, "decode", by="Decoding")
        assert self.model.decode is not None
        given = self._latents(latents)
        rows = {"latent": given, **self._cond(labels, len(given))}
        decode = _decoder(self.model.decode)  # type: ignore[arg-type]  # functions are hashable
        return image_tools.to_levels(self._map(decode, rows, key=keys.root_key(0)), self.spec.levels)

    def styles(
        self, latents: Shaped[np.ndarray, "..."], *, labels: Labels = None
    ) -> Float[np.ndarray, "n layers width"]:
        """Returns the styles of latents [n, d], one for each layer, of a generator that has styles.

        Raises:
          ValueError: if the model has none, or the latents or labels are not such.
        """
        require(self.model, "styles", by="A style")
        assert self.model.styles is not None
        given = self._latents(latents)
        rows = {"latent": given, **self._cond(labels, len(given))}
        return self._map(_decoder(self.model.styles), rows, key=keys.root_key(0))  # type: ignore[arg-type]

    def synthesize(self, styles: Shaped[np.ndarray, "n layers width"]) -> UInt[np.ndarray, "n h w c"]:
        """Returns the images of styles [n, layer, style], such as `styles` returns.

        Raises:
          ValueError: if the model has no styles.
        """
        require(self.model, "synthesize", by="A style")
        assert self.model.synthesize is not None
        rows = {"style": np.asarray(styles, np.float32)}
        synthesize = _synthesizer(self.model.synthesize)  # type: ignore[arg-type]  # functions are hashable
        return image_tools.to_levels(self._map(synthesize, rows, key=keys.root_key(0)), self.spec.levels)

    def log_prob(self, images: Shaped[np.ndarray, "..."], *, labels: Labels = None) -> Float[np.ndarray, " n"]:
        """Returns log-likelihoods of images [n, h, w, c] in nats, as `encode` takes them.

        They are exact or lower bounds, as `spec.likelihood` says; `evaluate` gives their mean in bits per dimension.

        Raises:
          ValueError: if the model has no likelihood, or the images or labels are not such.
        """
        require(self.model, "log_prob", by="The likelihood")
        label = self._cond(labels, len(images)).get("label")
        mesh = self.experiment.runner.mesh
        return sampling.score_images(
            self.model, self.variables, self._images(images), label, mesh=mesh, batch_size=self.batch_size
        )

    def checked(self, images: np.ndarray, labels: Labels) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns images and their classes, or null ones, as `encode` takes them.

        Raises:
          ValueError: if they are not such.
        """
        return self._images(images), self._cond(labels, len(images)).get("label")

    def _latents(self, latents: np.ndarray) -> np.ndarray:
        given, shape = checked_latents(latents, self.spec.latent_levels), self.spec.latent_shape
        if given.ndim == 0 or len(given) == 0 or (shape is not None and given.shape[1:] != tuple(shape)):
            raise ValueError(f"The latents are of shape {given.shape}, but must be of shape {('n', *(shape or ()))}.")
        return given

    def _images(self, images: np.ndarray) -> np.ndarray:
        given, shape = np.asarray(images), tuple(self.spec.image_shape)
        dtype = image_tools.dtype_of(self.spec.levels)
        if given.dtype != dtype or given.shape[1:] != shape or len(given) == 0:
            raise ValueError(
                f"The images are {given.dtype} of shape {given.shape}, but must be {dtype} of shape {('n', *shape)}."
            )
        return given

    def conditions(self, cond: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
        """The conditions but for the class, an array [count, ...] of each."""
        if "label" in cond:
            raise ValueError("cond has 'label', but the class is given by the argument of that name.")
        given = {name: np.asarray(value) for name, value in cond.items()}
        conditioning.check_values(self.spec.conditioning, given)
        rows = {}
        for name, value in given.items():
            condition = self.spec.conditioning[name]
            each = (count, *condition.shape)
            whole = np.issubdtype(value.dtype, np.integer)
            if value.shape not in (condition.shape, each) or (condition.size and not whole):
                kind = "whole numbers" if condition.size else "numbers"
                raise ValueError(
                    f"{name!r} is {value.dtype} of shape {value.shape}, but must be {kind} of shape {condition.shape}, "
                    f"or {each} for others an image."
                )
            rows[name] = np.broadcast_to(value.astype(condition.dtype), each)
        return rows

    def _cond(self, labels: Labels, count: int) -> dict[str, np.ndarray]:
        """Returns the labels of images as conditions; for None, null conditions if the model was trained with these."""
        num_classes = self.spec.num_classes
        if labels is None and not num_classes:
            return {}
        if labels is None and self.spec.conditioning["label"].null:
            return {"label": np.full(count, num_classes, np.int32)}
        if labels is None:
            raise ValueError(f"The model is conditional: give labels, one of the {num_classes} classes an image.")
        if not num_classes:
            raise ValueError("The model is unconditional: give no labels.")
        given = np.asarray(labels)
        if given.shape != (count,) or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"The labels are {given.dtype} of shape {given.shape}, but must be {count} whole numbers.")
        if given.min() < 0 or given.max() >= num_classes:
            raise ValueError(f"The labels are from {given.min()} to {given.max()}, but must lie in [0, {num_classes}).")
        return {"label": given.astype(np.int32)}

    def _map(self, fn: Callable[..., Array], rows: dict[str, np.ndarray], *, key: Key[Array, ""]) -> np.ndarray:
        row_keys = keys.per_example(key, jnp.arange(len(next(iter(rows.values())))))
        mesh = self.experiment.runner.mesh
        batches = sampling.map_batches(fn, mesh, row_keys, self.variables, rows, batch_size=self.batch_size)
        return np.concatenate(list(batches))


# One function for each model, so that a second call of `encode` or `decode` finds the program of the first one.
@functools.lru_cache(maxsize=16)
def _encoder(encode: Encode, levels: int) -> Callable[..., Array]:
    def encode_rows(row_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        return encode(row_keys, variables, image_tools.to_float(rows["image"], levels), _conditioning(rows))

    return encode_rows


@functools.lru_cache(maxsize=16)
def _decoder(decode: Decode) -> Callable[..., Array]:
    def decode_rows(row_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        del row_keys
        return decode(variables, rows["latent"], _conditioning(rows))

    return decode_rows


@functools.lru_cache(maxsize=16)
def _synthesizer(synthesize: Synthesize) -> Callable[..., Array]:
    def synthesize_rows(row_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        del row_keys
        return synthesize(variables, rows["style"])

    return synthesize_rows


def _conditioning(rows: PyTree) -> dict[str, Array] | None:
    return {"label": rows["label"]} if "label" in rows else None
