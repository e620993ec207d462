"""Finished models that a run reads and never changes, by role: what they are built from, and their arrays.

`config.frozen` names a run for each role; the autoencoder of a model of latents lies beside its data. The work
directory keeps in `frozen/ROLE/` what the model is built from, `config.json` and `data.json`, and in `source.json` the
run, the step and the digest of the arrays, which are not kept; those of an autoencoder are, in `arrays.npz`, so that
the run can do without its data.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float, PyTree

from jaxgen.core import latents, npz, paths, trees
from jaxgen.core.build import build_model
from jaxgen.core.config import Section, differences
from jaxgen.core.contract import GenerativeModel, ModelSpec
from jaxgen.core.images import Window
from jaxgen.parallel.runner import NOTHING, Frozen
from jaxgen.training import workdir
from jaxgen.training.durability.whole_files import write_whole

DIRECTORY = "frozen"
_ARRAYS, _SOURCE = "arrays.npz", "source.json"
_VARIABLES = "variables/"


class Source(NamedTuple):
    """A finished model that another one reads, with its arrays not loaded yet.

    Attributes:
      model: its functions.
      shapes: of its variables, as `ShapeDtypeStruct`s.
      load: returns the variables, on the host.
      described: the directory with its config and the facts of its data.
      origin: the run that the variables are read from, and the step; None if they lie in `described`.
    """

    model: GenerativeModel
    shapes: PyTree
    load: Callable[[], PyTree]
    described: Path
    origin: tuple[str, int] | None = None


Sources = Mapping[str, Source]


def arrays(sources: Sources) -> Frozen:
    """Returns what a runner needs of the sources."""
    if not sources:
        return NOTHING
    shapes = {role: source.shapes for role, source in sources.items()}
    return Frozen(shapes, lambda: {role: source.load() for role, source in sources.items()})


def named(config: Section) -> dict[str, str]:
    """Returns the run that `config.frozen` names for each role.

    Raises:
      ValueError: if a value is no text.
    """
    found = {role: run for role, run in config.get("frozen", {}).items() if run is not None}
    for role, run in found.items():
        if not isinstance(run, str):
            raise ValueError(f"frozen.{role} is {run!r}, but must be the work directory of a run, or None.")
    return {role: str(paths.expanded(run, where=f"frozen.{role}")) for role, run in found.items()}


def kept(home: Path, role: str) -> Path:
    """Returns the path below a work directory of the files about the frozen model of a role."""
    return home / DIRECTORY / role


def described(home: Path | None, role: str, run: str) -> tuple[Path, int | None]:
    """Returns the directory that describes the run for a role, and the step that a run in `home` began with, if any.

    A run of the same config in another place may be the same one, moved: its step counts, too.
    """
    if home is None:
        return Path(run), None
    known = kept(home, role)
    try:
        source = json.loads((known / _SOURCE).read_text())
    except (OSError, ValueError):
        return Path(run), None
    if source.get("run") == run:
        return known, source["step"]
    return Path(run), source.get("step") if _same_config(Path(run), known) else None


def _same_config(run: Path, known: Path) -> bool:
    one, other = workdir.load_config(run), workdir.load_config(known)
    return not differences(one, other, ignore=workdir.UNCOMPARED)


def keep(sources: Sources, home: Path) -> None:
    """Records in a work directory the frozen models of a run, or compares them with the record of its start.

    Raises:
      ValueError: if the run has begun with other arrays.
    """
    for role, source in sources.items():
        directory = kept(home, role)
        run, step = source.origin or (str(source.described), None)
        if not directory.exists():
            temporary = directory.with_name(f".{role}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            _describe(source.described, temporary, with_arrays=source.origin is None)
            temporary.rename(directory)
        if not (directory / _SOURCE).exists():
            facts = {"run": run, "step": step, "digest": digest_of(source.load())}
            write_whole(directory / _SOURCE, json.dumps(facts, indent=2) + "\n")
        elif source.described != directory:  # else its arrays were compared when they were loaded
            check_kept(directory, source.load(), role=role, run=run)


def check_kept(directory: Path, arrays: PyTree, *, role: str, run: str) -> None:
    """Compares arrays with those that a run has begun with, if `directory` has their digest.

    Raises:
      ValueError: if they differ.
    """
    file = directory / _SOURCE
    if file.exists() and json.loads(file.read_text())["digest"] != digest_of(arrays):
        raise ValueError(
            f"The {role} in {run} is another than the one that the run was started with: restore it, or choose another "
            "--workdir."
        )


def check_latents(role: str, described: Path, own: Source | None) -> None:
    """Raises an error for a frozen model of the latents of another autoencoder than the run's own.

    Args:
      role: of the model.
      described: the directory that describes it.
      own: the run's autoencoder; None if its data are images.

    Raises:
      ValueError: if the autoencoders differ, or only one of the two models is of latents.
    """
    file = kept(described, latents.ROLE) / _SOURCE
    if (own is not None) != file.exists():
        kinds = ("latents", "images") if file.exists() else ("images", "latents")
        raise ValueError(f"frozen.{role} is a model of {kinds[0]}, but this run's data are {kinds[1]}.")
    if own is not None and json.loads(file.read_text())["digest"] != digest_of(own.load()):
        raise ValueError(f"frozen.{role} is a model of the latents of another autoencoder than those of this run.")


def _describe(source: Path, target: Path, *, with_arrays: bool) -> None:
    """Copies the files that a model is built from, and those of the frozen models that it reads itself."""
    target.mkdir(parents=True)
    for name in ("config.json", "data.json", *([_ARRAYS] if with_arrays else [])):
        shutil.copy2(source / name, target / name)
    for inner in sorted((source / DIRECTORY).glob("[!.]*")):
        _describe(inner, kept(target, inner.name), with_arrays=False)
        shutil.copy2(inner / _SOURCE, kept(target, inner.name) / _SOURCE)


def digest_of(tree: PyTree) -> str:
    """Returns a digest of names, shapes, types and bytes of all arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for name, leaf in trees.named_leaves(tree).items():
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size and array.ndim else array.tobytes())
    return digest.hexdigest()


def save_autoencoder(
    directory: Path,
    config: Section,
    spec: ModelSpec,
    variables: PyTree,
    *,
    window: Window | None = None,
    shift: Float[np.ndarray, " c"],
    scale: Float[np.ndarray, " c"],
) -> None:
    """Writes an autoencoder, and shift and scale that standardize its latents, into a new directory."""
    workdir.prepare(directory, config)
    workdir.save_spec(directory, spec, window=window)
    found = {_VARIABLES + name: np.asarray(leaf) for name, leaf in trees.named_leaves(variables).items()}
    np.savez(directory / _ARRAYS, shift=shift, scale=scale, **found)  # type: ignore[arg-type]


def autoencoder(directory: Path) -> Source:
    """Builds the autoencoder that `save_autoencoder` wrote.

    Raises:
      ValueError: if there is none, or it cannot be read.
    """
    try:
        found = npz.read(directory / _ARRAYS)
        standardized = {name: found[name] for name in ("shift", "scale")}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{directory} holds no autoencoder ({error}): give launch.py encode again.") from error
    own = {name.removeprefix(_VARIABLES): x for name, x in found.items() if name.startswith(_VARIABLES)}
    variables = {"variables": traverse_util.unflatten_dict(own, sep="/"), **standardized}
    model = build_model(workdir.load_config(directory), workdir.load_spec(directory))
    return Source(model, shapes_of(variables), lambda: variables, directory)


def shapes_of(tree: PyTree) -> PyTree:
    """Returns the shapes and types of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def absent(*args: Any, **kwargs: Any) -> Any:
    """Raises an error in the place of loading arrays, which a plan does not need."""
    raise NotImplementedError("A plan has shapes, but no arrays.")


def stand_in(spec: ModelSpec) -> Source:
    """Returns the shapes of an autoencoder of cached latents, for a plan, which needs no more."""
    height, width, channels = spec.image_shape
    codes = spec.latent_levels is not None
    shape = (height, width, channels if codes else channels // 2)
    own = ModelSpec(shape, latent_shape=shape, latent_levels=spec.latent_levels)
    model = GenerativeModel(own, absent, absent, absent, absent, encode=absent, decode=absent)
    numbers = jax.ShapeDtypeStruct((shape[-1],), np.float32)
    shapes = {"variables": {}, "shift": numbers, "scale": numbers}
    return Source(model, shapes, absent, Path())
