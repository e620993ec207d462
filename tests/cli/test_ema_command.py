"""Averages made after training: work directories whose only difference is the average."""

import re

import jax
import numpy as np
import pytest
from launching import TINY, contents, launch

from jaxgen.core import ema
from jaxgen.core.ema import Snapshot
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config, load_spec

SETTINGS = [
    "--config.ema.kind=power",
    "--config.ema.decay=0.9999",
    "--config.ema.sigma_rel=(0.05, 0.25)",
    "--config.train.steps_per_dispatch=1",
    "--config.optimizer.learning_rate=0.1",  # so that samples of two averages differ by a level of the digits
    "--config.train.snapshot_every_steps=1",
    "--config.train.checkpoint_every_steps=3",
    "--config.evaluate.num_samples=0",
    "--config.log.tensorboard=False",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps with a snapshot at each, and checkpoints at steps 3 and 4."""
    workdir = tmp_path_factory.mktemp("runs") / "power"
    outcome = launch("train", TINY, f"--workdir={workdir}", *SETTINGS)
    assert outcome.code == 0, outcome.err
    return workdir


def state_of(workdir, step=None):
    config = load_config(workdir)
    experiment = experiments.build(parse(config), load_spec(workdir))
    return jax.device_get(experiments.restore(experiment, workdir, step))


def make(run, output, *arguments):
    outcome = launch("ema", f"--workdir={run}", f"--output={output}", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def test_training_keeps_snapshots(run):
    assert sorted(path.name for path in (run / "ema").iterdir()) == [f"{step}.npz" for step in (1, 2, 3, 4)]
    state, step = state_of(run)
    assert step == 4
    with np.load(run / "ema" / "4.npz") as file:
        assert file["sigma_rel"].tolist() == [0.05, 0.25]
        for i in "01":
            for name, leaf in state.ema[i].items():
                np.testing.assert_array_equal(file[f"{i}/{name}"], leaf)
        assert len(file.files) == 1 + 2 * len(state.ema["0"])


def test_a_width_that_was_kept_comes_back_and_all_else_is_the_same(run, tmp_path):
    before = contents(run)
    make(run, tmp_path / "new", "--sigma_rel=0.25")
    assert contents(run) == before
    (ours, step), (state, _) = state_of(tmp_path / "new"), state_of(run)
    assert step == 4
    assert list(ours.ema) == ["0"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.ema["0"], state.ema["1"])
    jax.tree.map(np.testing.assert_array_equal, ours._replace(ema=()), state._replace(ema=()))


def test_another_width_of_an_earlier_step(run, tmp_path):
    make(run, tmp_path / "new", "--sigma_rel=0.15", "--step=3")
    ours, step = state_of(tmp_path / "new")
    assert step == 3
    stored = [Snapshot(step, width) for step in (1, 2, 3) for width in (0.05, 0.25)]
    weights = ema.reconstruction_weights(stored, Snapshot(3, 0.15))
    for name, leaf in ours.ema["0"].items():
        kept = [np.load(run / "ema" / f"{step}.npz")[f"{i}/{name}"] for step in (1, 2, 3) for i in "01"]
        expected = np.tensordot(weights, np.asarray(kept, np.float64), 1)
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


def test_the_new_directory_is_sampled_like_any_other(run, tmp_path):
    outcome = make(run, tmp_path / "new", "--sigma_rel=0.1")
    assert "step 4 with an average of sigma_rel 0.1, to within" in outcome.out
    for name, workdir in {"ours": tmp_path / "new", "theirs": run}.items():
        drawn = launch("sample", f"--workdir={workdir}", "--num_samples=8", f"--output={tmp_path / name}.npz")
        assert drawn.code == 0, drawn.err
    ours, theirs = (np.load(tmp_path / f"{name}.npz")["images"] for name in ("ours", "theirs"))
    assert ours.shape == theirs.shape
    assert (ours != theirs).any()
    assert "finished" in launch("train", f"--workdir={tmp_path / 'new'}").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output={new}"], r"ema needs --sigma_rel=WIDTH"),
        (["--sigma_rel=0.1"], r"ema needs --output=DIR"),
        (["--sigma_rel=0.1", "--output={run}"], r"is there already, and not empty: choose another --output"),
        (["--sigma_rel=0.5", "--output={new}"], r"ema\.sigma_rel is 0\.5, but must be above 0 and at most 0\.2887"),
        (["--sigma_rel=0.1", "--output={new}", "--step=2"], r"no checkpoint of step 2"),
    ],
)
def test_refusals_leave_nothing(run, tmp_path, arguments, sentence):
    named = [argument.format(new=tmp_path / "new", run=run) for argument in arguments]
    outcome = launch("ema", f"--workdir={run}", *named)
    assert outcome.code == 2
    assert re.search(sentence, outcome.err)
    assert not list(tmp_path.iterdir())


def test_a_run_without_power_averages_is_refused(trained, tmp_path):
    outcome = launch("ema", f"--workdir={trained.workdir}", "--sigma_rel=0.1", f"--output={tmp_path / 'new'}")
    assert (outcome.code, "train with ema.kind=power" in outcome.err) == (2, True)
