import numpy as np
import pytest

from jaxgen.data import dataset as dataset_lib
from jaxgen.data.dataset import DecodedExamples, FaultyExampleError, decoded_dataset


def decoder(calls):
    def decode(item):
        calls.append(item)
        if item == "broken":
            raise OSError("truncated")
        return {"image": np.zeros((item, 2, 1), np.uint8), "label": np.int32(0)}

    return decode


def test_small_datasets_are_decoded_once():
    calls = []
    examples = DecodedExamples([2, 2, 2], decoder(calls), str)
    for _ in range(3):
        examples.__getitems__([1, 2])
    assert calls == [2, 2, 2]  # the first one, for its shape, and the two that were asked for


def test_large_datasets_are_decoded_at_every_reading(monkeypatch):
    monkeypatch.setattr(dataset_lib, "CACHE_BYTES", 3 * 4 - 1)
    calls = []
    examples = DecodedExamples([2, 2, 2], decoder(calls), str)
    for _ in range(3):
        examples.__getitems__([1, 2])
    assert len(calls) == 1 + 6


def test_a_dataset_knows_its_shape_and_classes():
    dataset = decoded_dataset([2, 2], decoder([]), str, class_names=("cat", "dog"))
    assert (len(dataset.examples), dataset.image_shape, dataset.num_classes) == (2, (2, 2, 1), 2)


def test_an_example_that_cannot_be_read_is_named():
    examples = DecodedExamples([2, "broken"], decoder([]), lambda index: f"Picture {index}")
    with pytest.raises(FaultyExampleError, match="Picture 1 cannot be read: truncated"):
        examples[1]


def test_the_first_example_that_can_be_read_has_the_shape():
    assert DecodedExamples(["broken", "broken", 3, 2], decoder([]), str).image_shape == (3, 2, 1)


def test_data_that_cannot_be_read_at_all_is_refused():
    sentence = "Picture 0 cannot be read: truncated. None of the first 2 examples can be read: restore the data"
    with pytest.raises(ValueError, match=sentence):
        DecodedExamples(["broken"] * 2, decoder([]), lambda index: f"Picture {index}")
    with pytest.raises(ValueError, match="There are no examples: restore the data"):
        DecodedExamples([], decoder([]), str)


def test_an_example_of_another_shape_is_named():
    examples = DecodedExamples([2, 3], decoder([]), lambda index: f"Picture {index}")
    with pytest.raises(FaultyExampleError, match=r"Picture 1 has shape \(3, 2, 1\).*\(2, 2, 1\): set data.image_size"):
        examples[1]
