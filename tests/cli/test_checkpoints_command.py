"""`launch.py checkpoints`, the lock of a work directory, and a full disk, as a user meets them."""

import errno
import shutil

import pytest
from launching import TINY, contents, launch

from jaxgen.training.durability import lock

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, which has checkpoints of steps 2 and 4."""
    return shutil.copytree(trained.workdir, tmp_path / "run")


def damage(run, step):
    path = run / "checkpoints" / str(step) / "config" / "metadata"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tinx").replace(b"0", b"1", 1))


def test_checkpoints_are_listed_newest_first_with_what_is_known_of_them(run):
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / "damaged" / "3")
    before = contents(run)
    outcome = launch("checkpoints", f"--workdir={run}", "--config.train.keep_best=loss")
    assert (outcome.code, outcome.err) == (0, "")
    head, *rows = outcome.out.splitlines()
    assert head.split() == ["step", "size", "saved", "condition", "loss", "loss/kl", "loss/reconstruction"]
    assert [row.split()[0] for row in rows] == ["4", "2", "6.orbax-checkpoint-tmp", "3"]
    assert all("KiB" in row and "not verified" in row for row in rows[:2])
    assert "newest" in rows[0]
    assert sum("best" in row for row in rows) == 1
    assert "unfinished" in rows[2]
    assert "damaged, set aside" in rows[3]
    assert contents(run) == before


def test_verify_reads_every_byte_and_names_what_is_damaged(run):
    outcome = launch("checkpoints", f"--workdir={run}", "--verify")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("whole") == 2
    damage(run, 2)
    assert launch("checkpoints", f"--workdir={run}").code == 0
    outcome = launch("checkpoints", f"--workdir={run}", "--verify")
    assert outcome.code == 1
    assert outcome.err == "error: Checkpoint 2 is damaged: config/metadata has changed.\n"
    assert outcome.out.count("whole") == 1


def test_prune_deletes_by_the_settings_given_but_nothing_that_is_damaged_or_in_use(run):
    prune = ["checkpoints", f"--workdir={run}", "--prune", "--keep_last=1"]
    names = ["2", "4"]
    assert launch(*prune[:-1]).code == 0  # the run keeps two
    assert "Would delete checkpoint 2." in launch(*prune, "--dry_run").out
    assert "delete" not in launch(*prune, "--keep_every=2").out
    with lock.held(run, print):
        refused = launch(*prune)
    assert refused.code == 2
    assert "is in use by process" in refused.err
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    damage(run, 4)  # so that 2 is the newest whole one
    assert launch(*prune).code == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / "1")
    (run / "checkpoints" / "1" / "metrics.json").unlink()
    assert launch(*prune).code == 1  # 1 is damaged
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]


def test_prune_deletes_and_the_run_is_still_whole(run):
    outcome = launch("checkpoints", f"--workdir={run}", "--prune", "--keep_last=1")
    assert outcome.code == 0
    assert outcome.out.endswith("Deleted checkpoint 2.\n")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["4"]
    assert launch("checkpoints", f"--workdir={run}", "--verify").code == 0


REFUSED = {
    "no prune": (["--keep_last=1"], "--keep_last, --keep_every and --dry_run are for --prune"),
    "keep": (["--prune", "--keep_last=0"], "--keep_last is 0, but must be at least 1"),
    "every": (["--prune", "--keep_every=-1"], "--keep_every is -1, but must be at least 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_checkpoints_refuses(run, what):
    arguments, sentence = REFUSED[what]
    before = contents(run)
    outcome = launch("checkpoints", f"--workdir={run}", *arguments)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert contents(run) == before


def test_a_second_run_in_a_work_directory_is_refused_and_changes_nothing(trained, run):
    with lock.held(run, print):
        before = contents(run)
        outcome = launch("train", *trained.arguments[:-1], f"--workdir={run}")
        assert outcome.code == 2
        assert f"error: {run} is in use by process" in outcome.err
        assert contents(run) == before
        drawn = launch("sample", f"--workdir={run}", "--num_samples=1", f"--output={run}/x.npz")
        assert drawn.code == 0, drawn.err


def test_a_best_metric_that_does_not_exist_is_refused_at_the_first_step(tmp_path):
    outcome = launch(TINY, f"--workdir={tmp_path}", "--config.train.keep_best=fid", "--config.log.tensorboard=False")
    assert outcome.code == 2
    assert "train.keep_best is 'fid', but must be one of the metrics, " in outcome.err
    assert not list((tmp_path / "checkpoints").iterdir())


def test_on_a_full_disk_a_run_goes_on_and_says_at_the_end_what_it_has_lost(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxgen.training.durability.manifest.seal", full)
    monkeypatch.setattr("jaxgen.core.images.save_png", full)
    arguments = [TINY, f"--workdir={tmp_path}", "--config.train.on_write_error=continue"]
    outcome = launch(*arguments, "--config.log.tensorboard=False")
    assert outcome.code == 1
    said = "The checkpoint of step {} could not be saved (No space left on device)."
    assert f"{said.format(2)} The run goes on, and tries again" in outcome.out
    assert "samples/samples_00000004.png could not be written (No space left on device). The run goes on" in outcome.out
    assert "step 4/4" in outcome.out
    assert outcome.err == (
        f"error: {said.format(4)} Stopped; there is no checkpoint. Make room, then give the same command again.\n"
    )
    assert not list((tmp_path / "checkpoints").iterdir())
