"""What else commands make of a run, called from Python."""

import numpy as np
import pytest
from PIL import Image

import jaxgen
from jaxgen.data import read_arrays
from jaxgen.runs import averages, encoding, inspection
from jaxgen.runs.opened import Run

pytestmark = pytest.mark.xdist_group("runs")


def test_checkpoints_are_listed_and_a_dry_run_deletes_none(run, workdir):
    keep = inspection.retention_of(run.settings.train, keep_last=1)
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    found = inspection.inspect(workdir, prune=keep, dry_run=True)
    assert [entry.path.name for entry in found.entries] == ["4", "2"]
    assert {entry.condition for entry in found.entries} == {inspection.WHOLE}
    assert (found.deleted, found.damaged, found.others) == ([2], [], [])
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before
    quick = inspection.inspect(workdir)
    assert ({entry.condition for entry in quick.entries}, quick.deleted) == ({inspection.UNREAD}, [])
    assert {entry.condition for entry in inspection.inspect(workdir, verify=True).entries} == {inspection.WHOLE}


def test_what_a_run_keeps_is_changed_by_what_is_given(run):
    keep = inspection.retention_of(run.settings.train)
    assert inspection.retention_of(run.settings.train, keep_last=7) == keep._replace(last=7)
    assert inspection.retention_of(run.settings.train, keep_every=5) == keep._replace(every_steps=5)
    assert inspection.retention_of(run.settings.train, keep_every=0) == keep._replace(every_steps=None)


def test_what_cannot_be_made_is_refused(run, workdir, tmp_path):
    (tmp_path / "mine").write_text("mine")
    calls = {
        "is there already, and not empty: choose another directory": lambda: averages.reconstruct(
            run, tmp_path, sigma_rel=0.1
        ),
        "train with ema.kind=power": lambda: averages.reconstruct(run, tmp_path / "new", sigma_rel=0.1),
        "exists already": lambda: encoding.encode(run, tmp_path),
        "training images is 0, but must be at least 1": lambda: encoding.encode(run, tmp_path / "new", num_train=0),
        "latents of this model depend on label": lambda: encoding.encode(run, tmp_path / "new"),
        "has no checkpoints": lambda: inspection.inspect(without_checkpoints(workdir, tmp_path)),
    }
    for sentence, call in calls.items():
        with pytest.raises(ValueError, match=sentence):
            call()
    assert not (tmp_path / "new").exists()


def without_checkpoints(workdir, tmp_path):
    home = tmp_path / "empty"
    home.mkdir()
    (home / "data.json").write_bytes((workdir / "data.json").read_bytes())
    return home


def test_faulty_examples_that_are_skipped_are_told(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
    damaged = tmp_path / "train" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    settings = {"data.name": "folder", "data.path": str(tmp_path), "data.on_fault": "skip"}
    said = []
    data = Run(tmp_path, jaxgen.config("vae:tiny", **settings)).data("train", say=said.append)
    assert len(read_arrays(data)["image"]) == len(data.examples) > 1
    assert len(said) == 1
    assert said[0].startswith(f"Skipped: {damaged}")
