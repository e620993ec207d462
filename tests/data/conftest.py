"""Data that the tests prepare once. Nothing here is downloaded."""

import pytest

from jaxgen.data.sources import digits


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("prepared"))
    digits.load("train", data_dir=directory)
    return directory
