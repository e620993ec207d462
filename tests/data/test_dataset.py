import threading

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


def test_threads_decode_parts_of_many_examples_each_once_and_in_order():
    threads, calls = set(), []

    def decode(item):
        threads.add(threading.current_thread().name)
        calls.append(item)
        return {"image": np.full((1, 1, 1), item, np.uint8)}

    examples = DecodedExamples(range(100), decode, str)
    wanted = [*range(99, 20, -1), 40, 40]
    for _ in range(2):
        assert [int(example["image"][0, 0, 0]) for example in examples.__getitems__(wanted)] == wanted
    assert sorted(calls) == [0, *range(21, 100)]  # and the first one, for its shape
    assert {name.partition("_")[0] for name in threads - {"MainThread"}} == {"decoding"}
    calls.clear()
    examples.__getitems__(list(range(1, 9)))  # too few to be divided
    assert calls == list(range(1, 9))


def test_the_first_fault_among_many_examples_is_named():
    items = [2] * 40 + ["broken"] + [2] * 40 + ["broken"] + [2] * 10
    examples = DecodedExamples(items, decoder([]), lambda index: f"Picture {index}")
    with pytest.raises(FaultyExampleError, match="Picture 40 cannot be read"):
        examples.__getitems__(range(len(items)))


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


@pytest.mark.parametrize(
    ("count", "names", "shape", "expected"),
    [
        (3, ("cat", "dog"), (2, 3, 1), "Data: 3 images of 2x3x1, 2 classes: 0 cat, 1 dog"),
        (1_200, ("cat",), (2, 3, 3), "Data: 1,200 images of 2x3x3, 1 class: 0 cat"),
        (3, (), (2, 3, 1), "Data: 3 images of 2x3x1, no classes"),
        (3, tuple("0123"), (2, 3, 1), "Data: 3 images of 2x3x1, 4 classes, 0 to 3"),
        (
            3,
            tuple("abcdefghijkl"),
            (2, 3, 1),
            "Data: 3 images of 2x3x1, 12 classes: 0 a, 1 b, 2 c, 3 d, 4 e, 5 f, 6 g, 7 h, 8 i, 9 j and 2 more",
        ),
        (dataset_lib.ENDLESS, tuple("ab"), (2, 3, 1), "Data: endless images of 2x3x1, 2 classes: 0 a, 1 b"),
    ],
)
def test_a_dataset_is_summed_up_in_a_line(count, names, shape, expected):
    dataset = dataset_lib.Dataset(range(count), shape, dataset_lib.label_of(len(names)), names)
    assert dataset.summary == expected


def test_the_summary_of_what_has_no_names():
    dataset = dataset_lib.Dataset(range(5), (4, 4, 8), dataset_lib.label_of(1_000), image_dtype="float32")
    assert dataset.summary == "Data: 5 latents of 4x4x8, 1,000 classes, 0 to 999"


def test_notes_stay_with_the_dataset():
    assert decoded_dataset([2], decoder([]), str, notes=("One.",)).notes == ("One.",)
