import io
import json
import sys

import numpy as np
import pytest
from disks import file_size_limit
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from configs import common
from jaxgen.core import grids
from jaxgen.training.durability.write_errors import Tolerance, WriteError
from jaxgen.training.logging import Log, LogSettings, check_writers, log_settings

PLAIN = LogSettings(tensorboard=False)


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def events(directory):
    """TensorBoard's: a file has their lengths and checksums around them."""
    for path in sorted(directory.glob("events.out.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def open_log(directory, *, settings=PLAIN, resume_step=0):
    return Log(directory, settings, resume_step=resume_step, config={})


def test_metrics_are_one_object_a_line_with_null_for_what_is_not_finite(tmp_path):
    with open_log(tmp_path) as log:
        log.metrics(2, {"b": np.inf, "a": 0.1})
        log.metrics(4, {"a": np.nan})
    assert lines(tmp_path) == [{"step": 2, "a": 0.1, "b": None}, {"step": 4, "a": None}]
    assert (tmp_path / "metrics.jsonl").read_text().startswith('{"step": 2, "a": 0.1, "b": null}\n')


def test_a_line_is_on_disk_before_the_next_one_comes(tmp_path):
    with open_log(tmp_path) as log:
        log.metrics(2, {"a": 1.0})
        assert lines(tmp_path) == [{"step": 2, "a": 1.0}]


@pytest.mark.parametrize(("resume_step", "kept"), [(0, []), (2, [2]), (3, [2]), (4, [2, 4]), (6, [2, 4, 6])])
def test_a_resumed_run_drops_the_lines_that_it_will_write_again(tmp_path, resume_step, kept):
    with open_log(tmp_path) as log:
        for step in (2, 4, 6):
            log.metrics(step, {"loss": float(step)})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open_log(tmp_path, resume_step=resume_step) as log:
        assert [line["step"] for line in lines(tmp_path)] == kept
        for step in (2, 4, 6)[len(kept) :]:
            log.metrics(step, {"loss": float(step)})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_run_that_returns_to_a_step_forgets_the_lines_behind_it(tmp_path):
    with open_log(tmp_path) as log:
        for step in (2, 4, 6):
            log.metrics(step, {"loss": float(step)})
        log.rewind(4)
        assert [line["step"] for line in lines(tmp_path)] == [2, 4]
        log.metrics(6, {"loss": 7.0})
    assert lines(tmp_path)[-1] == {"step": 6, "loss": 7.0}
    assert len(lines(tmp_path)) == 3


def test_tensorboard_is_told_what_to_forget(tmp_path):
    with open_log(tmp_path, settings=LogSettings()) as log:
        log.metrics(2, {"loss": 1.0})
        log.rewind(0)
        log.metrics(2, {"loss": 2.0})
    written = [(event.step, event.session_log.status == SessionLog.START) for event in events(tmp_path)]
    assert written[-3:] == [(2, False), (1, True), (2, False)]  # what came before a start, from its step on, is void


def test_a_negative_depth_of_norms_is_refused():
    config = common.base()
    config.log.norms_depth = -1
    with pytest.raises(ValueError, match=r"log\.norms_depth is -1, but must be 0, for no norms, or more"):
        log_settings(config)


@pytest.mark.parametrize("half", ['{"step": 4, "lo', '{"step"', "{", '{"step": 4, "loss": 1.0}'])
def test_the_last_line_of_a_killed_process_is_whole_or_gone(tmp_path, half):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n' + half)
    with open_log(tmp_path, resume_step=4) as log:
        log.metrics(6, {"loss": 3.0})
    assert [line["step"] for line in lines(tmp_path)] == ([2, 4, 6] if half.endswith("}") else [2, 6])


def test_damaged_lines_are_said_and_dropped(tmp_path, capsys):
    lines_of = [
        b'{"step": 2, "loss": 1.0}',
        b'{"step": 4, "l\xefss": 1.0}',
        b'{"stgp": 6}',
        b"7",
        b'{"step": 8}',
        b'{"st',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines_of))
    with open_log(tmp_path, resume_step=8):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [2, 8]
    assert "was damaged: 3 of its 5 lines could not be read" in capsys.readouterr().out


DAMAGES = {
    "a digit": lambda path: path.write_bytes(path.read_bytes().replace(b"4.0", b"5.0")),
    "the step": lambda path: path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step": 3')),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_said_and_mended_by_what_a_checkpoint_has_kept(tmp_path, capsys, damage):
    with open_log(tmp_path) as log:
        for step in (2, 4):
            log.metrics(step, {"loss": float(step)})
        history = log.history
        log.metrics(6, {"loss": 6.0})
    path = tmp_path / "metrics.jsonl"
    assert history == b"".join(path.read_bytes().splitlines(keepends=True)[:2])
    damage(path)
    for said in ("metrics.jsonl was damaged: it is restored as it was at step 4", ""):
        with Log(tmp_path, LogSettings(), resume_step=4, history=history, config={}) as log:
            assert log.history == history
        assert path.read_bytes() == history
        out = capsys.readouterr().out
        assert said in out
        assert bool(said) == bool(out)


def test_the_history_has_what_was_logged_anew_after_a_return(tmp_path):
    with open_log(tmp_path) as log:
        for step in (2, 4):
            log.metrics(step, {"loss": 1.0})
        log.rewind(2)
        log.metrics(4, {"loss": 2.0})
        assert log.history == b'{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n'


def test_what_cannot_be_written_now_is_written_later_and_nothing_is_lost(tmp_path):
    said = []
    tolerate = Tolerance("continue", said.append)
    grid = np.zeros((1, 8, 8, 1), np.uint8)
    with Log(tmp_path, LogSettings(), resume_step=0, config={}, tolerate=tolerate) as log:
        log.metrics(2, {"a": 1.0})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with file_size_limit(size + 5):
            for step in (4, 6):
                log.metrics(step, {"a": 1.0})
                log.images("samples", step, grid)
        log.metrics(8, {"a": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8]
    assert list((tmp_path / "samples").iterdir()) == []
    assert [sentence.split(" could")[0] for sentence in said] == [
        "metrics.jsonl",
        "TensorBoard's file",
        "samples/samples_00000004.png",
        "samples/samples_00000006.png",
    ]


@pytest.mark.parametrize("settings", [PLAIN, LogSettings()])
def test_by_default_a_write_that_fails_is_an_error_in_one_sentence(tmp_path, settings):
    with (
        pytest.raises(
            WriteError, match=r"^(metrics.jsonl|TensorBoard's file) could not be written \(File too large\)\.$"
        ),
        open_log(tmp_path, settings=settings) as log,
        file_size_limit(3),
    ):
        log.metrics(2, {"a": 1.0})


def test_a_grid_is_one_picture_named_by_its_step(tmp_path):
    tiles = np.random.default_rng(0).integers(256, size=(6, 8, 8, 3)).astype(np.uint8)
    with open_log(tmp_path) as log:
        path = log.images("samples", 12, tiles, columns=3)
    assert path == tmp_path / "samples" / "samples_00000012.png"
    picture = np.asarray(Image.open(path))
    factor = picture.shape[0] // 17
    assert picture.shape == (17 * factor, 26 * factor, 3)
    np.testing.assert_array_equal(picture[::factor, ::factor][9:, 18:], tiles[5])


def test_a_grid_names_its_classes(tmp_path):
    tiles = np.random.default_rng(0).integers(256, size=(6, 8, 8, 3)).astype(np.uint8)
    labels, names = np.arange(6) % 2, ("cat", "dog")
    with open_log(tmp_path) as log:
        path = log.images("samples", 12, tiles, columns=3, labels=labels, class_names=names)
    expected = grids.picture(tiles, labels=labels, class_names=names)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    assert expected.shape != grids.picture(tiles, columns=3).shape


def test_tensorboard_gets_what_metrics_jsonl_gets_and_the_clock_besides(tmp_path):
    with open_log(tmp_path, settings=LogSettings()) as log:
        log.metrics(2, {"a_metric": 1.0})
        log.clock(2, {"of_the_clock": 5.0})
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"a_metric" in events.read_bytes()
    assert b"of_the_clock" in events.read_bytes()
    assert lines(tmp_path) == [{"step": 2, "a_metric": 1.0}]


def test_an_optional_writer_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"log\.wandb needs Weights & Biases: pip install .* or log\.wandb=False"):
        check_writers(LogSettings(tensorboard=False, wandb=True))


class FakeWandb:
    """As much of Weights & Biases as is called."""

    class errors:  # noqa: N801  # its name
        class Error(Exception):
            pass

    def __init__(self, *, logged_in=True, reachable=True):
        self.logged_in, self.reachable, self.started = logged_in, reachable, []
        self.logged, self.finished = [], 0

    def login(self, *, prompt, verify):
        assert (prompt, verify) == (False, False)
        return self.logged_in

    def init(self, *, mode=None, **settings):
        if mode != "offline" and not self.reachable:
            raise self.errors.Error("no such\nhost.")
        self.started.append((mode, settings["dir"]))
        self.settings = settings
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def Image(self, picture):  # noqa: N802  # its name
        return picture.tolist()

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize(("logged_in", "reachable", "variable", "mode", "sentence"), [
    (True, True, None, None, None),
    (False, True, None, "offline", "No account of Weights & Biases is logged in here (wandb login): "),
    (True, False, None, "offline", "Weights & Biases cannot be reached (no such host): "),
    (False, True, "disabled", None, None),
])  # fmt: skip
def test_without_an_account_or_a_connection_wandb_is_offline(
    tmp_path, monkeypatch, logged_in, reachable, variable, mode, sentence
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    wandb, said = FakeWandb(logged_in=logged_in, reachable=reachable), []
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    home = tmp_path / "my runs"
    home.mkdir()
    settings = LogSettings(tensorboard=False, wandb=True)
    with Log(home, settings, resume_step=0, config={}, say=said.append) as log:
        log.metrics(1, {"a": 1.0})
    assert wandb.started == [(mode, str(home))]
    after = f"this run is logged offline; send it later by: wandb sync '{home}/wandb'/offline-run-*"
    assert said == ([] if sentence is None else [sentence + after])


def test_wandb_gets_the_config_and_all_numbers_and_pictures_of_a_run(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    grid = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    with Log(tmp_path, LogSettings(tensorboard=False, wandb=True), resume_step=0, config={"seed": 3}) as log:
        log.metrics(2, {"loss": 1.0})
        log.clock(4, {"speed": 3.0})
        log.images("samples", 6, grid)
        assert wandb.finished == 0
    assert wandb.logged == [(2, {"loss": 1.0}), (4, {"speed": 3.0}), (6, {"samples": grids.picture(grid).tolist()})]
    assert wandb.finished == 1
    assert wandb.settings == {
        "project": "jaxgen", "name": tmp_path.name, "dir": str(tmp_path), "config": {"seed": 3}, "resume": "allow",
    }  # fmt: skip


def test_tensorboard_gets_each_number_and_picture_and_of_a_resumed_run_the_end_of_what_came_before(tmp_path):
    grid = np.random.default_rng(0).integers(256, size=(2, 8, 8, 3)).astype(np.uint8)
    with open_log(tmp_path, settings=LogSettings()) as log:
        log.metrics(2, {"a": 1.0})
    assert not [event for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    (first,) = tmp_path.glob("events.out.*")
    first.unlink()
    with open_log(tmp_path, settings=LogSettings(), resume_step=4) as log:
        log.metrics(6, {"a": 1.5, "b": 2.5})
        log.images("samples", 8, grid)
    version, start, *written, picture = events(tmp_path)
    assert version.file_version
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    values = [(event.step, value.tag, value.simple_value) for event in written for value in event.summary.value]
    assert values == [(6, "a", 1.5), (6, "b", 2.5)]
    (value,) = picture.summary.value
    assert (picture.step, value.tag) == (8, "samples")
    decoded = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    np.testing.assert_array_equal(decoded, grids.picture(grid))


def test_what_could_not_be_written_is_written_in_the_end_but_not_after_a_return_to_a_step_before(tmp_path):
    tolerate = Tolerance("continue", lambda sentence: None)
    for name, returns in (("end", False), ("return", True)):
        (tmp_path / name).mkdir()
        with Log(tmp_path / name, PLAIN, resume_step=0, config={}, tolerate=tolerate) as log:
            log.metrics(2, {"a": 1.0})
            with file_size_limit((tmp_path / name / "metrics.jsonl").stat().st_size + 5):
                log.metrics(4, {"a": 1.0})
            if returns:
                log.rewind(2)
        assert [line["step"] for line in lines(tmp_path / name)] == ([2] if returns else [2, 4])


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgen.parallel.hosts.is_first", lambda: False)
    with open_log(tmp_path, settings=LogSettings()) as log:
        log.metrics(2, {"a": 1.0})
        log.clock(2, {"b": 1.0})
        assert log.images("samples", 2, np.zeros((1, 8, 8, 3), np.uint8)) is None
    assert list(tmp_path.iterdir()) == []
