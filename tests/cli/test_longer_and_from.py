"""Training that starts from another run, or is made longer, by the flags."""

import json
import shutil

import pytest
from launching import TINY, contents, launch

from jaxgen.training.workdir import load_config

pytestmark = pytest.mark.xdist_group("cli")

SHORT = ["--config.evaluate.num_samples=0", "--config.log.tensorboard=False"]


def test_init_from_is_written_into_the_config_and_the_run_goes_on_without_the_flag(trained, tmp_path):
    """The source has classes, and this run has none: what only that one has is left over."""
    target = tmp_path / "run"
    outcome = launch(
        "train",
        TINY,
        *SHORT,
        "--config.vae.class_conditional=False",
        f"--init_from={trained.workdir}",
        f"--workdir={target}",
    )
    assert outcome.code == 0, outcome.err
    assert f"Starts from {trained.workdir} at step 4: 14 arrays, 14 averages.\n" in outcome.out
    assert (
        "Arrays left over there: 2 (params/decoder/label/embedding, params/encoder/label/embedding).\n" in outcome.out
    )
    assert load_config(target).train.init_from == str(trained.workdir)
    assert json.loads((target / "init_from.json").read_text())["step"] == 4
    assert launch("train", f"--workdir={target}").out == f"{target} is finished: all 4 steps are done.\n"


def test_init_from_a_run_that_is_not_there_is_refused(tmp_path):
    outcome = launch("train", TINY, "--init_from=nowhere", f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 2
    assert outcome.err.startswith("error: nowhere holds no run (no config.json): train one with")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_extend_trains_and_evaluates_a_finished_run_further(trained, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(trained.workdir, directory)
    arguments = [*trained.arguments[:-1], f"--workdir={directory}", "--config.train.num_steps=6"]
    before = contents(directory)
    outcome = launch("train", *arguments)
    assert outcome.code == 2
    assert "a run of 4 steps, and in one of 6 steps the learning rate of optimizer jumps from 0 to 0.0" in outcome.err
    assert contents(directory) == before
    outcome = launch("train", *arguments, "--extend")
    assert outcome.code == 0, outcome.err
    assert "Extended from 4 to 6 steps: the learning rate of optimizer jumps" in outcome.out
    assert json.loads((directory / "evaluation.json").read_text())["step"] == 6
    assert load_config(directory).train.num_steps == 6
