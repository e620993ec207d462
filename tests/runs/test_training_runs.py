"""Training from Python: nothing is printed, errors are exceptions, and a signal saves before it is passed on."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import TINY, contents, environment, launch

import jaxgen
from jaxgen.core.contract import TrainState
from jaxgen.data.faults import DataFaultError
from jaxgen.parallel.runner import Compiled
from jaxgen.parallel.sampling import SampleSettings
from jaxgen.runs import training
from jaxgen.runs.config_files import with_settings
from jaxgen.runs.refusals import RefusedError, agreed
from jaxgen.training import loop
from jaxgen.training import run as training_run
from jaxgen.training.drawing import GridSettings, SampleGrids
from jaxgen.training.durability.health import HealthSettings, NonFiniteError, SpikeError
from jaxgen.training.durability.watchdog import Watchdog
from jaxgen.training.durability.write_errors import Tolerance, WriteError
from jaxgen.training.means import Means
from jaxgen.training.programs import Programs
from jaxgen.training.settings import TrainSettings
from jaxgen.training.waiting import DataWait

pytestmark = pytest.mark.xdist_group("runs")

QUIET = {"log.tensorboard": False, "parallel.num_devices": 1}


def test_a_run_is_that_of_the_command(config, workdir, tmp_path):
    outcome = launch(TINY, "--config.vae.class_conditional=True", f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    ours, theirs = contents(workdir), contents(tmp_path / "run")
    for name in ("config.json", "data.json", "metrics.jsonl", "samples/samples_00000004.png"):
        assert ours[name] == theirs[name], name
    ours, theirs = jaxgen.open(workdir).restore(), jaxgen.open(tmp_path / "run").restore()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["figures"] == jaxgen.evaluate(
        jaxgen.open(workdir)
    )


def test_nothing_is_printed_and_what_is_said_comes_back(config, workdir, tmp_path, capfd):
    said = []
    run = jaxgen.train(config, tmp_path / "run", say=said.append)
    figures = jaxgen.evaluate(run, num_samples=16)
    assert any(line.startswith("step 4/4  loss ") for line in said)
    assert any(line.endswith("parameters") for line in said)
    assert "Data: 1,437 images of 8x8x1, 10 classes, 0 to 9" in said
    assert figures == json.loads((run.directory / "evaluations" / "step4_num_samples=16.json").read_text())["figures"]
    assert jaxgen.train(config, tmp_path / "run", say=said.append).step == 4
    assert said[-1] == f"{tmp_path / 'run'} is finished: all 4 steps are done."
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_clock_alone_has_the_share_of_time_that_the_devices_wait_for_data(workdir):
    (events,) = workdir.rglob("events.out.*")
    assert b"data/wait_share" in events.read_bytes()
    assert "wait_share" not in (workdir / "metrics.jsonl").read_text()


def test_training_goes_on_where_it_was_stopped(config, tmp_path):
    """A handler of the caller's that returns lets `train` return, too."""
    got = []
    before = signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
    try:
        run = jaxgen.train(interrupting(config), tmp_path / "run", say=interrupt_at("step 2/"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert got == [signal.SIGINT]
    assert 2 <= run.step < 40
    said = []
    assert jaxgen.train(interrupting(config), tmp_path / "run", say=said.append).step == 40
    assert f"Resumed at step {run.step}." in said


def test_ctrl_c_saves_and_is_a_keyboard_interrupt(config, tmp_path):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        jaxgen.train(interrupting(config), tmp_path / "run", say=interrupt_at("step 2/"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    step = jaxgen.open(tmp_path / "run").step
    assert 2 <= step < 40
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] <= step


def interrupting(config):
    """A run that is long enough to be stopped before its end."""
    settings = dict.fromkeys(("train.num_steps", "train.checkpoint_every_steps"), 40)
    settings |= {"train.log_every_steps": 1, "train.steps_per_dispatch": 1}
    return with_settings(config, {**QUIET, **settings})


def interrupt_at(start):
    def say(line):
        if line.startswith(start):
            os.kill(os.getpid(), signal.SIGINT)

    return say


TERMINATED = """
import os, signal, sys
import jaxgen

def say(line):
    if line.startswith("step 2/"):
        os.kill(os.getpid(), signal.SIGTERM)

settings = {"train.num_steps": 40, "train.checkpoint_every_steps": 40, "train.log_every_steps": 1}
settings |= {"train.steps_per_dispatch": 1, "log.tensorboard": False, "parallel.num_devices": 1}
jaxgen.train(jaxgen.config("vae:tiny", **settings), sys.argv[1], say=say)
"""


def test_sigterm_saves_and_ends_the_process(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "run")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGTERM, process.stderr
    assert (process.stdout, process.stderr) == ("", "")
    assert 2 <= jaxgen.open(tmp_path / "run").step < 40


def test_another_thread_can_train_and_nothing_is_printed(config, tmp_path, capfd):
    runs, quiet = [], with_settings(config, QUIET)
    thread = threading.Thread(target=lambda: runs.append(jaxgen.train(quiet, str(tmp_path / "run"))))
    thread.start()
    thread.join()
    assert runs[0].step == 4
    runs[0].sample(2)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_metric_that_is_not_finite_is_an_exception(config, tmp_path):
    config = with_settings(config, QUIET | {"optimizer.name": "sgd", "optimizer.learning_rate": 3e38})
    with pytest.raises(NonFiniteError, match="is not finite at step 2"):
        jaxgen.train(config, tmp_path / "run")
    assert training.last_checkpoint(tmp_path / "run") is None


def test_the_config_of_the_caller_stays_as_it_is(tmp_path, monkeypatch):
    config = jaxgen.config("vae:tiny", **QUIET)
    before = config.to_json()
    seen = []

    def train(run, saved):
        seen.append(run.config)

    monkeypatch.setattr(training_run, "train", train)
    jaxgen.train(config, tmp_path / "run")
    assert config.to_json() == before
    config.train.num_steps = 3  # and what the run has does not change with it
    assert seen[0].train.num_steps == 4


def standing(**parts):
    """A run of which there are only some parts."""
    return training_run.TrainingRun(**dict.fromkeys(training_run.TrainingRun._fields) | parts)


@pytest.mark.parametrize(("microbatches", "unit"), [(1, "step"), (4, "microbatch")])
def test_a_run_says_what_its_program_takes(microbatches, unit):
    said, clocks = [], []
    progress = SimpleNamespace(say=said.append, restart_clock=clocks.append)
    run = standing(model=SimpleNamespace(microbatches=microbatches), progress=progress, started=0.0)
    with contextlib.closing(DataWait()) as waiting:
        on_compiled = training_run._on_compiled(run, waiting)
        for flops, size in ((2.5e9, 1_234 * 2**20), (None, None)):
            on_compiled(loop.Dispatch(8, 12, None), Compiled(print, flops, size), 1.23)
    end = r", \d+\.\d s since the start"
    assert re.fullmatch(rf"Compiled in 1\.2 s, 2\.5 GFLOP a {unit}, 1,234 MiB on a device{end}", said[0])
    assert re.fullmatch(rf"Compiled in 1\.2 s{end}", said[1])
    assert clocks == [8, 8]


def test_a_line_comes_with_the_dispatch_that_passes_its_step_and_with_the_last():
    lines, logged, clocks = [], [], []
    run = standing(
        settings=SimpleNamespace(log_every_steps=10, num_steps=24, nonfinite="stop"),
        health=SimpleNamespace(spike_sigmas=None),
        progress=SimpleNamespace(
            update=lambda *args, line: lines.append((*args, line)), images_per_second=5.0, say=print
        ),
        log=SimpleNamespace(metrics=lambda *args: logged.append(args), clock=lambda *args: clocks.append(args)),
    )
    with contextlib.closing(DataWait()) as waiting:
        on_metrics = training_run._on_metrics(run, training_run.Statistics({}, Means()), waiting)
        for step in (4, 8, 12, 16, 20, 24):
            on_metrics(step, {"loss": np.arange(step, step - 4, -1.0), "grad_norm": np.ones(4)})
    due = [12, 20, 24]
    assert lines == [(step, f"loss {step - 1.5}", step in due) for step in (4, 8, 12, 16, 20, 24)]
    assert logged == [(step, {"loss": step - 1.5, "grad_norm": 1.0}) for step in due]
    assert [(step, set(values), values["images_per_second"]) for step, values in clocks] == [
        (step, {"images_per_second", "data/wait_share"}, 5.0) for step in due
    ]


@pytest.mark.parametrize(
    ("num_steps", "stopped", "events"),
    [
        (24, None, [("save", 24, "stop"), "wait"]),  # at 24, a grid was drawn by the loop
        (25, None, [("save", 25, "stop"), ("sample", 25), "wait"]),
        (25, 7, [("save", 7, "stop"), "wait"]),
    ],
)
def test_a_run_ends_with_a_checkpoint_and_with_a_grid_unless_it_has_one_or_was_stopped(
    monkeypatch, num_steps, stopped, events
):
    seen, clocks = [], []

    def fit(state, batches, plan, **others):
        assert [next(batches) for _ in range(3)] == [5, 6, 7]  # the first one, which was read ahead, among them
        assert [tuple(dispatch)[:2] for dispatch in plan][:2] == [(5, 8), (8, 12)]
        return f"trained {state}", stopped

    def save(run, step, state, statistics, *, tolerate):
        assert (state, statistics.losses) == ("trained state", {"loss": 1})
        seen.append(("save", step, tolerate._policy))

    monkeypatch.setattr(training_run.loop, "fit", fit)
    monkeypatch.setattr(training_run, "_start", lambda run, first, saved, programs: "state")
    monkeypatch.setattr(training_run, "_save", save)
    monkeypatch.setattr(training_run, "_sample", lambda run, step, state, grids: seen.append(("sample", step)))
    run = standing(
        settings=TrainSettings(num_steps, steps_per_dispatch=4, sample_every_steps=8, on_write_error="continue"),
        health=SimpleNamespace(spike_sigmas=None),
        model=SimpleNamespace(phase=lambda step: None),
        runner=SimpleNamespace(put=None),
        batches=lambda start: (position for position in range(start, 99)),
        rollbacks=(),
        loss_statistics={"loss": 1},
        checkpoints=SimpleNamespace(wait=lambda: seen.append("wait")),
        progress=SimpleNamespace(restart_clock=clocks.append, say=print),
    )
    programs, grids = object.__new__(Programs), object.__new__(SampleGrids)  # which only pass through
    with contextlib.closing(DataWait()) as waiting:
        result = training_run._train_from(run, 5, programs, Watchdog(None, on_hang=print), waiting, grids)
    assert (result, seen, clocks) == (stopped, events, [5])


def test_a_failed_write_is_treated_as_the_settings_say_but_for_the_last_checkpoint(tmp_path):
    said, saved = [], []

    def fail(*args, **options):
        saved.append(args[0] if args else "wait")
        raise WriteError(f"{saved[-1]} failed.")

    run = standing(
        directory=tmp_path,
        settings=TrainSettings(9, on_write_error="continue"),
        health=SimpleNamespace(spike_sigmas=None),
        runner=SimpleNamespace(to_contract=lambda state: state),
        checkpoints=SimpleNamespace(wait=fail, save=fail),
        log=SimpleNamespace(history=b""),
        progress=SimpleNamespace(say=said.append),
    )
    statistics = training_run.Statistics({}, Means())
    training_run._save(run, 3, "state", statistics, tolerate=training_run._tolerance(run))
    assert saved == ["wait", 3]  # that the one before has failed does not hinder this one
    after = " The run goes on, and tries again at the next occasion."
    assert said == [f"wait failed.{after}", f"3 failed.{after}"]
    with pytest.raises(WriteError, match=r"^9 failed\.$"):
        training_run._save(run, 9, "state", statistics, tolerate=Tolerance("stop", said.append))
    assert list(tmp_path.iterdir()) == []  # no statistics of losses, where spikes are not looked for
    stopping = run._replace(settings=TrainSettings(9))
    with pytest.raises(WriteError, match=r"^wait failed\.$"):
        training_run._save(stopping, 9, "state", statistics, tolerate=training_run._tolerance(run))


@pytest.mark.parametrize(("nonfinite", "spikes"), [("rollback", "warn"), ("stop", "rollback")])
def test_a_run_rolls_back_for_the_reason_that_the_settings_name_and_not_too_often(nonfinite, spikes):
    run = standing(
        settings=TrainSettings(9, nonfinite=nonfinite),
        health=HealthSettings(spike_policy=spikes, max_rollbacks=2),
        rollbacks=(1,),
    )
    errors = [NonFiniteError(3, "loss"), SpikeError(3, "loss", "a spike")]
    assert [training_run._may_roll_back(run, error) for error in errors] == [
        nonfinite == "rollback",
        spikes == "rollback",
    ]
    assert [error.rollbacks for error in errors] == [int(nonfinite == "rollback"), int(spikes == "rollback")]
    often = run._replace(rollbacks=(1, 2))
    assert not any(training_run._may_roll_back(often, error) for error in errors)


@pytest.mark.parametrize(("step", "always"), [(8, False), (9, True)])
def test_a_grid_is_of_the_evaluated_variables_and_the_last_one_is_drawn_in_any_case(monkeypatch, step, always):
    drawn, clocks = [], []
    monkeypatch.setattr(
        SampleGrids, "draw", lambda grids, step, variables, *, always: drawn.append((variables, always))
    )
    run = standing(
        settings=TrainSettings(9),
        model=SimpleNamespace(eval_variables=lambda state: f"averages of {state}"),
        runner=SimpleNamespace(to_contract=lambda state: f"the whole {state}"),
        progress=SimpleNamespace(restart_clock=clocks.append),
    )
    training_run._sample(run, step, "state", object.__new__(SampleGrids))
    assert drawn == [("averages of the whole state", always)]
    assert clocks == [step]  # drawing is no training


def test_grids_profiles_and_the_watchdog_are_as_the_settings_say(tmp_path, monkeypatch):
    given, parts = [], {"log": object(), "progress": SimpleNamespace(say=print), "interrupted": object()}
    monkeypatch.setattr(SampleGrids, "__init__", lambda grids, *arguments, **parts: given.append((arguments, parts)))
    run = standing(
        **parts,
        model="model",
        directory=tmp_path,
        settings=TrainSettings(9, sample_num_images=7, sample_share=0.25),
        health=HealthSettings(hang_seconds=5.0, hang_exit=True, profile_steps=3, profile_at_step=4),
        sample=SampleSettings(batch_size=6),
        runner=SimpleNamespace(mesh="mesh"),
        seed=2,
        class_names=("cat",),
    )
    training_run._grids(run)
    assert given == [((GridSettings(7, 0.25, 6, 2, ("cat",)), "model", "mesh"), parts)]
    watchdog = training_run._watchdog(run)
    assert (watchdog._seconds, watchdog._on_hang.keywords) == (5.0, {"leave": True})
    profiler = training_run._profiler(run)
    assert (profiler._num_steps, profiler._at_step) == (3, 4)


def test_the_parameters_of_players_are_also_counted_by_player():
    params = {"generator": np.zeros((40, 30)), "discriminator": np.zeros(7), "augment": np.zeros(1)}
    state = TrainState(jnp.int32(0), params, opt_state={"generator": (), "discriminator": ()}, model_state=())
    assert training_run._size(state) == "1,208 parameters (generator 1,200, discriminator 7)"
    assert training_run._size(state._replace(opt_state=())) == "1,208 parameters"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train.num_steps": 0}, r"train\.num_steps is 0"),
        ({"evaluate.num_samples": -1}, r"evaluate\.num_samples is -1"),
        ({"sample.batch_size": 0}, r"sample\.batch_size is 0"),
        ({"data.name": "digit"}, "Did you mean digits"),
        ({"parallel.num_devices": 99}, r"parallel\.num_devices is 99"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        jaxgen.train(jaxgen.config("vae:tiny", **settings), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_directory_of_another_run_is_refused(config, workdir):
    before = contents(workdir)
    changed = with_settings(config, {"optimizer.learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"holds a run with another config.*learning_rate: 0\.5 now"):
        jaxgen.train(changed, workdir)
    assert contents(workdir) == before


def test_a_refusal_is_a_value_error_that_names_its_cause():
    with pytest.raises(RefusedError, match="This is no number") as refused, agreed():
        raise DataFaultError("This is no number.")
    assert isinstance(refused.value, ValueError)
    assert isinstance(refused.value.__cause__, DataFaultError)
    assert refused.value.sentences == {0: "This is no number."}
    with pytest.raises(TypeError), agreed():
        raise TypeError
    with agreed():
        pass
