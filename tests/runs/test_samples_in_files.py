"""Samples drawn into files: whole after any interruption, by whatever format and name."""

import io
import itertools
import json
import shutil
import tarfile
import weakref

import numpy as np
import pytest
from launching import contents
from PIL import Image

import jaxgen
from jaxgen.core import grids
from jaxgen.parallel import sampling as parallel_sampling
from jaxgen.runs import sample_files, sample_parts, sample_settings, sampling
from jaxgen.runs.refusals import RefusedError

pytestmark = pytest.mark.xdist_group("runs")

COUNT = 20
SETTINGS = {"count": COUNT, "seed": 2, "label": [3, 8, 1]}


@pytest.fixture(scope="module")
def small(workdir):
    """The run with batches of 8 images, so that 20 take three."""
    return jaxgen.open(workdir, **{"sample.batch_size": 8})


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    """A directory with `images.npz` and what lies beside it."""
    directory = tmp_path_factory.mktemp("undisturbed")
    written = sampling.write(small, directory / "images.npz", **SETTINGS)
    beside = (directory / "images.png", directory / "images.json")
    assert written == (directory / "images.npz", *beside, COUNT, False)
    return directory


def interrupted(run, output, monkeypatch, after):
    """Draws until some parts are written, then a Ctrl-C; returns what was said."""
    said, add, written = [], sample_parts.SampleParts.add, itertools.count()

    def stop(parts, first, images):
        if next(written) == after:
            raise KeyboardInterrupt
        add(parts, first, images)

    with monkeypatch.context() as patch:
        patch.setattr(sample_parts.SampleParts, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            sampling.write(run, output, **SETTINGS, say=said.append)
    return said


def test_the_file_holds_the_images_of_sample_and_their_labels(small, undisturbed):
    with np.load(undisturbed / "images.npz") as arrays:
        assert set(arrays) == {"images", "labels"}
        assert (arrays["images"].dtype, arrays["labels"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(arrays["images"], small.sample(**SETTINGS))
        np.testing.assert_array_equal(arrays["labels"], small.labels(COUNT, SETTINGS["label"]))
    expected = io.BytesIO()
    np.savez_compressed(expected, images=small.sample(**SETTINGS), labels=small.labels(COUNT, SETTINGS["label"]))
    assert (undisturbed / "images.npz").read_bytes() == expected.getvalue()
    record = json.loads((undisturbed / "images.json").read_text())
    assert (record["step"], record["seed"], record["labels"], record["num_samples"]) == (4, 2, [3, 8, 1], COUNT)
    assert (record["run"], record["changed"]) == (str(small.directory), {})
    assert sorted(path.name for path in undisturbed.iterdir()) == ["images.json", "images.npz", "images.png"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_is_interrupted_goes_on_at_the_first_missing_image(small, undisturbed, tmp_path, monkeypatch, after):
    output, drawn = tmp_path / "images.npz", []
    said = interrupted(small, output, monkeypatch, after)
    kept = f"{8 * after} of 20 images are kept in {tmp_path}/images.npz.parts: the same command goes on there."
    assert said == ([kept] if after else [])
    assert [path.name for path in tmp_path.iterdir()] == (["images.npz.parts"] if after else [])
    if after:  # what a process leaves that is killed while it writes
        (tmp_path / "images.npz.parts" / ".images-000000000008.npz.tmp.npz").write_bytes(b"half")
        (tmp_path / "images.npz.parts" / "finished.npz").write_bytes(b"half")
    draw = parallel_sampling.draw_batches
    monkeypatch.setattr(parallel_sampling, "draw_batches", lambda *a, **o: drawn.append(o["start"]) or draw(*a, **o))
    written = sampling.write(small, output, **SETTINGS)
    assert (written.drawn, drawn) == (COUNT - 8 * after, [8 * after])
    assert contents(tmp_path) == contents(undisturbed)


def test_the_end_of_the_work_can_be_interrupted_too(small, undisturbed, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    for where, name in ((sampling, "_write_grid"), (sampling, "_size"), (sample_parts.SampleParts, "remove")):
        assert not (tmp_path / "images.npz").exists()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, stop)
            said = []
            with pytest.raises(KeyboardInterrupt):
                sampling.write(small, tmp_path / "images.npz", **SETTINGS, say=said.append)
            assert said[-1].startswith("20 of 20 images are kept in ")
    assert (tmp_path / "images.npz.parts").exists()
    assert sampling.write(small, tmp_path / "images.npz", **SETTINGS).found
    assert contents(tmp_path) == contents(undisturbed)


def test_parts_may_be_of_other_batches(workdir, undisturbed, tmp_path, monkeypatch, small):
    """The size of a batch is free, as after a lack of memory: images are the same but for the rounding of floats."""
    interrupted(small, tmp_path / "images.npz", monkeypatch, 1)
    written = sampling.write(jaxgen.open(workdir, **{"sample.batch_size": 16}), tmp_path / "images.npz", **SETTINGS)
    assert written.drawn == 12
    ours, theirs = (np.load(directory / "images.npz")["images"] for directory in (tmp_path, undisturbed))
    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def of_others(path):
    with np.load(path) as arrays:
        changed = {**arrays, "identity": np.array("another")}
    np.savez(path, **changed)


def misplaced(path):
    shutil.copy(path.with_name("images-000000000008.npz"), path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (damaged, "was damaged"),
        (cut, "was damaged"),
        (of_others, "is of other settings"),
        (misplaced, "holds other images than its name says"),
    ],
)
def test_parts_are_verified_before_they_are_used(small, undisturbed, tmp_path, monkeypatch, spoil, sentence):
    interrupted(small, tmp_path / "images.npz", monkeypatch, 2)
    spoil(tmp_path / "images.npz.parts" / "images-000000000000.npz")
    said, done = [], []

    def on_progress(name, count, total):
        assert total == (2 if name == "verifying images" else COUNT)
        done.append((name, count))

    written = sampling.write(small, tmp_path / "images.npz", **SETTINGS, say=said.append, on_progress=on_progress)
    assert written.drawn == 12  # the first part and the one that was missing; the second one was whole
    assert len(said) == 2
    assert f"images-000000000000.npz {sentence}" in said[0]
    assert said[1].startswith("8 of 20 images are in")
    assert [count for name, count in done if name == "drawing images"] == [8, 16, 20]
    assert [count for name, count in done if name == "writing images"] == [0, 8, 16, 20]
    assert contents(tmp_path) == contents(undisturbed)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"count": 21}, "num_samples: 20 there"),
        ({"seed": 3}, "seed: 2 there"),
        ({"label": [3]}, r"labels: \[3, 8, 1\] there"),
        ({"label": None}, r"labels: \[3, 8, 1\] there"),
    ],
)
def test_parts_and_files_of_other_settings_are_refused(small, undisturbed, tmp_path, monkeypatch, changes, named):
    interrupted(small, tmp_path / "images.npz", monkeypatch, 1)
    for directory, sentence in (
        (tmp_path, "unfinished images of other settings"),
        (undisturbed, "is there already, but"),
    ):
        before = contents(directory)
        with pytest.raises(RefusedError, match=f"{sentence}.*{named}"):
            sampling.write(small, directory / "images.npz", **{**SETTINGS, **changes})
        assert contents(directory) == before


def test_parts_of_another_checkpoint_or_another_setting_are_refused(workdir, small, tmp_path, monkeypatch):
    interrupted(small, tmp_path / "images.npz", monkeypatch, 1)
    older = jaxgen.open(workdir, step=2)
    with pytest.raises(RefusedError, match=r"step: 4 there; checkpoint: '\w+' there"):
        sampling.write(older, tmp_path / "images.npz", **SETTINGS)
    changed = jaxgen.open(workdir, **{"ema.decay": 0.5})
    with pytest.raises(RefusedError, match=r"config: '\w+' there; changed: {} there"):
        sampling.write(changed, tmp_path / "images.npz", **SETTINGS)


def test_a_damaged_record_of_the_parts_is_said(small, undisturbed, tmp_path, monkeypatch):
    interrupted(small, tmp_path / "images.npz", monkeypatch, 1)
    record, said = tmp_path / "images.npz.parts" / "settings.json", []
    record.write_text(record.read_text().replace('"seed": 2', '"seed": 3'))
    assert sampling.write(small, tmp_path / "images.npz", **SETTINGS, say=said.append).drawn == 12
    assert "was damaged" in said[0]
    assert contents(tmp_path) == contents(undisturbed)


def test_files_of_the_same_settings_are_the_result(small, undisturbed, tmp_path):
    before = contents(undisturbed)
    written = sampling.write(small, undisturbed / "images.npz", **SETTINGS)
    assert (written.drawn, written.found) == (0, True)
    assert contents(undisturbed) == before
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "images.npz").write_bytes(before["images.npz"] + b"!")
    with pytest.raises(RefusedError, match="it was changed since"):
        sampling.write(small, tmp_path / "images.npz", **SETTINGS)
    (tmp_path / "images.npz").unlink()  # what is left beside it may be written again
    assert sampling.write(small, tmp_path / "images.npz", **SETTINGS).drawn == COUNT
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["images.npz", "images.png", "images.json"])
def test_files_of_the_user_are_not_overwritten(small, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RefusedError, match=rf"{name} is there already"):
        sampling.write(small, tmp_path / "images.npz", **SETTINGS)
    assert contents(tmp_path) == {name: b"mine"}


def test_two_processes_do_not_draw_the_same_file(small, tmp_path):
    job = sampling._job(small, tmp_path / "images.npz", COUNT, 2, None, {}, "npz")
    with job.parts.held(print):
        with pytest.raises(RefusedError, match=r"is in use by .*--output"):
            sampling.write(small, tmp_path / "images.npz", count=COUNT, seed=2)
        assert job.parts.directory.exists()
        job.output.touch()
        with pytest.raises(ValueError, match="is there already, since a moment ago"):
            sampling._open(job, print, lambda *report: None)
        job.output.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_before_anything_is_drawn(small, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    needed = 2 * COUNT * 64
    for free, fits in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        if fits:
            sampling.write(small, tmp_path / "new" / "images.npz", count=COUNT)
        else:
            with pytest.raises(RefusedError, match=r"20 images need up to 0\.0 GB .* make room"):
                sampling.write(small, tmp_path / "new" / "images.npz", count=COUNT)
            assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 0}, r"is 0, but must lie in \[1, 2,147,483,647\]"),
        ({"count": 2**31}, "is 2,147,483,648, but must lie in"),
        ({"count": 4, "seed": 2**32}, r"seed is 4294967296, but a seed must lie in \[0, 4294967295\]"),
        ({"count": 4, "seed": -1}, "seed is -1"),
        ({"count": 4, "label": 10}, "no class 10"),
        ({"count": 4, "format": "gif"}, "'gif', but must be one of npz, png, webdataset"),
        ({"count": 4, "cond": {"color": 3}}, "'color'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(small, tmp_path, options, sentence):
    with pytest.raises(RefusedError, match=sentence):
        sampling.write(small, tmp_path / "images.npz", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "name"), [("npz", "images"), ("png", "images.npz"), ("webdataset", "images.npz")])
def test_the_name_of_the_output_fits_the_format(small, tmp_path, format, name):
    with pytest.raises(RefusedError, match=rf"--format={format} writes is a .*\.npz"):
        sampling.write(small, tmp_path / name, count=4, format=format)


def test_pngs_are_named_by_index_and_class(small, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(vars(small), "class_names", ("0", "a/b ü", "2", "sneaker", *"4567", "..", "9"))
    sampling.write(small, tmp_path / "v1.5", **SETTINGS, format="png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1.5", "v1.5.json", "v1.5.png"]
    names = sorted(path.name for path in (tmp_path / "v1.5").iterdir())
    assert names[:4] == ["000000_3-sneaker.png", "000001_8.png", "000002_1-a-b-ü.png", "000003_3-sneaker.png"]
    images = np.load(undisturbed / "images.npz")["images"]
    for name, image in zip(names, images, strict=True):
        with Image.open(tmp_path / "v1.5" / name) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0])


def test_shards_of_a_webdataset_hold_image_class_and_facts(small, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "SHARD_IMAGES", 8)
    for name in ("a", "b"):
        sampling.write(small, tmp_path / name / "shards", **SETTINGS, format="webdataset")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    images, i = np.load(undisturbed / "images.npz")["images"], 0
    paths = sorted((tmp_path / "a" / "shards").iterdir())
    assert [path.name for path in paths] == ["000000.tar", "000001.tar", "000002.tar"]
    for path, size in zip(paths, (8, 8, 4), strict=True):
        with tarfile.open(path) as shard:
            names = shard.getnames()
            assert len(names) == 3 * size
            for names_of_one in zip(names[::3], names[1::3], names[2::3], strict=True):
                assert names_of_one == (f"{i:06d}.png", f"{i:06d}.json", f"{i:06d}.cls")
                png, facts, number = (shard.extractfile(name).read() for name in names_of_one)
                np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), images[i, ..., 0])
                label = [3, 8, 1][i % 3]
                assert json.loads(facts) == {"index": i, "seed": 2, "label": label, "class": str(label)}
                assert number == str(label).encode()
                i += 1
    assert i == COUNT


def test_no_format_holds_all_images_at_once(tmp_path):
    """Parts are read one by one, each when the one before it has been written."""
    for format in sample_files.FORMATS:
        read = []

        def parts(read=read):
            for first in range(0, 80, 8):
                read.append(first)
                yield np.full((8, 2, 2, 1), first, np.uint8)

        seen = []
        sample_files.write(
            format,
            tmp_path / f"{format}.npz",
            parts(),
            sample_files.Labeled(None, (), 0),
            count=80,
            on_done=lambda done, read=read, seen=seen: seen.append((done, len(read))),
        )
        assert seen == [(8 * i, i) for i in range(1, 11)]  # no part is read ahead


@pytest.mark.parametrize("format", sample_files.FORMATS)
def test_two_batches_are_held_at_most(small, tmp_path, monkeypatch, format):
    made, most = [], []

    def watched(images):
        made.append(weakref.ref(images))
        most.append(sum(array() is not None for array in made))
        return images

    def batches(run, count, *, start, stop, **options):
        for first in range(start, stop, 8):
            yield watched(np.full((8, 8, 8, 1), first, np.uint8))

    read = sample_parts.SampleParts._read
    monkeypatch.setattr(type(small), "sample_batches", batches)
    monkeypatch.setattr(sample_parts.SampleParts, "_read", lambda *arguments: watched(read(*arguments)))
    monkeypatch.setattr(sampling, "GRID_LIMIT", 4)
    assert sampling.write(small, tmp_path / f"new{'.npz' * (format == 'npz')}", count=80, format=format).drawn == 80
    assert len(made) >= 21  # drawn, read to be written, and one read for the grid
    assert max(most) == 2


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    images = np.random.default_rng(0).integers(2**16, size=(3, 4, 5, 1)).astype(np.uint16)
    unlabeled = sample_files.Labeled(None, (), 0)
    for format in sample_files.FORMATS:
        sample_files.write(format, tmp_path / format, iter([images]), unlabeled, count=3, on_done=lambda done: None)
    np.testing.assert_array_equal(np.load(tmp_path / "npz")["images"], images)
    with tarfile.open(tmp_path / "webdataset" / "000000.tar") as shard:
        assert shard.getnames() == [
            "000000.png",
            "000000.json",
            "000001.png",
            "000001.json",
            "000002.png",
            "000002.json",
        ]
        picture = np.asarray(Image.open(shard.extractfile("000001.png")))
    np.testing.assert_array_equal(picture, images[1, ..., 0])
    with Image.open(tmp_path / "png" / "000002.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), images[2, ..., 0])
    with pytest.raises(ValueError, match=r"uint16 of 3.*--format=npz"):
        sample_files.choose("png", np.uint16, 3)
    with pytest.raises(ValueError, match="uint8 of 5"):
        sample_files.choose("webdataset", np.uint8, 5)
    assert sample_files.choose("npz", np.uint16, 5) == "npz"


def test_default_names_tell_all_settings_apart(workdir):
    def named(options=(), *, step=4, **arguments):
        run = jaxgen.open(workdir, **dict(options))
        vars(run)["_restored"] = (None, step)  # a name needs no weights
        path = sample_settings.default_output(run, **{"count": 100, **arguments})
        assert path.parent == workdir / "samples"
        return path.name

    assert named(chosen=(3, 8)) == "step4_seed0_n100_labels3,8.npz"
    names = [
        named(),
        named(step=2),
        named(count=101),
        named(seed=1),
        named(chosen=(3, 8)),
        named(chosen=(8, 3)),
        named(chosen=(38,)),
        named(chosen=tuple(range(200))),
        named(chosen=(*range(199), 198)),
        named(format="png"),
        named(format="webdataset"),
        named(cond={"color": 3}),
        named(cond={"color": 4}),
        named(cond={"text": [1, 2]}),
        named([("ema.decay", 0.5)]),
        named([("ema.decay", 0.25)]),
        named([("vae.beta", 0.5)]),
        named([("ema.include", "params/.*")]),
        named([("ema.include", "params:?.*")]),
        named([("ema.include", "params/?.*")]),
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) < 180 and "/" not in name for name in names)
    for free in ("sample.batch_size", "log.norms_depth", "data.path"):  # which no image depends on
        assert named([(free, 3 if free != "data.path" else "elsewhere")]) == named()


def test_words_of_settings_are_short():
    assert sample_settings._word("sampler.guidance_scale", 2.0) == "guidance2"
    assert sample_settings._word("sampler.name", "ddim") == "ddim"
    assert sample_settings._word("sampler.num_steps", 50) == "num_steps50"
    assert sample_settings._word("ema.decay", 0.123456789) == "ema.decay0.123456789"


NAMES = ("ankle boot", "bag", "sneaker")
NUMBERS = ("0", "1", "2", "10", "11")


@pytest.mark.parametrize(
    ("names", "words", "numbers"),
    [
        (NAMES, ["sneaker", " bag"], [2, 1]),
        (NAMES, ["ankle boot", "2"], [0, 2]),
        (NAMES, ["7", "-1"], [7, -1]),  # refused where classes are checked
        (NUMBERS, ["10", "2"], [3, 2]),
        (("0000", "0001", "0010"), ["10", "0001"], [2, 1]),
        ((), ["3", "8"], [3, 8]),
        (("cat", "1", "dog"), ["1"], [1]),  # the name and the number agree
    ],
)
def test_classes_are_given_by_name_or_number(names, words, numbers):
    assert sample_settings.class_numbers(names, words) == numbers


@pytest.mark.parametrize(
    ("names", "word", "sentence"),
    [
        (NAMES, "shoe", "no class 'shoe'; the classes are ankle boot, bag, sneaker"),
        (NUMBERS, "3", "no class '3'; the classes are 0, 1, 2, 10, 11"),
        (("1", "cat"), "1", "'1', which may be any of the classes 0, 1"),
        (("cat", "cat"), "cat", "any of the classes 0, 1"),
        (("1", "01"), "001", "any of the classes 0, 1"),
        ((), "bag", "'bag', but must be numbers such as 3,8"),
        (tuple(f"c{i}" for i in range(100)), "d", "c39 and 60 more"),
    ],
)
def test_classes_that_are_none_or_several_are_refused(names, word, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample_settings.class_numbers(names, [word])


def test_the_grid_shows_the_first_images_by_class(small, undisturbed):
    images = np.load(undisturbed / "images.npz")["images"]
    picture = np.asarray(Image.open(undisturbed / "images.png"))
    expected = grids.picture(images, labels=small.labels(COUNT, SETTINGS["label"]), class_names=small.class_names)
    assert expected.shape[0] == picture.shape[0] * (expected.shape[0] // picture.shape[0])
    np.testing.assert_array_equal(picture, expected[..., 0])
