"""Runs that start from the weights of another one: which arrays are taken by name, and where they come from.

`train.init_from` names the other run. What both have under one name and in one shape is read from its newest whole
checkpoint onto the devices of the new run, at step 0 with a fresh optimizer; nothing else is read. `init_from.json` in
the work directory records the run, the step and the digest of the checkpoint. A run that goes on does so from its own
checkpoint, and reads nothing of the other one.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxgen.core import trees
from jaxgen.core.contract import TrainState
from jaxgen.parallel import agreement
from jaxgen.parallel.runner import Runner
from jaxgen.training import checkpoint, workdir
from jaxgen.training.durability.whole_files import write_whole
from jaxgen.training.settings import TrainSettings

NAME = "init_from.json"
"""The file of a work directory that says what the run started from."""

_SHOWN = 5
_AVERAGED = re.compile(r"ema/(?:\d+/)?(?P<name>(?:params|model_state)/.*)")


class Origin(NamedTuple):
    """The checkpoint that a run starts from.

    Attributes:
      run: the work directory of the other run, as `train.init_from` names it.
      step: of the checkpoint.
      digest: of all its files.
    """

    run: str
    step: int
    digest: str


class Comparison(NamedTuple):
    """The names of arrays here and in another run, of what `train.init_include` matches.

    Attributes:
      taken: name here -> name there, of parameters and model state.
      averages: name here -> name there, of averages; that of a parameter, where the other run keeps no average of it.
      new: names that are only here.
      left_over: names that are only there.
      misshapen: names of arrays that have another shape there, with both shapes.
      excluded: names here that the setting does not match.
    """

    taken: dict[str, str]
    averages: dict[str, str]
    new: tuple[str, ...]
    left_over: tuple[str, ...]
    misshapen: tuple[str, ...]
    excluded: tuple[str, ...]


class Start(NamedTuple):
    """The starting point of a run: the weights of another one.

    Attributes:
      origin: the checkpoint.
      comparison: which of its arrays are taken.
    """

    origin: Origin
    comparison: Comparison


def find(settings: TrainSettings, target: TrainState, directory: Path) -> Start | None:
    """Returns what a run in a work directory starts from; None for a run of its own, and for one that goes on.

    Args:
      settings: the section `train`.
      target: the state of the new run as shapes.
      directory: the work directory, which may have recorded the checkpoint when the run was first started.

    Raises:
      ValueError: if the other run or a whole checkpoint of it cannot be had, or nothing of it fits.
    """
    begun = agreement.from_first(lambda: bool(checkpoint.saved_steps(checkpoint.directory_of(directory))))
    if settings.init_from is None:
        return None
    run = Path(settings.init_from)
    if begun:
        agreement.from_first(lambda: _check_moved(str(run), directory))
        return None
    workdir.load_config(run)  # says in a sentence that there is no run
    recorded = agreement.from_first(lambda: _recorded(directory))
    step = checkpoint.choose_step(run, None if recorded is None else recorded["step"])
    origin = Origin(settings.init_from, step, agreement.from_first(lambda: checkpoint.digest(run, step)))
    if recorded is not None and recorded["digest"] != origin.digest:
        raise ValueError(
            f"The checkpoint of step {step} in {run} is another than the one that the run was started from: restore "
            "it, or choose another --workdir."
        )
    patterns = settings.init_include if isinstance(settings.init_include, tuple) else (settings.init_include or ".*",)
    comparison = compare(_shapes(target), checkpoint.saved_shapes(run, step), patterns)
    if not comparison.taken:
        here, there = (_listed((*comparison.misshapen, *names)) for names in (comparison.new, comparison.left_over))
        raise ValueError(f"Nothing of {run} fits this run by name and shape: there are {here} here, and {there} there.")
    return Start(origin, comparison)


def compare(
    here: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]], patterns: tuple[str, ...]
) -> Comparison:
    """Compares the arrays of two states, given as shapes by name.

    Args:
      here: of the new run.
      there: of the other one.
      patterns: regular expressions, one of which must match the whole name of what is taken.

    Raises:
      ValueError: if a pattern is no regular expression, or matches nothing here.
    """
    own = [name for name in here if name.startswith(("params/", "model_state/"))]
    compiled = _compiled(patterns, own)

    def chosen(names: Iterable[str]) -> list[str]:
        return [name for name in names if any(pattern.fullmatch(name) for pattern in compiled)]

    included = chosen(own)
    taken = {name: name for name in included if there.get(name) == here[name]}
    averages = {name: _average_of(name, there) for name in here if _unaveraged(name) in taken}
    return Comparison(
        taken=taken,
        averages={name: other for name, other in averages.items() if there[other] == here[name]},
        new=tuple(name for name in included if name not in there),
        left_over=tuple(n for n in chosen(there) if n.startswith(("params/", "model_state/")) and n not in here),
        misshapen=tuple(
            f"{name} {there[name]} there and {here[name]} here"
            for name in included
            if name in there and name not in taken
        ),
        excluded=tuple(name for name in own if name not in included),
    )


def _compiled(patterns: tuple[str, ...], names: list[str]) -> list[re.Pattern[str]]:
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"train.init_include is {pattern!r}, which is no regular expression: {error}.") from error
        if not any(map(compiled[-1].fullmatch, names)):
            raise ValueError(
                f"train.init_include has the pattern {pattern!r}, which matches nothing; there are: {', '.join(names)}."
            )
    return compiled


def _unaveraged(name: str) -> str:
    """The name of what an average is of; empty for what is none."""
    found = _AVERAGED.fullmatch(name)
    return found["name"] if found else ""


def _average_of(name: str, there: Mapping[str, Any]) -> str:
    """The name there for an average: the same one, or the one that evaluation sees, or what it is an average of."""
    own = _unaveraged(name)
    return next(other for other in (name, f"ema/{own}", f"ema/0/{own}", own) if other in there)


def runner_from(runner: Runner, start: Start) -> Runner:
    """Returns the runner whose initialization takes the arrays of another run; the rest is initialized as ever."""
    run, step = Path(start.origin.run), start.origin.step
    names = start.comparison.taken | start.comparison.averages

    def begin(batches: PyTree) -> Callable[[], PyTree]:
        return functools.partial(taken, batches, runner.begin(batches))

    def taken(batches: PyTree, initial: Callable[[], PyTree]) -> PyTree:
        target = trees.named_leaves(runner.target(batches)._replace(frozen=()))
        wanted = {there: target[here] for here, there in reversed(names.items())}
        read = checkpoint.load_arrays(run, step, wanted)
        used: set[str] = set()

        def fill(name: str, leaf: Array) -> Array:
            if name not in names:
                return leaf
            there = names[name]
            array = jnp.copy(read[there]) if there in used else read[there]  # updates donate each array by itself
            used.add(there)
            return array

        state = runner.to_contract(initial())._replace(frozen=())
        return runner.from_contract(trees.map_named(fill, state))

    return runner._replace(begin=begin)


def record(start: Start, directory: Path) -> None:
    """Writes down in a work directory what its run starts from; process 0 alone does this."""
    write_whole(directory / NAME, json.dumps(start.origin._asdict(), indent=2) + "\n")


def _check_moved(run: str, directory: Path) -> None:
    """Compares the run that `train.init_from` names with the one that the run in a directory has started from.

    Raises:
      ValueError: if it is named by another path, and does not have the same checkpoint.
    """
    recorded = _recorded(directory)
    if recorded is None or Path(recorded["run"]) == Path(run):
        return
    step = recorded["step"]
    if step not in checkpoint.saved_steps(checkpoint.directory_of(Path(run))) or (
        checkpoint.digest(Path(run), step) != recorded["digest"]
    ):
        raise ValueError(
            f"The run in {directory} has started from step {step} of {recorded['run']}, which is not in {run}: give "
            "that path, or choose another --workdir."
        )


def _recorded(directory: Path) -> dict[str, Any] | None:
    try:
        return json.loads((directory / NAME).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory / NAME} cannot be read ({error}): choose another --workdir.") from error


def described(start: Start) -> list[str]:
    """Returns lines that say which arrays are taken and, by kind, which are not."""
    origin, found = start.origin, start.comparison
    averages = sum(there.startswith("ema/") for there in found.averages.values())
    lines = [f"Starts from {origin.run} at step {origin.step:,}: {len(found.taken)} arrays, {averages} averages."]
    kinds = {
        "new here and initialized": found.new,
        "of another shape there and initialized": found.misshapen,
        "not in train.init_include and initialized": found.excluded,
        "left over there": found.left_over,
    }
    return lines + [f"Arrays {kind}: {len(names)} ({_listed(names)})." for kind, names in kinds.items() if names]


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"


def _shapes(target: TrainState) -> dict[str, tuple[int, ...]]:
    learned = target._replace(opt_state=(), frozen=())
    return {name: tuple(leaf.shape) for name, leaf in trees.named_leaves(learned).items()}
