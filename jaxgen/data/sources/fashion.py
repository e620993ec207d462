"""Fashion-MNIST, 60,000 + 10,000 gray pictures of clothes, 28x28, in ten classes.

Xiao et al. 2017, https://arxiv.org/abs/1708.07747; in Debian and Ubuntu, the package dataset-fashion-mnist.
"""

import os
import pathlib

from jaxgen.core import paths
from jaxgen.data.dataset import Dataset, Facts, label_of
from jaxgen.data.pictures import ImageSize, check_options, sides
from jaxgen.data.sources import idx

_DIRECTORY = "fashion-mnist"
_PACKAGE = pathlib.Path("/usr/share/datasets") / _DIRECTORY


def load(
    split: str, *, path: str | None = None, data_dir: str | None = None, image_size: ImageSize | None = None
) -> Dataset:
    """Opens Fashion-MNIST where it is found.

    Args:
      split: "train" (60,000) or "test" (10,000).
      path: the directory of its four files, gzipped or not; None looks for `fashion-mnist` in `data_dir`, or in
        $JAXGEN_DATA_DIR and then where Debian's package puts it.
      data_dir: a directory that holds `fashion-mnist`.
      image_size: height and width to resize to, or one number for both; None keeps 28.

    Raises:
      ValueError: if it is not found, with the ways to get it, or files are damaged.
    """
    home = path or str(_home(data_dir))
    dataset = idx.load(split, path=home, image_size=image_size)
    if dataset.class_names != idx.FASHION:
        raise ValueError(
            f"The labels in {home} are not those of Fashion-MNIST, so the names of its classes would be wrong: set "
            "data.name=idx to read these files."
        )
    return dataset


def facts(*, path: str | None = None, data_dir: str | None = None, image_size: ImageSize | None = None) -> Facts:
    """Returns shape and classes of Fashion-MNIST, which need not be there; the arguments are those of `load`."""
    del path, data_dir
    check_options(image_size=image_size, crop=None)
    return Facts((*sides(28 if image_size is None else image_size), 1), label_of(len(idx.FASHION)))


def _home(data_dir: str | None) -> pathlib.Path:
    """The first of the places that is there."""
    environment = os.environ.get("JAXGEN_DATA_DIR")
    given = data_dir or environment
    places = [paths.expanded(given, where="data.data_dir") / _DIRECTORY] if given else []
    if not data_dir:
        places.append(_PACKAGE)
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(
        f"Fashion-MNIST is not in {' or '.join(map(str, places))}: run apt-get install dataset-fashion-mnist, or set "
        "data.path to the directory of its four files, such as train-images-idx3-ubyte.gz, from "
        "https://github.com/zalandoresearch/fashion-mnist."
    )
