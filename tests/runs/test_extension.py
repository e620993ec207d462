"""Runs that go on for more steps: as if they had been that long, unless training depends on the number of steps."""

import json

import jax
import numpy as np
import pytest
import untrained_runs
from formula_network import make_formula
from launching import contents
from tiny_runs import make_tiny

import jaxgen
from jaxgen.methods.denoising import consistency, meanflow
from jaxgen.runs import experiment as experiments
from jaxgen.runs import extension
from jaxgen.runs.config_files import with_settings

pytestmark = pytest.mark.xdist_group("runs")

QUIET = {"log.tensorboard": False, "parallel.num_devices": 1, "evaluate.num_samples": 0}
LONGER = {"train.num_steps": 8}


def effects(config, *, before=4, after=8, step=4):
    """Of an extension of a config, without training."""
    tiny = make_tiny(with_settings(config, {"train.num_steps": after}))
    target = experiments.target(tiny.experiment)
    return extension.effects(tiny.experiment, target, before=before, step=step)


def test_a_run_goes_on_as_if_it_had_been_longer_from_the_start(config, tmp_path):
    constant = with_settings(config, {**QUIET, "optimizer.schedule": "constant", "optimizer.warmup_steps": 3})
    said = []
    jaxgen.train(constant, tmp_path / "a")
    extended = jaxgen.train(with_settings(constant, LONGER), tmp_path / "a", say=said.append)
    assert said[0] == "Extended from 4 to 8 steps, on whose number nothing in training depends."
    assert "Resumed at step 4." in said
    whole = jaxgen.train(with_settings(constant, LONGER), tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, extended.restore(), whole.restore())
    ours, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert ours == theirs
    assert ours["train"]["num_steps"] == 8
    before = contents(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds a run with another config.*num_steps: 4 now, 8 there"):
        jaxgen.train(constant, tmp_path / "a", extend=True)
    with pytest.raises(
        ValueError, match=r"holds a run with another config: [^;]*learning_rate: 0\.5 now, 0\.001 there"
    ):
        jaxgen.train(
            with_settings(constant, {"train.num_steps": 9, "optimizer.learning_rate": 0.5}), tmp_path / "a", extend=True
        )
    assert contents(tmp_path / "a") == before


def test_a_schedule_over_the_run_is_extended_only_if_that_is_meant(tmp_path):
    """Cosine: at step 4 of 4 the rate is zero; at step 4 of 8 it is half of the highest, 0.001."""
    cosine = {**QUIET, "parallel.mode": "pmap", "vae.class_conditional": True}
    longer = jaxgen.config("vae:tiny", **cosine, **LONGER)
    assert longer.optimizer.schedule == "cosine"
    untrained_runs.make(tmp_path / "a", "vae:tiny", classes=10, step=4, **cosine)
    before, said = contents(tmp_path / "a"), []
    effect = "the learning rate of optimizer jumps from 0 to 0.0005 at step 4"
    sentence = (
        f"holds a run of 4 steps, and in one of 8 steps {effect}: give --extend if that is meant, or choose anoth"
    )
    with pytest.raises(ValueError, match=sentence):
        jaxgen.train(longer, tmp_path / "a")
    assert contents(tmp_path / "a") == before
    run = jaxgen.train(longer, tmp_path / "a", extend=True, say=said.append)
    assert said[0] == f"Extended from 4 to 8 steps: {effect}."
    assert "Resumed at step 4." in said
    assert run.step == 8
    said.clear()
    jaxgen.train(longer, tmp_path / "a", say=said.append)
    assert said == [f"{tmp_path / 'a'} is finished: all 8 steps are done."]


@pytest.mark.parametrize(
    ("name", "settings"), [("gan", {"gan.terms": ("r1(gamma=1.0, every_steps=4)",)}), ("meanflow", {})]
)
def test_no_method_depends_on_the_length_but_by_the_schedule_of_its_learning_rate(name, settings, monkeypatch):
    """A GAN with phases, of which each is another program, and a method whose only program is one of a network."""
    monkeypatch.setattr(meanflow, "make_network", make_formula)
    config = jaxgen.config(f"{name}:tiny", **QUIET, **settings)
    sections = {k: s for k, s in config.optimizer.items() if k in ("generator", "discriminator")}
    for section in (sections or {"": config.optimizer}).values():
        section.schedule = "constant"
    assert effects(config) == []


def test_a_curriculum_is_noticed_and_told_from_the_learning_rate(monkeypatch):
    monkeypatch.setattr(consistency, "make_network", make_formula)
    config = jaxgen.config("consistency:tiny", **QUIET)
    curriculum = "what else depends on the length of training is as at step 4 of 8"
    constant = with_settings(config, {"optimizer.schedule": "constant"})
    assert effects(constant) == [curriculum]
    linear = with_settings(config, {"optimizer.schedule": "linear", "optimizer.learning_rate": 0.25})
    rate = "the learning rate of optimizer jumps from 0.125 to 0.1875 at step 2"
    assert effects(linear, step=2) == [rate, curriculum.replace("step 4", "step 2")]


def test_each_players_learning_rate_is_told_and_one_in_its_warm_up_has_not_jumped_yet():
    config = jaxgen.config("gan:tiny", **QUIET)
    config.optimizer.generator.update({"schedule": "cosine", "learning_rate": 0.5, "warmup_steps": 3})
    config.optimizer.discriminator.update({"schedule": "linear", "learning_rate": 0.5})
    assert sorted(effects(config, step=1)) == [
        "the learning rate of optimizer.discriminator jumps from 0.375 to 0.4375 at step 1",
        "the learning rate of optimizer.generator takes another course at step 1",
    ]
