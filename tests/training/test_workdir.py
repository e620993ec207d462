import json
import os

import pytest
from specs import data_spec

from configs import common
from jaxgen.core.images import Window
from jaxgen.data import Dataset
from jaxgen.data.dataset import label_of
from jaxgen.training import workdir
from jaxgen.training.durability import lock

SPEC = data_spec((8, 8, 3), 2)


def config(**changes):
    made = common.base()
    made.method = "vae.vae"
    for name, value in changes.items():
        section, _, key = name.partition("_")
        made[section][key] = value
    return made


def contents(directory):
    return {path.name: path.read_text() for path in directory.iterdir()} if directory.is_dir() else None


def test_a_new_work_directory_is_made_with_the_config_in_it(tmp_path):
    directory = tmp_path / "runs" / "new"
    assert not workdir.prepare(directory, config())
    assert [path.name for path in directory.iterdir()] == ["config.json"]
    assert workdir.load_config(directory).to_dict() == config().to_dict()


def test_an_empty_directory_serves(tmp_path):
    assert not workdir.prepare(tmp_path, config())


def test_a_run_is_recognized_by_its_config_but_for_what_moves_no_trajectory(tmp_path):
    workdir.prepare(tmp_path, config())
    before = contents(tmp_path)
    same = config(parallel_mode="pmap", log_tensorboard=False, evaluate_k=5, sample_batch_size=7, data_on_fault="skip")
    assert workdir.prepare(tmp_path, same)
    assert contents(tmp_path) == before


def test_a_run_of_another_config_is_refused_with_what_differs(tmp_path):
    workdir.prepare(tmp_path, config())
    before = contents(tmp_path)
    different = r"optimizer\.learning_rate: 0\.1 now, 0\.0002 there; train\.num_steps: 7 now, 10000 there\.$"
    with pytest.raises(ValueError, match=f"holds a run with another config: choose another --workdir.*{different}"):
        workdir.prepare(tmp_path, config(train_num_steps=7, optimizer_learning_rate=0.1))
    assert contents(tmp_path) == before


def test_a_run_may_become_longer_and_keeps_the_rest_of_its_config(tmp_path):
    workdir.prepare(tmp_path, config())
    assert workdir.grown_from(tmp_path, config()) is None
    longer = config(train_num_steps=10_001, parallel_mode="pmap")
    before = contents(tmp_path)
    assert workdir.check(tmp_path, longer)
    assert workdir.grown_from(tmp_path, longer) == 10_000
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match=r"Different: optimizer\.learning_rate: 0\.1 now, 0\.0002 there\.$"):
        workdir.prepare(tmp_path, config(train_num_steps=10_001, optimizer_learning_rate=0.1))
    assert workdir.prepare(tmp_path, longer)
    assert workdir.load_config(tmp_path).to_dict() == config(train_num_steps=10_001).to_dict()
    with pytest.raises(ValueError, match=r"num_steps: 10000 now, 10001 there"):
        workdir.check(tmp_path, config())
    assert workdir.grown_from(tmp_path / "none", config()) is None


def test_the_directory_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and holds no run .*: choose another --workdir"):
        workdir.prepare(tmp_path, config())
    assert contents(tmp_path) == {"thesis.tex": "mine"}


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"(is a file|cannot be written .*): choose another --workdir"):
        workdir.prepare(tmp_path / "file" / below, config())
    assert contents(tmp_path) == {"file": "mine"}


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"cannot be written \(no permission to write in .*\): choose another"):
        workdir.prepare(tmp_path, config())
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("text", ["", '{"seed": ', "[]"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json cannot be read \(.*\): restore it, or start in another"):
        workdir.prepare(tmp_path, config())


def test_where_no_run_is_the_way_to_one_is_said(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no run .*: train one with launch.py train --workdir"):
        workdir.load_config(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_flipped_bit_is_noticed_wherever_it_changes_a_setting(tmp_path, name):
    spec = data_spec((8, 8, 1), 10)
    workdir.prepare(tmp_path, config())
    workdir.save_spec(tmp_path, spec)
    whole, flipped = (tmp_path / name).read_bytes(), 0
    for i in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << i % 8
        (tmp_path / name).write_bytes(damaged)
        try:
            read = workdir.load_config(tmp_path).to_dict(), workdir.load_spec(tmp_path)
        except ValueError:
            flipped += 1
        else:
            found = {key: value for key, value in read[0].items() if key in config()}
            assert (found, read[1]) == (config().to_dict(), spec)
    assert flipped > 0.5 * len(whole) / 5


def test_a_config_of_a_version_that_kept_no_checksum_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config().to_dict()))
    assert workdir.load_config(tmp_path).to_dict() == config().to_dict()


def test_what_is_kept_may_change_when_a_run_goes_on(tmp_path):
    workdir.prepare(tmp_path, config())
    other = config(train_keep_checkpoints=7, train_keep_every_steps=10, train_keep_best="loss")
    other.train.on_write_error, other.train.keep_best_count, other.train.keep_best_mode = "continue", 3, "higher"
    other.train.sample_num_images, other.train.sample_share = 20, None
    other.data.max_faults, other.health.spike_sigmas = 7, 3.0
    assert workdir.prepare(tmp_path, other)


def test_what_a_process_leaves_that_dies_before_the_config_is_written_is_no_obstacle(tmp_path):
    with lock.held(tmp_path, print):
        (tmp_path / ".config.json.tmp.json").write_text("{")
    assert not workdir.prepare(tmp_path, config())


def data(length, fingerprint):
    return Dataset(range(length), SPEC.image_shape, label_of(SPEC.num_classes), fingerprint=fingerprint)


def test_a_run_knows_its_data_again(tmp_path):
    workdir.save_spec(tmp_path, SPEC, data(10, "a"))
    assert workdir.load_spec(tmp_path) == SPEC
    workdir.check_data(tmp_path, data(10, "a"))
    after = rf"restore the data, or start in another --workdir.*remove {tmp_path}/data\.json"
    with pytest.raises(ValueError, match=rf"changed since it began \(10 examples then, 1,234 now\).*{after}"):
        workdir.check_data(tmp_path, data(1_234, "b"))
    with pytest.raises(ValueError, match=rf"changed since it began \(10 examples, but not the same ones\).*{after}"):
        workdir.check_data(tmp_path, data(10, "b"))


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"image_shape": [8, 8, 3], "num_classes": 2}'])
def test_a_run_that_does_not_know_its_data_takes_any(tmp_path, capsys, text):
    if text is not None:
        (tmp_path / "data.json").write_text(text)
    workdir.check_data(tmp_path, data(10, "a"))
    assert ("data.json was damaged" in capsys.readouterr().out) == (text in ("", "[]"))


@pytest.mark.parametrize(("then", "now"), [(None, "a"), ("a", None), (None, None)])
def test_without_a_fingerprint_the_number_of_examples_decides(tmp_path, then, now):
    workdir.save_spec(tmp_path, SPEC, data(10, then))
    workdir.check_data(tmp_path, data(10, now))
    with pytest.raises(ValueError, match=r"changed since it began \(10 examples then, 11 now\)"):
        workdir.check_data(tmp_path, data(11, now))
    assert ("fingerprint" in contents(tmp_path)["data.json"]) == (then is not None)


def test_a_path_is_not_compared_and_the_one_that_a_run_goes_on_with_is_kept(tmp_path):
    begun = config(data_path="there", train_init_from="one")
    begun.frozen.teacher = "teacher"
    workdir.prepare(tmp_path, begun)
    moved = config(data_path="~/here", data_data_dir="/sets", train_init_from="two", evaluate_k=5)
    moved.frozen.teacher = "guide"
    before = contents(tmp_path)
    assert workdir.prepare(tmp_path, moved)
    assert contents(tmp_path) == before  # until what lies there has been compared
    workdir.save_paths(tmp_path, moved)
    kept = workdir.load_config(tmp_path)
    assert (kept.data.path, kept.data.data_dir, kept.train.init_from) == ("~/here", "/sets", "two")
    assert kept.frozen.teacher == "guide"
    assert kept.evaluate.k == begun.evaluate.k
    after = contents(tmp_path)
    workdir.save_paths(tmp_path, moved)
    assert contents(tmp_path) == after


@pytest.mark.parametrize(("name", "begun", "now"), [
    ("train.init_from", None, "one"), ("train.init_from", "one", None), ("frozen.teacher", None, "one"),
    ("frozen.teacher", "one", None),
])  # fmt: skip
def test_another_run_is_not_taken_for_none(tmp_path, name, begun, now):
    section, _, key = name.partition(".")

    def made(value):
        changed = config()
        changed[section][key] = value
        return changed

    workdir.prepare(tmp_path, made(begun))
    with pytest.raises(ValueError, match=rf"Different: {name}: {now!r} now, {begun!r} there"):
        workdir.prepare(tmp_path, made(now))


def test_a_run_keeps_the_names_of_its_classes(tmp_path):
    named = data(10, "a")._replace(class_names=("shoe", "bag"))
    workdir.save_spec(tmp_path, SPEC, named)
    assert workdir.load_class_names(tmp_path) == ("shoe", "bag")
    workdir.save_spec(tmp_path, SPEC, data(10, "a"))
    assert workdir.load_class_names(tmp_path) == ()


def test_levels_and_window_of_the_data_are_kept(tmp_path):
    window = Window(-1000.0, 3000.0, "int16")
    workdir.save_spec(tmp_path, SPEC._replace(levels=65_536), window=window)
    assert workdir.load_spec(tmp_path) == SPEC._replace(levels=65_536)
    assert workdir.load_window(tmp_path) == window
    workdir.save_spec(tmp_path, SPEC)
    assert workdir.load_spec(tmp_path).levels == 256
    assert workdir.load_window(tmp_path) is None
