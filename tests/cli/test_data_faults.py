"""A folder with a damaged picture, and one that changes before a run goes on, as a user meets them."""

import json
import shutil

import numpy as np
import pytest
from launching import TINY, launch
from PIL import Image

from jaxgen.data.pipeline import shuffled

COUNT = 50
CLEAR = 7  # may be transparent
DAMAGED = int(shuffled(np.arange(COUNT), length=COUNT, seed=0)[-1])  # read in the last of four steps


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The run that a damaged picture has stopped, and the folder of pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    values = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
    for split in ("train", "test"):
        (folder / split).mkdir()
        for number, pixels in enumerate(values):
            picture = Image.fromarray(pixels).convert("RGBA" if number == CLEAR else "RGB")
            picture.save(folder / split / f"{number:02}.png")
    damaged = folder / "train" / f"{DAMAGED:02}.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    return folder, folder / "run", train(folder, folder / "run")


def train(folder, workdir, *arguments):
    data = ["--config.data.name=folder", f"--config.data.path={folder}", "--config.vae.class_conditional=False"]
    quiet = ["--config.evaluate.num_samples=0", "--config.log.tensorboard=False"]
    return launch(TINY, *data, *quiet, f"--workdir={workdir}", *arguments)


def test_a_run_stops_with_the_name_of_the_file_and_of_the_last_checkpoint(stopped):
    folder, workdir, outcome = stopped
    assert outcome.code == 1
    assert outcome.err == (
        f"error: {folder}/train/{DAMAGED:02}.png cannot be read: image file is truncated. Repair it, or set "
        "data.on_fault=skip to do without it. Stopped; the last whole checkpoint is that of step 2, in "
        f"{workdir}/checkpoints.\n"
    )


def test_the_data_are_said_when_training_begins(stopped):
    lines = stopped[2].out.splitlines()
    note = "Transparent parts are put on data.background=white in 1 of 50 pictures."
    at = lines.index("Data: 50 images of 8x8x3, no classes")
    assert lines[at + 1] == note
    assert lines.count(note) == 1


def test_it_goes_on_without_the_picture_where_that_is_asked_for(stopped, tmp_path):
    folder, workdir, _ = stopped
    shutil.copytree(workdir, tmp_path / "resumed")
    resumed = train(folder, tmp_path / "resumed", "--config.data.on_fault=skip")
    undisturbed = train(folder, tmp_path / "whole", "--config.data.on_fault=skip")
    for outcome, name in ((resumed, "resumed"), (undisturbed, "whole")):
        assert outcome.code == 0, outcome.err
        assert outcome.out.count(f"Skipped: {folder}/train/{DAMAGED:02}.png cannot be read") == 1
        count = f"Faulty examples of the train split, skipped: 1 (named in {tmp_path / name}/data_faults.jsonl)."
        assert count in outcome.out
        (line,) = (tmp_path / name / "data_faults.jsonl").read_text().splitlines()
        assert json.loads(line)["index"] == DAMAGED
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("resumed", "whole")]
    assert metrics[0] == metrics[1]


def test_a_run_does_not_go_on_with_other_data(stopped, tmp_path):
    folder, workdir, _ = stopped
    shutil.copytree(workdir, tmp_path / "run")
    moved = tmp_path / "moved.png"
    picture = folder / "train" / f"{DAMAGED:02}.png"
    picture.rename(moved)
    try:
        outcome = train(folder, tmp_path / "run")
    finally:
        moved.rename(picture)
    assert outcome.code == 2
    assert "was changed since it began (50 examples then, 49 now)" in outcome.err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
