"""A run whose data, or the run that it starts from, lie elsewhere now: what lies there decides, not the path."""

import shutil

import numpy as np
import pytest
from launching import TINY, contents, launch
from PIL import Image

import jaxgen
from jaxgen.training.workdir import load_config

pytestmark = pytest.mark.xdist_group("cli")

QUIET = ["--config.evaluate.num_samples=0", "--config.log.tensorboard=False", "--config.train.sample_every_steps=9"]
OF_PICTURES = ["--config.data.name=folder", "--config.data.channels=1", "--config.vae.class_conditional=False"]
FOLDER = [TINY, *QUIET, *OF_PICTURES, "--config.optimizer.schedule=constant"]


def pictures(directory, *, first=0):
    directory.mkdir()
    for i in range(first, first + 40):
        image = np.random.default_rng(i).integers(256, size=(8, 8), dtype=np.uint8)
        Image.fromarray(image).save(directory / f"{i}.png")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A home with a run of two steps and its pictures, named from there; and other pictures."""
    home = tmp_path_factory.mktemp("old")
    pictures(home / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        more = ["--config.data.path=~/pictures", "--config.train.num_steps=2", "--workdir=~/run"]
        outcome = launch("train", *FOLDER, *more)
    assert outcome.code == 0, outcome.err
    assert load_config(home / "run").data.path == "~/pictures"
    return home


@pytest.fixture
def moved(begun, tmp_path, monkeypatch):
    """The same on another machine, where the pictures have another name."""
    shutil.copytree(begun / "run", tmp_path / "run")
    shutil.copytree(begun / "pictures", tmp_path / "images")
    pictures(tmp_path / "others", first=1_000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMAGES", "images")
    return tmp_path


@pytest.mark.parametrize("path", ["~/images", "{home}/images", "$HOME/$IMAGES"])
def test_a_run_goes_on_with_its_data_elsewhere_and_finds_them_there_later(moved, path):
    path = path.format(home=moved)
    outcome = launch("train", *FOLDER, f"--config.data.path={path}", "--config.train.num_steps=4", "--workdir=~/run")
    assert outcome.code == 0, outcome.err
    assert "Resumed at step 2." in outcome.out
    assert load_config(moved / "run").data.path == path
    assert launch("train", "--workdir=~/run").out == f"{moved}/run is finished: all 4 steps are done.\n"
    assert len(jaxgen.open("~/run").data("train").examples) == len(jaxgen.open(moved / "run").data("train").examples)


def test_other_data_are_refused_and_the_run_keeps_its_path(moved):
    before = contents(moved / "run")
    where = ["--config.train.num_steps=4", "--workdir=~/run"]
    outcome = launch("train", *FOLDER, "--config.data.path=~/others", *where)
    assert outcome.code == 2
    assert "was changed since it began (" in outcome.err
    after = contents(moved / "run")
    assert load_config(moved / "run").data.path == "~/pictures"
    assert {name: before[name] for name in before if name != "config.json"} == {
        name: after[name] for name in before if name != "config.json"
    }
    outcome = launch("train", *FOLDER, "--config.data.path=~/pictures", *where)
    assert outcome.code == 2
    assert f"data.path is '{moved}/pictures', which is not a directory" in outcome.err


def test_the_run_that_another_one_starts_from_may_be_moved_but_not_exchanged(begun, moved):
    here = [*FOLDER, "--config.data.path=~/images", "--config.train.num_steps=2", "--workdir=~/second"]
    assert launch("train", *here, "--init_from=~/run").code == 0
    assert load_config(moved / "second").train.init_from == f"{moved}/run"
    assert launch("train", *here, f"--init_from={begun}/run").code == 0
    assert load_config(moved / "second").train.init_from == f"{begun}/run"
    outcome = launch("train", *here, "--init_from=~/second")
    assert outcome.code == 2
    assert "has started from step 2 of " in outcome.err
    assert outcome.err.count("\n") == 1
    outcome = launch("train", *here)
    assert outcome.code == 2
    assert "holds a run with another config" in outcome.err
