"""The source that fits what lies at a path, and the refusals that name it."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import facts, load
from jaxgen.data.recognition import advice, fitting_name


def png():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "png")
    return stream.getvalue()


def save_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, png())


def save_tar(path, names, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(png())
            archive.addfile(member, io.BytesIO(png()))


def save_files(path, names, content=b"?"):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


KINDS = {
    "pictures": ("folder", lambda path: save_files(path, ["cat/.x", "cat/deep/1.PNG"])),
    "latents": ("latents", lambda path: save_files(path, ["latents.json", "train/moments.npy"])),
    "idx": ("idx", lambda path: save_files(path, ["MNIST/raw/train-images.idx3-ubyte"])),
    "cifar": ("cifar", lambda path: save_files(path, ["cifar-10-batches-py/data_batch_1"])),
    "cifar binary": ("cifar", lambda path: save_files(path, ["data_batch_1.bin"])),
    "cifar of 100 classes": ("cifar", lambda path: save_files(path, ["meta", "test", "train"])),
    "cifar of 100 classes, binary": ("cifar", lambda path: save_files(path, ["fine_label_names.txt", "test.bin"])),
    "cifar in its archive": ("cifar", lambda path: save_files(path, ["cifar-10-python.tar.gz"])),
    "two names of cifar": (None, lambda path: save_files(path, ["test", "train"])),
    "parquet": ("parquet", lambda path: save_files(path, ["data/train-00000-of-00001.parquet"])),
    "npy": ("arrays", lambda path: save_files(path, ["x_train.npy"])),
    "npz": ("arrays", lambda path: save_files(path, ["digits/all.NPZ"])),
    "hidden": (None, lambda path: save_files(path, [".cache/a.parquet", ".b.npy"])),
    "empty": (None, lambda path: path.mkdir()),
    "other": (None, lambda path: save_files(path, ["readme.txt"])),
    "a.npz": ("arrays", lambda path: np.savez(path, images=np.zeros(3))),
    "a.npy": ("arrays", lambda path: np.save(path, np.zeros(3))),
    "train-labels-idx1-ubyte.gz": ("idx", lambda path: path.write_bytes(b"?")),
    "labels": ("idx", lambda path: path.write_bytes(b"\0\0\x08\x01\0\0\0\1\0")),
    "images": ("idx", lambda path: path.write_bytes(b"\0\0\x08\x03\0\0\0\1\0")),
    "test_batch.bin": ("cifar", lambda path: path.write_bytes(b"?")),
    "a.parquet": ("parquet", lambda path: path.write_bytes(b"PAR1...PAR1")),
    "a.zip": ("archive", lambda path: save_zip(path, ["x/readme.txt", "x/1.jpg"])),
    "mixed.zip": ("archive", lambda path: save_zip(path, ["a.npy", "1.jpg"])),
    "c.zip": ("cifar", lambda path: save_zip(path, ["cifar-10-batches-bin/data_batch_1.bin", "1.jpg"])),
    "empty.zip": (None, lambda path: save_zip(path, [])),
    "text.zip": (None, lambda path: save_zip(path, ["readme.txt"])),
    "a.tar": ("archive", lambda path: save_tar(path, ["1.png"])),
    "a.tgz": ("archive", lambda path: save_tar(path, ["1.png"], "w:gz")),
    "c.tar.gz": ("cifar", lambda path: save_tar(path, ["cifar-100-python/train"], "w:gz")),
    "broken.zip": (None, lambda path: path.write_bytes(b"PK\3\4")),
    "broken.gz": (None, lambda path: path.write_bytes(b"\x1f\x8b\x08\0")),
    "nothing": (None, lambda path: path.write_bytes(b"")),
    "absent": (None, lambda path: None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_that_fits_is_found(kind, tmp_path):
    name, make = KINDS[kind]
    make(tmp_path / kind)
    assert fitting_name(tmp_path / kind) == name
    assert (advice(tmp_path / kind) == "") == (name is None)
    assert advice(tmp_path / kind, name=name) == ""


def test_advice_names_the_directory_of_a_file_that_is_one_of_several(tmp_path):
    file = tmp_path / "t10k-images.idx3-ubyte"
    file.write_bytes(b"?")
    expected = f"{file} is a file in MNIST's format: set data.name=idx and data.path={tmp_path}."
    assert advice(file) == expected
    assert advice(file, name="fashion") == ""
    assert advice(tmp_path) == f"{tmp_path} is a directory of files in MNIST's format: set data.name=idx."
    assert advice(tmp_path, name="fashion") == ""


def test_advice_names_the_directory_of_a_file_of_cifar_but_its_archive_itself(tmp_path):
    file, archive = tmp_path / "data_batch_3", tmp_path / "cifar-10-python.tar.gz"
    file.write_bytes(b"?")
    assert advice(file) == f"{file} is one of CIFAR's files: set data.name=cifar and data.path={tmp_path}."
    save_tar(archive, ["cifar-10-batches-py/data_batch_3"], "w:gz")
    assert advice(archive) == f"{archive} is the archive of CIFAR: set data.name=cifar."


@pytest.mark.parametrize("name", ["digits", "shapes", "cifar10", "folder", "idx", "latents", "nosuch"])
def test_every_refusal_of_a_path_names_the_source_that_reads_it(name, tmp_path):
    path = tmp_path / "a.tar"
    save_tar(path, ["1.png"])
    for use in (lambda: load(name, "train", path=str(path)), lambda: facts(name, path=str(path))):
        with pytest.raises(ValueError, match=rf"{path} is a tar of pictures: set data\.name=archive\.$"):
            use()


def test_a_path_that_nothing_reads_is_refused_as_before(tmp_path):
    with pytest.raises(ValueError, match=r"takes data_dir: leave it out, or correct it, since .*absent is not there"):
        load("digits", "train", path=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"takes data_dir: set data\.name to the source that reads what lies there"):
        load("digits", "train", path=str(tmp_path))
    with pytest.raises(ValueError, match="There are no pictures in"):
        load("folder", "train", path=str(tmp_path))
