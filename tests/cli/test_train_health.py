"""A run whose data go bad, as its user sees it: rolled back, stopped, profiled, out of memory."""

import json
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import TINY, launch

from jaxgen.core.contract import CONSTANT
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.training import loop
from jaxgen.training.durability import rollback, spikes
from jaxgen.training.workdir import load_config, load_spec

BAD = 6  # the position in the data; that of step 7, when a checkpoint of step 4 and a line of step 6 are written
ARGUMENTS = [
    TINY,
    "--config.parallel.num_devices=1",
    "--config.train.num_steps=8",
    "--config.train.checkpoint_every_steps=4",
    "--config.train.sample_every_steps=8",
    "--config.evaluate.num_samples=0",
    "--config.log.tensorboard=False",
    "--config.log.norms_depth=1",
]


@pytest.fixture(scope="module", autouse=True)
def early_spikes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spikes, "WARMUP_STEPS", 3)
        yield


@pytest.fixture
def bad_data(monkeypatch):
    """Lets some positions in the data be white pictures, of which the model has a loss that the test chooses."""

    def install(positions, loss):
        build_model, batches = experiments.build_model, experiments.batches

        def build(*args):
            model = build_model(*args)

            def update(key, state, batch, *, phase=CONSTANT):
                state, metrics = model.update(key, state, batch, phase=phase)
                return state, metrics | {"loss": jnp.where(jnp.all(batch["image"] == 255), loss, metrics["loss"])}

            return model._replace(update=update)

        def from_position(*args):
            read = batches(*args)

            def stream(start):
                for position, batch in enumerate(read(start), start):
                    white = np.full_like(batch["image"], 255)
                    yield {**batch, "image": white} if position in positions else batch

            return stream

        monkeypatch.setattr(experiments, "build_model", build)
        monkeypatch.setattr(experiments, "batches", from_position)

    return install


def final_state(workdir):
    config = load_config(workdir)
    state, step = experiments.restore(experiments.build(parse(config), load_spec(workdir)), workdir, None)
    return step, jax.tree.map(np.asarray, state)


def assert_same_run(ours, theirs):
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, final_state(ours), final_state(theirs))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run whose data lack all batches from step 4 to the bad one; profiled, since that changes nothing."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    read = experiments.batches

    def without(*args):
        batches = read(*args)
        return lambda start: (batch for i, batch in enumerate(batches(start), start) if not 4 <= i <= BAD)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "batches", without)
        changes = ["--config.health.profile_at_step=2", "--config.health.profile_steps=1"]
        changes.append("--config.train.sample_every_steps=5")
        outcome = launch(*ARGUMENTS, *changes, f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    return workdir, outcome


def test_a_profile_of_a_step_is_in_the_work_directory(undisturbed):
    workdir, outcome = undisturbed
    assert f"Profiled steps 3 to 4 into {workdir / 'profile'}: open its newest" in outcome.out
    assert list((workdir / "profile").rglob("*.trace.json.gz"))


def test_grids_are_drawn_every_so_many_steps_and_in_the_end(undisturbed):
    workdir, _ = undisturbed
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == [
        "samples_00000006.png",  # of 5, rounded up to whole dispatches
        "samples_00000008.png",
    ]


def test_norms_by_module_are_among_the_metrics_and_make_up_the_whole(undisturbed):
    workdir, _ = undisturbed
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    kinds = {name.partition("/")[0] for name in line if "_norm/" in name}
    assert kinds == {"grad_norm", "update_norm", "param_norm"}
    assert {name for name in line if name.startswith("param_norm/")} == {"param_norm/encoder", "param_norm/decoder"}


def test_a_run_goes_on_from_its_last_checkpoint_without_the_bad_data(tmp_path, undisturbed, bad_data):
    bad_data({BAD}, np.nan)
    arguments = [*ARGUMENTS, "--config.train.nonfinite=rollback", f"--workdir={tmp_path}"]
    outcome = launch(*arguments)
    assert outcome.code == 0, outcome.err
    assert "loss is not finite at step 7. Rolled back to step 4, to go on with the data behind those of" in outcome.out
    assert "(rollback 1 of 3 at most)" in outcome.out
    assert outcome.out.count("Compiled in") == 1
    assert len(re.findall(r"\d parameters", outcome.out)) == 1
    assert "Resumed" not in outcome.out
    ((at_step, to_step, offset, _),) = rollback.load(tmp_path)
    assert (at_step, to_step, offset) == (7, 4, 3)
    assert_same_run(tmp_path, undisturbed[0])

    shutil.rmtree(tmp_path / "checkpoints" / "8")  # resumed behind the return, the run reads what it read there
    outcome = launch(*arguments)
    assert "Resumed at step 4." in outcome.out
    assert_same_run(tmp_path, undisturbed[0])


def test_a_run_stops_when_its_rollbacks_from_a_spike_are_in_vain(tmp_path, bad_data):
    bad_data(range(BAD, 100), 1e6)
    policy = ["--config.health.spike_policy=rollback", "--config.health.max_rollbacks=2"]
    outcome = launch(*ARGUMENTS, *policy, f"--workdir={tmp_path}")
    assert outcome.code == 1
    assert [r.offset for r in rollback.load(tmp_path)] == [3, 4]
    assert "Stopped after as many rollbacks as health.max_rollbacks allows, 2; the last whole" in outcome.err
    assert "checkpoint is that of step 4" in outcome.err


def test_a_spike_is_told_or_stops_the_run_which_can_go_on_over_it(tmp_path, bad_data):
    bad_data({BAD}, 1e6)
    stopped = launch(*ARGUMENTS, "--config.health.spike_policy=stop", f"--workdir={tmp_path}")
    assert stopped.code == 1
    assert re.match(r"error: loss is 1e\+06 at step 7, \S+ standard deviations above its running mean of ", stopped.err)
    assert "by the same command with health.spike_policy=warn" in stopped.err
    warned = launch(*ARGUMENTS, f"--workdir={tmp_path}")
    assert warned.code == 0, warned.err
    assert re.search(r"warning: loss is 1e\+06 at step 7, \S+ standard deviations above", warned.out)
    assert rollback.load(tmp_path) == ()


def test_out_of_memory_is_an_error_that_names_settings(tmp_path, monkeypatch):
    def fit(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(loop, "fit", fit)
    outcome = launch(*ARGUMENTS, f"--workdir={tmp_path}")
    assert outcome.code == 1
    assert outcome.err.startswith("error: The device has too little memory (RESOURCE_EXHAUSTED: Out of memory while")
    assert "data.batch_size (now 16)" in outcome.err
    assert (tmp_path / "memory.prof").exists()


def test_the_signal_that_asks_for_a_profile_is_handled_while_the_loop_runs(tmp_path, monkeypatch):
    handlers = []

    def fit(*args, **kwargs):
        handlers.append(signal.getsignal(signal.SIGUSR1))
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(loop, "fit", fit)
    launch(*ARGUMENTS, f"--workdir={tmp_path}")
    (handler,) = handlers
    assert callable(handler)
    assert handler != before
    assert signal.getsignal(signal.SIGUSR1) == before
