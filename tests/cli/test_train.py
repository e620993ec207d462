"""Training as a user sees it: to the end, through Ctrl-C and kill -9, and into a loss that is not finite."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from launching import TINY, contents, environment, launch

from jaxgen.cli.commands import COMMANDS
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import load_config_file
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config, load_spec, save_config

pytestmark = [pytest.mark.xdist_group("cli"), pytest.mark.short]
LAUNCH = Path(__file__).parents[2] / "launch.py"


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_state(workdir):
    config = load_config(workdir)
    state, step = experiments.restore(experiments.build(parse(config), load_spec(workdir)), workdir, None)
    return step, jax.tree.map(np.asarray, state)


def test_train_leaves_a_run_that_is_whole(trained):
    assert trained.outcome.code == 0, trained.outcome.err
    assert {"config.json", "environment.json", "metrics.jsonl", "evaluation.json", "samples", "checkpoints"} <= {
        path.name for path in trained.workdir.iterdir()
    }
    assert [line["step"] for line in metrics(trained.workdir)] == [2, 4]
    assert [path.name for path in (trained.workdir / "samples").iterdir()] == ["samples_00000004.png"]
    step, state = final_state(trained.workdir)
    assert step == state.step == 4
    record = json.loads((trained.workdir / "environment.json").read_text())
    assert record["packages"]["jax"] == jax.__version__
    assert len(record["devices"]) == 8


def test_train_says_where_everything_is_and_what_to_try_next(trained):
    assert "parameters" in trained.outcome.out
    assert "step 4/4" in trained.outcome.out
    for name in ("samples/", "evaluation.json", "metrics.jsonl", "checkpoints/"):
        assert f"{trained.workdir}/{name}" in trained.outcome.out
    assert f"launch.py sample --workdir={trained.workdir}" in trained.outcome.out


def test_a_finished_run_is_left_as_it_is(trained):
    before = contents(trained.workdir)
    outcome = launch("train", *trained.arguments)
    assert (outcome.code, outcome.out) == (0, f"{trained.workdir} is finished: all 4 steps are done.\n")
    assert contents(trained.workdir) == before


def test_without_a_workdir_the_run_is_named_after_its_config(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "vae-tiny").symlink_to(trained.workdir)
    assert launch(*trained.arguments[:-1]).out == "runs/vae-tiny is finished: all 4 steps are done.\n"


QUIET = [
    TINY,
    "--config.parallel.num_devices=1",
    "--config.evaluate.num_samples=0",
    "--config.log.tensorboard=False",
]
DIVERGING = [
    *QUIET,
    "--config.train.sample_every_steps=100",
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=3e38",
]


def test_a_loss_that_is_not_finite_ends_the_run_with_the_step_and_the_last_checkpoint(tmp_path):
    outcome = launch(*DIVERGING, f"--workdir={tmp_path}", "--config.train.checkpoint_every_steps=1")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert "is not finite at step 2. Stopped; there is no checkpoint before it. Try a lower" in outcome.err
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_such_updates_can_be_skipped_and_are_counted(tmp_path):
    assert launch(*DIVERGING, "--config.train.nonfinite=skip", f"--workdir={tmp_path}").code == 0
    assert [line["skipped"] for line in metrics(tmp_path)] == [1.0, 1.0]
    assert not (tmp_path / "evaluation.json").exists()


NUM_STEPS = 300
LONG = [
    *QUIET,
    f"--config.train.num_steps={NUM_STEPS}",
    f"--config.train.checkpoint_every_steps={NUM_STEPS}",
    f"--config.train.sample_every_steps={NUM_STEPS}",
]


def stop(workdir, number):
    """Starts the long run and sends it a signal once it has done some steps; the exit code and what it printed."""
    arguments = [sys.executable, str(LAUNCH), "train", *LONG, f"--workdir={workdir}"]
    with subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            if line.startswith("step ") and not any(earlier.startswith("step ") for earlier in lines):
                process.send_signal(number)
            lines.append(line)
    return process.returncode, "".join(lines)


def test_a_run_that_was_interrupted_and_killed_ends_as_an_undisturbed_one(tmp_path):
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    code, out = stop(disturbed, signal.SIGINT)
    assert code == 130, out
    stopped = metrics(disturbed)[-1]["step"]
    assert 0 < stopped < NUM_STEPS
    assert f"Stopped and saved at step {stopped}. To resume, run the same command again: " in out
    assert f"--workdir={disturbed}" in out

    code, out = stop(disturbed, signal.SIGKILL)
    assert code == -signal.SIGKILL, out
    assert f"Resumed at step {stopped}." in out
    assert metrics(disturbed)[-1]["step"] < NUM_STEPS
    log = disturbed / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"loss": ', b'"loss": 1', 1))  # damage that only the checkpoint can mend

    for workdir in (disturbed, undisturbed):
        outcome = launch("train", *LONG, f"--workdir={workdir}")
        assert outcome.code == 0, outcome.err
    assert "Resumed at step" not in outcome.out
    assert (disturbed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    ours, theirs = final_state(disturbed), final_state(undisturbed)
    assert ours[0] == NUM_STEPS
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    grid = f"samples/samples_{NUM_STEPS:08}.png"
    assert (disturbed / grid).read_bytes() == (undisturbed / grid).read_bytes()


STARTING = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "jaxgen.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_ctrl_c_ends_a_process_that_is_starting_without_a_traceback():
    arguments = [sys.executable, "-c", STARTING, str(LAUNCH)]
    process = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, cwd=LAUNCH.parent, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_ends_the_other_commands_without_a_traceback(monkeypatch, tmp_path):
    def interrupted(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("jaxgen.cli.checkpoints.main", interrupted)
    save_config(tmp_path, load_config_file(TINY.removeprefix("--config=")))
    outcome = launch("checkpoints", f"--workdir={tmp_path}")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "Interrupted.\n")


def test_the_process_itself_refuses_in_one_sentence(tmp_path):
    arguments = [sys.executable, str(LAUNCH), "trian", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.run(arguments, env=environment(), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == (
        f"error: There is no command 'trian'; there are {', '.join(COMMANDS)}. Did you mean train?\n"
    )
    assert list(tmp_path.iterdir()) == []
