"""Runs that are trained longer than their config first said.

`train.num_steps` may grow when a run goes on. Whether training depends on it, as a decaying learning rate or a
curriculum does, is read from the program: that of an update, built for either number of steps, is the same text if
nothing does. So methods need not declare it, and a new one cannot forget to.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.config import Section
from jaxgen.core.contract import Env, GenerativeModel, Phase, TrainState
from jaxgen.optim.optimizers import learning_rates
from jaxgen.parallel import agreement
from jaxgen.runs import experiment as experiments
from jaxgen.runs.experiment import Experiment
from jaxgen.training import checkpoint, workdir


def find(experiment: Experiment, target: TrainState, directory: Path, *, extend: bool) -> str | None:
    """Returns a line that says what it means for a run to go on for more steps than before; None if it does not.

    Args:
      experiment: the run, with the number of steps that it is to have.
      target: its state as shapes.
      directory: its work directory, whose config may have fewer steps.
      extend: whether training may depend on the number of steps.

    Raises:
      ValueError: if it does, and may not.
    """
    before = agreement.from_first(lambda: workdir.grown_from(directory, experiment.settings.config))
    if before is None:
        return None
    saved = agreement.from_first(lambda: checkpoint.saved_steps(checkpoint.directory_of(directory)))
    after, step = experiment.settings.train.num_steps, saved[0] if saved else 0
    found = effects(experiment, target, before=before, step=step)
    if not found:
        return f"Extended from {before:,} to {after:,} steps, on whose number nothing in training depends."
    if not extend:
        raise ValueError(
            f"{directory} holds a run of {before:,} steps, and in one of {after:,} steps {', and '.join(found)}: give "
            "--extend if that is meant, or choose another --workdir."
        )
    return f"Extended from {before:,} to {after:,} steps: {', and '.join(found)}."


def effects(experiment: Experiment, target: TrainState, *, before: int, step: int) -> list[str]:
    """Returns what changes at a step for a run of `before` steps that goes on to more, a clause each.

    Args:
      experiment: the run, with the number of steps that it is to have.
      target: its state as shapes.
      before: how many steps it had before.
      step: the number of steps that are done.
    """
    config = experiment.settings.config
    differ = functools.partial(_programs_differ, experiment, target, before)
    if not differ(config):
        return []
    found, others = [], config
    after, section = config.train.num_steps, config.get("optimizer", {})
    theirs = learning_rates(section, num_steps=before)
    for where, rate in learning_rates(section, num_steps=after).items():
        if _same(rate, theirs[where], after):
            continue
        old, new = float(theirs[where](step)), float(rate(step))
        jump = f"jumps from {old:.4g} to {new:.4g}" if not np.isclose(old, new, rtol=1e-3) else "takes another course"
        found.append(f"the learning rate of {where} {jump} at step {step:,}")
        others = others.replaced({f"{where}.schedule": "constant"})
    if others is config or differ(others):
        found.append(f"what else depends on the length of training is as at step {step:,} of {after:,}")
    return found


def _same(ours: Callable[[ArrayLike], jax.Array], theirs: Callable[[ArrayLike], jax.Array], num_steps: int) -> bool:
    steps = np.linspace(0, num_steps, 100).astype(np.int32)
    return np.array_equal(jax.vmap(ours)(steps), jax.vmap(theirs)(steps))


def _programs_differ(experiment: Experiment, target: TrainState, before: int, config: Section) -> bool:
    """Returns whether the updates of a config differ from those of the same one with fewer steps."""
    configs = (config, config.replaced({"train.num_steps": before}))
    env = Env(None, {role: source.model for role, source in experiment.frozen.items()})
    ours, theirs = (build_model(c, experiment.spec, env) for c in configs)
    steps = range(config.train.num_steps)
    if any(ours.phase(step) != theirs.phase(step) for step in steps):
        return True
    text = functools.partial(_program, experiment, target)
    return any(text(ours, phase) != text(theirs, phase) for phase in set(map(ours.phase, steps)))


def _program(experiment: Experiment, target: TrainState, model: GenerativeModel, phase: Phase) -> str:
    """Returns the text of the program of an update."""
    settings = experiment.settings
    size = (phase.batch_size or settings.data.batch_size) // settings.train.microbatches
    update = jax.jit(functools.partial(model.update, phase=phase))
    batch = experiments.batch_shapes(experiment, size)
    return update.lower(keys.root_key(0), _unplaced(target), batch).as_text()


def _unplaced(target: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), target)
