"""The probability of adaptive augmentation, and what terms keep, survive a resume."""

import shutil

import jax
import numpy as np
import pytest

import jaxgen

pytestmark = pytest.mark.xdist_group("runs")

SETTINGS = {
    "gan.augment": "ada(transforms='blit', initial=0.3, every_steps=1, ramp_examples=200)",
    "gan.terms": ("lecam(weight=0.1)",),
    "log.tensorboard": False,
    "evaluate.num_samples": 0,
    "train.sample_every_steps": 100,
    "gan.n_critic": 1,
    "parallel.num_devices": 1,
}


def test_a_resumed_run_goes_on_with_its_probability(tmp_path):
    config = jaxgen.config("gan:tiny", **SETTINGS)
    run = jaxgen.train(config, tmp_path / "run")
    state = run.restore()[0]
    p = state.model_state["augment"]["ada"]["p"]
    assert 0.0 < abs(p - 0.3) <= 4 * 16 / 200 + 1e-6  # at most one image in so many of the ramp a step
    assert all(np.abs(value) > 0.0 for value in state.model_state["terms"]["lecam"].values())
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    resumed = jaxgen.train(config, tmp_path / "run").restore()[0]
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
