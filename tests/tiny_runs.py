"""Experiments of the `tiny` variants in this process, on any layout of devices."""

import importlib
import itertools
from pathlib import Path
from typing import NamedTuple

import cached_latents
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import common
from jaxgen.core import keys
from jaxgen.core.contract import TrainState
from jaxgen.parallel import sampling
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem not in ("__init__", "common", "networks")
)

STEPS = 5

# Of single layers, every kernel is split that can be: the default rules leave alone what is as small as these are.
_TENSOR = {"rules": ((".*kernel", ("tensor",)), (".*", ()))}
LAYOUTS = {
    "one": {"num_devices": 1},
    "data": {},
    "data x fsdp": {"data": 2, "fsdp": 4},
    "data x fsdp x tensor": {"data": 2, "fsdp": 2, "tensor": 2, **_TENSOR},
    "fsdp x tensor": {"data": 1, "fsdp": 4, "tensor": 2, **_TENSOR},
    "pmap": {"mode": "pmap"},
}
"""The section `parallel` of each; eight devices but for the first."""


def config_on(name: str, layout: str) -> ConfigDict:
    """The tiny variant, trained by SGD: Adam divides a wrong scale of the gradient away (and with it, a bug)."""
    config = importlib.import_module(f"configs.{name}").get_config("tiny")
    sections = [config.optimizer] if "name" in config.optimizer else list(config.optimizer.values())
    for section in sections:
        train_by_sgd(section, learning_rate=0.01)
    config.train.num_steps = STEPS
    config.parallel.update(LAYOUTS[layout])
    if config.parallel.fsdp != 1:
        config.parallel.min_shard_elements = 1
    if experiments.facts_of_config(parse(config)).of_latents:
        config.data.path = str(cached_latents.directory())
    return config


def train_by_sgd(section: ConfigDict, *, learning_rate: float, **settings) -> None:
    """Makes an `optimizer` section one of SGD, with no `b2` and no `eps`; all else stays but for the settings given."""
    unused = {name: common.optimizer()[name] for name in ("b2", "eps")}
    section.update({"name": "sgd", "learning_rate": learning_rate, **unused, **settings})


class Tiny(NamedTuple):
    """An experiment and its host batches."""

    config: ConfigDict
    experiment: experiments.Experiment
    batches: list

    @property
    def runner(self):
        return self.experiment.runner

    def put(self, step):
        return self.runner.put(jax.tree.map(lambda x: x[None], self.batches[step]))

    def init(self):
        """The state at the start, in the runner's layout."""
        return self.runner.init(self.put(0))

    def compile(self, state):
        """The programs of one step, by phase, each for batches as they are in that phase."""
        steps = {self.experiment.model.phase(step): step for step in range(STEPS)}
        return {phase: self.runner.compile(state, self.put(step), phase).run for phase, step in steps.items()}

    def train(self, programs, state, first=0, last=STEPS):
        """Runs steps; returns the state, in the runner's layout, and the last step's metrics."""
        for step in range(first, last):
            state, metrics = programs[self.experiment.model.phase(step)](state, self.put(step))
        return state, metrics

    def sample(self, state, order=tuple(range(8))):
        """Images as floats, one a number (which decides key and label), from a state in the runner's layout."""
        model, order = self.experiment.model, np.asarray(order)
        image_keys = keys.per_example(keys.root_key(0), jnp.asarray(order))
        cond = {"label": (order % model.spec.num_classes).astype(np.int32)} if model.spec.num_classes else None
        variables = model.eval_variables(self.runner.to_contract(state))
        drawn = sampling.map_batches(model.sample, self.runner.mesh, image_keys, variables, cond, batch_size=len(order))
        return np.concatenate(list(drawn))


def make_tiny(config: ConfigDict) -> Tiny:
    """Builds the experiment of a config and reads its first batches."""
    data = experiments.load_data(parse(config), "train")
    experiment = experiments.build(parse(config), experiments.spec_of(data), autoencoder=data.autoencoder)
    batches = experiments.batches(experiment, data)(0)
    return Tiny(config, experiment, list(itertools.islice(batches, STEPS)))


def host(tree):
    """Copies to NumPy, so that donation leaves them alone."""
    return jax.tree.map(np.array, tree)


def state_of(tiny: Tiny, state) -> TrainState:
    """A state in the runner's layout as the contract's, on the host."""
    return host(tiny.runner.to_contract(state))
