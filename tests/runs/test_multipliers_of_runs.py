"""Multipliers of the optimizer's settings in whole runs: players, shared states, checkpoints, and start-up."""

import shutil

import jax
import numpy as np
import pytest
from tiny_runs import LAYOUTS, make_tiny, state_of

import jaxgen
from jaxgen.core import trees
from jaxgen.runs.config_files import with_settings

pytestmark = pytest.mark.xdist_group("runs")

QUIET = {"log.tensorboard": False, "evaluate.num_samples": 0, "optimizer.generator.learning_rate": 0.01}
FROZEN = {"optimizer.generator.learning_rate_multipliers": ((".*hidden_0/.*", 0.0), (".*", 0.5))}


@pytest.mark.parametrize("layout", ["data x fsdp", "pmap"])
def test_a_frozen_layer_of_one_player_stays_and_the_run_resumes(layout, tmp_path):
    config = jaxgen.config("gan:tiny", **QUIET, **FROZEN)
    config.parallel.update(LAYOUTS[layout])
    if config.parallel.fsdp != 1:
        config.parallel.min_shard_elements = 1
    tiny = make_tiny(config)
    begun = trees.named_leaves(state_of(tiny, tiny.init()).params)
    run = jaxgen.train(config, tmp_path / "run")
    state = run.restore()[0]
    for name, leaf in trees.named_leaves(state.params).items():
        still = name.startswith("generator/mlp/hidden_0/")
        assert np.array_equal(leaf, begun[name]) == still, name
    assert not any("hidden_0" in name for name in trees.named_leaves(state.opt_state["generator"]))
    assert any("hidden_0" in name for name in trees.named_leaves(state.opt_state["discriminator"]))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    jax.tree.map(np.testing.assert_array_equal, jaxgen.train(config, tmp_path / "run").restore()[0], state)


def test_a_pattern_that_names_nothing_is_refused_before_anything_is_written(tmp_path):
    config = with_settings(
        jaxgen.config("gan:tiny", **QUIET), {"optimizer.generator.learning_rate_multipliers": (("hiden/.*", 0.0),)}
    )
    with pytest.raises(ValueError, match=r"pattern 'hiden/\.\*', which is the first to match no .* there are: "):
        jaxgen.train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_multipliers_are_given_on_the_command_line_as_text():
    text = "(('.*bias', 0.0), ('.*', 2.0))"
    config = jaxgen.config("vae:tiny", **{"optimizer.learning_rate_multipliers": text})
    assert config.optimizer.learning_rate_multipliers == ((".*bias", 0.0), (".*", 2.0))
