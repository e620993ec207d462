"""Every config of the project, at its `tiny` variant, through the properties that the contract promises.

A config that is added to `configs/` is tested from then on; nothing has to be listed here.
"""

import importlib
import itertools
from pathlib import Path
from typing import NamedTuple

import cached_latents
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.cli import setup
from jaxgen.core import keys
from jaxgen.core.config import call
from jaxgen.core.contract import TrainState
from jaxgen.evaluation.report import EvaluationSettings
from jaxgen.parallel.sampling import SampleSettings
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.health import health_settings
from jaxgen.training.logging import log_settings
from jaxgen.training.settings import train_settings

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem not in ("__init__", "common")
)


def tiny_config(name: str) -> ConfigDict:
    """The tiny variant, trained by SGD: Adam divides a wrong scale of the gradient away (and with it, a bug)."""
    config = importlib.import_module(f"configs.{name}").get_config("tiny")
    sections = [config.optimizer] if "name" in config.optimizer else list(config.optimizer.values())
    for section in sections:
        section.name, section.learning_rate = "sgd", 0.01
    config.parallel.num_devices = 1
    if setup.of_latents(config):
        config.data.path = str(cached_latents.directory())
    return config


class Tiny(NamedTuple):
    """A tiny experiment, its host batches, its initial state on the host and its compiled update of one step."""

    config: ConfigDict
    experiment: setup.Experiment
    batches: list
    start: TrainState
    run: object

    def initial(self):
        return self.experiment.runner.from_contract(self.start)

    def put(self, step):
        return self.experiment.runner.put(jax.tree.map(lambda x: x[None], self.batches[step]))

    def train(self, state, first, last):
        for step in range(first, last):
            state, metrics = self.run(state, self.put(step))
        return state, metrics


def make_tiny(config: ConfigDict) -> Tiny:
    data = setup.load_data(config, "train")
    experiment = setup.build(config, setup.spec_of(data))
    batches = list(itertools.islice(setup.batches(experiment, data, train_settings(config))(0), 4))
    runner = experiment.runner
    first = runner.put(jax.tree.map(lambda x: x[None], batches[0]))
    start = runner.init(first)
    compiled = runner.compile(start, first, experiment.model.phase(0))
    return Tiny(config, experiment, batches, host(runner.to_contract(start)), compiled.run)


# One process runs all tests of a config, so that each compiles once.
@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CONFIGS])
def tiny(request) -> Tiny:
    return make_tiny(tiny_config(request.param))


def host(tree):
    return jax.tree.map(np.array, tree)


@pytest.fixture(scope="module")
def four_steps(tiny):
    """The state after four steps, on the host, and the metrics of the last."""
    state, metrics = tiny.train(tiny.initial(), 0, 4)
    return host(state), host(metrics)


def test_eval_shape_equals_init(tiny):
    target = setup.target(tiny.experiment, train_settings(tiny.config))
    chex.assert_trees_all_equal_shapes_and_dtypes(target, tiny.start)


def test_update_keeps_structure_shapes_and_types(tiny, four_steps):
    chex.assert_trees_all_equal_shapes_and_dtypes(four_steps[0], tiny.start)


def test_update_counts_steps_changes_parameters_and_stays_finite(tiny, four_steps):
    state, metrics = four_steps
    assert state.step == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    assert not trees_equal(state.params, tiny.start.params)


def test_one_trace_per_phase(tiny):
    model, config = tiny.experiment.model, tiny.config
    phases = {model.phase(step) for step in range(config.train.num_steps)}
    traces = []

    def update(key, state, batch, phase):
        traces.append(phase)
        return model.update(key, state, batch, phase=phase)

    # Shapes suffice to see when JAX traces again: a changed state, batch or key must look like the one before.
    traced = jax.jit(update, static_argnames="phase")
    for phase, step in itertools.product(phases, range(2)):
        state = tiny.start._replace(step=np.int32(step))
        traced.eval_shape(keys.root_key(step), state, tiny.batches[step], phase=phase)
    assert len(traces) == len(phases)


def test_same_seed_same_bits_and_other_seed_other_bits(tiny, four_steps):
    again, _ = tiny.train(tiny.initial(), 0, 4)
    chex.assert_trees_all_equal(four_steps[0], host(again))
    config = tiny.config.copy_and_resolve_references()
    config.seed += 1
    different = setup.build(config, tiny.experiment.spec).runner.init(tiny.put(0)).params
    assert not trees_equal(tiny.start.params, host(different))


def trees_equal(a, b):
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


def test_two_steps_save_restore_two_steps_equal_four(tiny, four_steps, tmp_path):
    state, _ = tiny.train(tiny.initial(), 0, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, tiny.config)
        on, _ = tiny.train(state, 2, 4)  # donates the buffers that are being saved
        chex.assert_trees_all_equal(host(on), four_steps[0])
        checkpoints.wait()
        restored = checkpoints.restore(checkpoints.newest_whole_step(), tiny.experiment.runner.target(tiny.put(0)))
    resumed, _ = tiny.train(restored, 2, 4)
    chex.assert_trees_all_equal(host(resumed), four_steps[0])


@pytest.mark.parametrize("mode", ["mesh", "pmap"])
def test_eight_devices_follow_the_trajectory_of_one(tiny, four_steps, mode):
    config = tiny.config.copy_and_resolve_references()
    config.parallel.mode, config.parallel.num_devices = mode, 8
    eight = make_tiny(config)
    state, metrics = eight.train(eight.initial(), 0, 4)
    state = eight.experiment.runner.to_contract(state)
    chex.assert_trees_all_close(host(state), four_steps[0], atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(host(metrics), four_steps[1], atol=1e-5, rtol=1e-4)


def test_samples_do_not_depend_on_how_calls_are_split(tiny):
    model = tiny.experiment.model
    image_keys = keys.per_example(keys.root_key(0), jnp.arange(8))
    cond = {"label": jnp.arange(8) % model.spec.num_classes} if model.spec.num_classes else None
    variables = model.eval_variables(tiny.start)
    sample = jax.jit(model.sample)
    whole = sample(image_keys, variables, cond)
    first = sample(image_keys[:4], variables, jax.tree.map(lambda x: x[:4], cond))
    second = sample(image_keys[4:], variables, jax.tree.map(lambda x: x[4:], cond))
    np.testing.assert_allclose(whole, np.concatenate([first, second]), atol=1e-5)
    assert whole.shape == (8, *model.spec.image_shape)
    assert whole.dtype == jnp.float32
    assert float(jnp.abs(whole).max()) <= 1.0
    assert len({image.tobytes() for image in np.asarray(whole)}) == 8


def check_sections(config: ConfigDict) -> None:
    """What the train command checks before it computes anything."""
    train_settings(config)
    health_settings(config)
    log_settings(config)
    call(EvaluationSettings, config.evaluate, where="evaluate")
    call(SampleSettings, config.sample, where="sample")
    setup.build(config, setup.spec_of(setup.load_data(config, "train")))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unknown_config_key_fails_by_name(name):
    config = tiny_config(name)
    check_sections(config)
    for section in [key for key, value in config.items() if isinstance(value, ConfigDict)]:
        broken = config.copy_and_resolve_references().unlock()
        broken[section].no_such_setting = 1
        with pytest.raises(ValueError, match=f"{section}.*no_such_setting"):
            check_sections(broken)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_in_the_docstring_can_be_had_and_no_other(name):
    module = importlib.import_module(f"configs.{name}")
    with pytest.raises(ValueError, match="no variant 'absent'") as refusal:
        module.get_config("absent")
    variants = str(refusal.value).partition("this config has ")[2].rstrip(".").split(", ")
    assert "tiny" in variants
    for variant in variants:
        assert isinstance(module.get_config(variant), ConfigDict)
