"""Two processes as one run: the trajectory of one, one writer, one end, whatever happens to either of them."""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import multiprocess
import numpy as np
import pytest

from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config, load_spec

sys.path.append(str(Path(__file__).parent / "cli"))
from launching import TINY, launch

SHORT = ["--config.evaluate.num_samples=0", "--config.log.tensorboard=False"]
LONG = [*SHORT, "--config.train.num_steps=60", "--config.train.sample_every_steps=60"]


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXGEN_DATA_DIR", str(tmp_path_factory.mktemp("prepared")))
        yield


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(ours, theirs):
    for ours_line, theirs_line in zip(metrics(ours), metrics(theirs), strict=True):
        assert ours_line.keys() == theirs_line.keys()
        np.testing.assert_allclose(list(ours_line.values()), list(theirs_line.values()), rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), state(ours), state(theirs))


def state(workdir):
    config = load_config(workdir)
    restored, _ = experiments.restore(experiments.build(parse(config), load_spec(workdir)), workdir, None)
    return jax.tree.map(np.asarray, restored)


def test_two_processes_are_one_run(tmp_path):
    """Process 1 prepares nothing, writes nothing and says nothing."""
    two, one = tmp_path / "two", tmp_path / "one"
    started = multiprocess.start(tmp_path / "printed", "train", TINY, *SHORT, f"--workdir={two}")
    assert started.await_all() == [0, 0], started.explain()
    assert "step 4/4" in started.out(0)
    assert (started.out(1), started.err(1)) == ("", "")
    assert launch("train", TINY, *SHORT, f"--workdir={one}").code == 0
    assert_same_run(two, one)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    record = json.loads((two / "environment.json").read_text())
    assert (record["processes"], len(record["devices"])) == (2, 8)
    grid = "samples/samples_00000004.png"
    assert (two / grid).stat().st_size == (one / grid).stat().st_size
    drawing = ("sample", f"--workdir={two}", "--num_samples=20", "--config.sample.batch_size=8")
    started = multiprocess.start(tmp_path / "drawn", *drawing, f"--output={tmp_path}/two.npz")
    assert started.await_all() == [0, 0], started.explain()
    assert "20 images of step 4" in started.out(0)
    assert (started.out(1), started.err(1)) == ("", "")
    assert launch(*drawing, f"--output={tmp_path}/one.npz").code == 0
    assert not (tmp_path / "two.npz.parts").exists()
    drawn = [np.load(tmp_path / f"{name}.npz")["images"].astype(int) for name in ("one", "two")]
    np.testing.assert_allclose(*drawn, atol=1)


@pytest.mark.soak
def test_two_processes_start_from_a_run_of_one(tmp_path):
    """Their states are split over the devices of both, and they go on for more steps as one."""
    source, two, one = (tmp_path / name for name in ("source", "two", "one"))
    assert launch("train", TINY, *SHORT, f"--workdir={source}").code == 0
    other = [TINY, *SHORT, "--config.vae.latent_dim=6", "--config.optimizer.schedule=constant", f"--init_from={source}"]
    split = ["--config.parallel.fsdp=4", "--config.parallel.min_shard_elements=1"]
    started = multiprocess.start(tmp_path / "printed", "train", *other, *split, f"--workdir={two}")
    assert started.await_all() == [0, 0], started.explain()
    assert f"Starts from {source} at step 4: " in started.out(0)
    assert (started.out(1), started.err(1)) == ("", "")
    longer = ["--config.train.num_steps=6", *split]
    started = multiprocess.start(tmp_path / "longer", "train", *other, *longer, f"--workdir={two}")
    assert started.await_all() == [0, 0], started.explain()
    assert "Extended from 4 to 6 steps, on whose number nothing in training depends." in started.out(0)
    assert (started.out(1), started.err(1)) == ("", "")
    assert launch("train", *other, longer[0], f"--workdir={one}").code == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), state(two), state(one))
    started = multiprocess.start(tmp_path / "none", "train", TINY, "--init_from=none", f"--workdir={tmp_path / 'new'}")
    assert started.await_all() == [2, 2], started.explain()
    assert started.err(0).startswith("error: none holds no run (no config.json)")
    assert not (tmp_path / "new").exists()


def test_a_run_of_two_survives_every_loss(tmp_path):
    """Stopped under Slurm, its worker killed, process 0 killed, finished by one process: still the undisturbed run."""
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    started = multiprocess.start_slurm(tmp_path / "slurm", disturbed, *LONG)
    started.await_line("step ")
    os.kill(int((started.directory / "1.pid").read_text()), signal.SIGTERM)
    assert started.await_all() == [143], started.explain()
    assert (started.directory / "requeued").read_text().startswith("requeue ")
    stopped = metrics(disturbed)[-1]["step"]
    assert 0 < stopped < 60
    assert (
        f"Stopped and saved at step {stopped}. To resume, run the same command again in each of the 2 "
        in started.out(0)
    )

    for victim, survivor in [(1, 0), (0, 1)]:
        started = multiprocess.start(tmp_path / f"{victim}", "train", TINY, *LONG, f"--workdir={disturbed}")
        started.await_line("step ")
        started.processes[victim].kill()
        codes = started.await_all()
        assert (codes[victim], codes[survivor]) == (-signal.SIGKILL, 1)
        assert f"Resumed at step {stopped}." in started.out(0)
        last = started.err(survivor).splitlines()[-1]
        assert last.startswith(f"error: process {survivor}: ")
        assert last.endswith("Run the same command again on every host: training goes on from the newest checkpoint.")
        stopped = max(int(path.name) for path in (disturbed / "checkpoints").iterdir() if path.name.isdigit())

    for workdir in (disturbed, undisturbed):
        outcome = launch("train", TINY, *LONG, f"--workdir={workdir}")
        assert outcome.code == 0, outcome.err
    assert_same_run(disturbed, undisturbed)


def test_what_one_refuses_both_refuse(tmp_path):
    """The same words, but process 1 is on another disk."""
    cwds = [tmp_path / "a", tmp_path / "b"]
    for cwd in cwds:
        cwd.mkdir()
    started = multiprocess.start(tmp_path / "printed", "train", TINY, *SHORT, "--workdir=run", cwds=cwds)
    assert started.await_all() == [2, 2], started.explain()
    sentence = "process 1: run is not the directory that process 0 writes: give all processes one --workdir, on a disk"
    assert started.err(0).startswith(f"error: {sentence}"), started.err(0)
    assert started.err(1).startswith(f"error: {sentence}"), started.err(1)


def test_other_arguments_than_those_of_process_0_are_refused(tmp_path):
    seeds = ["--config.seed=0", "--config.seed=1"]
    started = multiprocess.start(tmp_path / "printed", "train", TINY, seeds, f"--workdir={tmp_path / 'run'}")
    assert started.await_all() == [2, 2], started.explain()
    sentence = "error: process 1: This process was started with other arguments than process 0.\n"
    assert (started.err(0), started.err(1)) == (sentence, sentence)
    assert not (tmp_path / "run").exists()


def test_a_process_whose_others_do_not_come_says_so(tmp_path):
    (missing,) = multiprocess.start(tmp_path, "train", "--initialization_timeout_seconds=1", count=1).processes
    assert missing.wait() == 1
    assert "the 2 processes of this run did not come together within 1 seconds" in (tmp_path / "0.err").read_text()
