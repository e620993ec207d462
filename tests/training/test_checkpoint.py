"""Checkpoints: what goes in comes out, and what was damaged since is named, set aside and never used."""

import errno
import itertools
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from orbax.checkpoint._src.futures import future
from orbax.checkpoint._src.path import atomicity

from jaxgen.core.contract import TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.training.checkpoint import Checkpoints, find_damage, load_state, load_variables, remove_unfinished
from jaxgen.training.durability.restoring import dependencies
from jaxgen.training.durability.retention import Retention
from jaxgen.training.durability.write_errors import WriteError

pytestmark = pytest.mark.short

CONFIG = ConfigDict({"method": "toy", "model": {"widths": (1, 2)}})
STEPS = (2, 4)


def make_state(step):
    """A state with all kinds of leaves; different at each step."""
    params = {"conv": {"kernel": jnp.arange(24.0).reshape(4, 6) + step, "bias": jnp.full(6, -0.0)}}
    return TrainState(
        jnp.int32(step),
        params,
        optax.adam(1e-3).init(params),
        {"half": jnp.full(3, step, jnp.bfloat16), "none": ()},
        {"params/conv/kernel": jnp.full((4, 6), 1 / 3)},
    )


def save_whole(checkpoints, step):
    checkpoints.save(step, make_state(step), CONFIG)
    checkpoints.wait()


def target(mesh=None):
    sharding = meshes.replicated(mesh or meshes.make_mesh(1))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), make_state(0))


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.dtype, np.asarray(a).tobytes()) == (b.dtype, np.asarray(b).tobytes())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4; not to be changed."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, make_state(step), CONFIG, metrics={"loss": 1 / step})
    return directory


@pytest.fixture
def run(saved, tmp_path):
    """A copy of that run, which may be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


def test_leaving_waits_until_the_last_save_is_whole_and_sealed(saved):
    assert [find_damage(saved / "checkpoints", step) for step in STEPS] == [None, None]
    assert not list((saved / "checkpoints").glob("*tmp*"))


def test_every_bit_comes_back_in_the_same_structure(saved):
    state, step = load_state(saved, target())
    assert step == 4
    assert_same_bits(state, make_state(4))
    assert_same_bits(load_state(saved, target(), step=2)[0], make_state(2))


def test_the_config_is_saved_with_the_state(saved):
    (path,) = (saved / "checkpoints" / "4" / "config").rglob("*metadata*")
    assert json.loads(path.read_text()) == {"method": "toy", "model": {"widths": [1, 2]}}


def test_a_run_goes_on_where_it_was(run):
    with Checkpoints(run, keep=Retention(last=2)) as checkpoints:
        assert checkpoints.newest_whole_step() == checkpoints.latest_step() == 4
        assert_same_bits(checkpoints.restore(4, target()), make_state(4))
        checkpoints.save(4, make_state(9), CONFIG)  # saved already: left as it is
        checkpoints.save(6, make_state(6), CONFIG)
    assert_same_bits(load_state(run, target())[0], make_state(6))
    assert_same_bits(load_state(run, target(), step=4)[0], make_state(4))
    assert {path.name[0] for path in (run / "checkpoints").iterdir()} == {"4", "6"}  # and no manifest of step 2


def test_a_new_run_has_nothing_and_an_imported_one_step_zero(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest_whole_step() is None
        assert checkpoints.latest_step() is None
        checkpoints.save(0, make_state(0), CONFIG)
        checkpoints.wait()
        assert checkpoints.newest_whole_step() == 0  # which is not nothing: imported weights


def test_a_process_killed_just_after_its_first_save_can_be_resumed(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(2, make_state(2), CONFIG)
        checkpoints._manager.wait_until_finished()
        killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    with Checkpoints(killed) as checkpoints:
        assert checkpoints.newest_whole_step() in (None, 2)


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1)])
def test_a_state_is_restored_onto_another_number_of_devices(tmp_path, before, after):
    meshes_of = {count: meshes.make_mesh(count) for count in (before, after)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, jax.device_put(make_state(2), meshes.replicated(meshes_of[before])), CONFIG)
        checkpoints.wait()
        restored = checkpoints.restore(2, target(meshes_of[after]))
    assert_same_bits(restored, make_state(2))
    for leaf in jax.tree.leaves(restored):
        assert leaf.sharding == meshes.replicated(meshes_of[after])


def largest(directory):
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def manifest(checkpoints):
    (path,) = (p for p in checkpoints.rglob("*sha256*") if p.relative_to(checkpoints).as_posix().startswith("4"))
    return path


DAMAGES = {
    "a flipped bit of an array": (lambda c: flip_a_bit(largest(c / "4" / "state")), r"state/.* has changed"),
    "a flipped bit of metadata": (lambda c: flip_a_bit(c / "4" / "state" / "_METADATA"), "state/_METADATA has changed"),
    "a flipped bit of the manifest": (lambda c: flip_a_bit(manifest(c)), "its manifest has changed"),
    "an empty manifest": (lambda c: manifest(c).write_text(""), "its manifest has changed"),
    "no manifest": (lambda c: manifest(c).unlink(), "(its save was cut short|.* is missing)"),
    "a truncated file": (lambda c: largest(c / "4" / "state").write_bytes(b""), r"state/.* has changed"),
    "a missing file": (lambda c: largest(c / "4" / "state").unlink(), r"state/.* is missing"),
    "a file too many": (lambda c: (c / "4" / "state" / "extra").write_text("x"), "state/extra has changed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_set_aside_and_replaced_by_the_one_before(run, damage):
    break_it, problem = DAMAGES[damage]
    break_it(run / "checkpoints")
    left = contents(run / "checkpoints" / "4")
    with pytest.raises(ValueError, match=f"The checkpoint of step 4 in .* is damaged: {problem}"):
        load_state(run, target(), step=4)
    state, step = load_state(run, target())
    assert step == 2
    assert_same_bits(state, make_state(2))

    said = []
    with Checkpoints(run, say=said.append) as checkpoints:
        assert checkpoints.newest_whole_step() == checkpoints.latest_step() == 2
        assert_same_bits(checkpoints.restore(2, target()), make_state(2))
        checkpoints.save(4, make_state(4), CONFIG)
    (sentence,) = said
    assert sentence.startswith("Checkpoint 4 is damaged (")
    aside = run / "checkpoints" / "damaged" / "4"
    assert str(aside) in sentence
    assert contents(aside) == left
    assert_same_bits(load_state(run, target(), step=4)[0], make_state(4))


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.write_text(""), lambda path: path.unlink()])
def test_damage_to_the_bookkeeping_is_noticed_or_does_no_harm(run, damage):
    damage(run / "checkpoints" / "4" / "_CHECKPOINT_METADATA")
    with Checkpoints(run, say=lambda text: None) as checkpoints:
        step = checkpoints.newest_whole_step()
        assert_same_bits(checkpoints.restore(step, target()), make_state(step))
    assert step in STEPS


def test_a_flipped_bit_of_any_file_is_noticed_or_does_no_harm(saved, tmp_path):
    """That it is noticed needs no restore; only what is not noticed must come back bit for bit."""
    files = sorted(p.relative_to(saved) for p in (saved / "checkpoints" / "4").rglob("*") if p.is_file())
    for i, file in enumerate(files):
        run = shutil.copytree(saved, tmp_path / str(i))
        flip_a_bit(run / file)
        problem = find_damage(run / "checkpoints", 4)
        if problem is None:
            assert file.name in ("_CHECKPOINT_METADATA", "commit_success.txt")
            assert_same_bits(load_state(run, target(), step=4)[0], make_state(4))
        else:
            assert file.name in problem or "manifest" in problem


def test_a_checkpoint_under_the_name_of_another_step_is_noticed(run):
    (run / "checkpoints" / "4").rename(run / "checkpoints" / "5")
    assert find_damage(run / "checkpoints", 5) == "it is that of step 4"
    assert load_state(run, target())[1] == 2


def test_damaged_checkpoints_of_one_step_do_not_replace_each_other(run):
    for _ in range(2):
        flip_a_bit(largest(run / "checkpoints" / "4"))
        with Checkpoints(run, say=lambda text: None) as checkpoints:
            checkpoints.newest_whole_step()
            checkpoints.save(4, make_state(4), CONFIG)
    assert sorted(path.name for path in (run / "checkpoints" / "damaged").iterdir()) == ["4", "4-1"]


def test_where_none_is_whole_nothing_starts_afresh(run):
    for step in STEPS:
        flip_a_bit(largest(run / "checkpoints" / str(step)))
    with pytest.raises(ValueError, match=f"{run} has no whole checkpoint"):
        load_state(run, target())
    for _ in range(2):  # nor when the same command is given again
        with (
            pytest.raises(ValueError, match=r"No checkpoint in .* is whole: put one back, or start in another"),
            Checkpoints(run, say=lambda text: None) as checkpoints,
        ):
            checkpoints.newest_whole_step()


def test_a_step_that_is_not_there_is_refused_with_those_that_are(saved, tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint of step 3; it has 4, 2"):
        load_state(saved, target(), step=3)
    with pytest.raises(ValueError, match=f"{tmp_path} has no whole checkpoint: train first"):
        load_state(tmp_path, target())


def test_another_models_checkpoint_is_refused(saved):
    wrong = target()._replace(model_state={"other": jax.ShapeDtypeStruct((3,), jnp.float32)})
    with pytest.raises(ValueError, match=r"model_state/(half|other)"):
        load_state(saved, wrong)


def test_what_a_killed_process_left_is_named_and_removed(run):
    left = run / "checkpoints" / "6.orbax-checkpoint-tmp-123"
    shutil.copytree(run / "checkpoints" / "4", left)
    said = []
    remove_unfinished(run, said.append)
    assert said == ["Removed 6.orbax-checkpoint-tmp-123: the process that was saving it has died."]
    assert not left.exists()
    assert find_damage(run / "checkpoints", 4) is None


def test_only_what_the_variables_depend_on_is_read(run):
    def pick(state):
        unused = state.opt_state[0].mu["conv"]["kernel"] * 2
        return {"params": state.params["conv"]["bias"], "ema": state.ema, "none": 0 * unused[:0]}

    whole, step = load_variables(run, target(), lambda state: {"ema": state.ema, "half": state.model_state["half"]})
    assert step == 4
    assert_same_bits(whole, {"ema": make_state(4).ema, "half": make_state(4).model_state["half"]})
    needed = dependencies(pick, target())
    assert needed == {"params/conv/bias", "ema/params/conv/kernel", "opt_state/0/mu/conv/kernel"}
    assert dependencies(lambda state: (state.ema, jnp.ones(3), state.step), target()) == {
        "ema/params/conv/kernel",
        "step",
    }
    # What is computed and thrown away needs nothing.
    assert dependencies(lambda state: (state.params["conv"]["kernel"] * 2, state.ema)[1], target()) == {
        "ema/params/conv/kernel"
    }
    wrong = target()._replace(model_state={"other": jax.ShapeDtypeStruct((3,), jnp.float32)})
    with pytest.raises(ValueError, match="is of another model: model_state/half has shape"):
        load_variables(run, wrong, lambda state: state.ema)


def test_variables_of_a_damaged_checkpoint_are_not_used(run):
    flip_a_bit(largest(run / "checkpoints" / "4"))
    variables, step = load_variables(run, target(), lambda state: state.ema)
    assert step == 2
    assert_same_bits(variables, make_state(2).ema)


def test_a_clock_that_is_set_forward_does_not_end_a_save(run, monkeypatch):
    looks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 + 3_600 * next(looks))
    with Checkpoints(run) as checkpoints:
        save_whole(checkpoints, 6)
        assert checkpoints.newest_whole_step() == 6


def test_the_history_of_a_run_is_kept_with_the_step_and_guarded_like_it(saved, run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(6, make_state(6), CONFIG, history=b"6\n")
        checkpoints.wait()
        assert (checkpoints.history(4), checkpoints.history(6)) == (None, b"6\n")
        flip_a_bit(run / "checkpoints" / "6" / "history.jsonl")
        assert checkpoints.newest_whole_step() == 4


def test_the_best_is_kept_and_its_metrics_survive_a_restart(saved, run):
    keep = Retention(last=1, best="loss", best_mode="higher")
    with Checkpoints(run, keep=keep) as checkpoints:
        checkpoints.save(6, make_state(6), CONFIG, metrics={"loss": 0.3, "grad_norm": float("nan")})
        checkpoints.wait()
        assert json.loads((run / "checkpoints" / "6" / "metrics.json").read_text()) == {
            "step": 6,
            "grad_norm": None,
            "loss": 0.3,
        }
        checkpoints.save(8, make_state(8), CONFIG, metrics={"loss": 0.4})
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "8"]


def test_a_checkpoint_whose_metrics_cannot_be_read_may_be_the_best_and_stays(run):
    (run / "checkpoints" / "2" / "metrics.json").write_text("{")
    with Checkpoints(run, keep=Retention(last=1, best="loss")) as checkpoints:
        checkpoints.save(6, make_state(6), CONFIG, metrics={"loss": 0.1})
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "6"]


@pytest.fixture
def full_disk(monkeypatch):
    """There is room for everything but the very last file of a save; `full_disk.undo()` makes some."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxgen.training.durability.manifest.seal", full)
    return monkeypatch


def test_a_save_that_fails_is_said_and_costs_no_earlier_checkpoint(run, full_disk):
    with Checkpoints(run, keep=Retention(last=1)) as checkpoints:
        sentence = r"^The checkpoint of step 6 could not be saved \(No space left on device\)\.$"
        with pytest.raises(WriteError, match=sentence):
            save_whole(checkpoints, 6)
        full_disk.undo()
        checkpoints.wait()  # nothing is left to say
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]
        assert checkpoints.latest_step() == checkpoints.newest_whole_step() == 4
        checkpoints.save(6, make_state(6), CONFIG)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["6"]
    assert_same_bits(load_state(run, target())[0], make_state(6))


def test_leaving_does_not_hide_that_the_last_save_failed(run, full_disk):
    with (
        pytest.raises(WriteError, match=r"step 6 could not be saved \(No space left on device\)"),
        Checkpoints(run) as c,
    ):
        c.save(6, make_state(6), CONFIG)
    said = []
    checkpoints = Checkpoints(run, say=said.append)
    checkpoints.save(6, make_state(6), CONFIG)
    checkpoints.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # which is not to be hidden in turn
    assert said == ["The checkpoint of step 6 could not be saved (No space left on device)."]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]


def test_nothing_waits_for_directories_that_cannot_be_made(run, monkeypatch):
    async def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    waited, wait_for_signals = [], future.wait_for_signals

    def wait(signals, *, timeout_secs, operation_id):
        try:
            wait_for_signals(signals, timeout_secs=60, operation_id=operation_id)
        except TimeoutError:
            waited.append(signals)
            raise

    with Checkpoints(run) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(atomicity, "_create_paths", refuse)
            patch.setattr(future, "wait_for_signals", wait)
            with pytest.raises(WriteError, match=r"step 6 could not be saved \(Read-only file system\)"):
                save_whole(checkpoints, 6)
        assert not waited
        save_whole(checkpoints, 6)
    assert_same_bits(load_state(run, target())[0], make_state(6))


def test_an_error_of_the_program_is_not_taken_for_a_full_disk(run, monkeypatch):
    def wrong(*args):
        raise ValueError("a mistake")

    monkeypatch.setattr("jaxgen.training.durability.manifest.seal", wrong)
    with pytest.raises(ValueError, match="a mistake"), Checkpoints(run) as checkpoints:
        checkpoints.save(6, make_state(6), CONFIG)
