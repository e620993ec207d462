import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest

import jaxgen.data
from jaxgen.core import subsets
from jaxgen.core.conditioning import classes, tokens, vector
from jaxgen.data import ENDLESS, Dataset, StepLayout, pipeline, read_arrays, read_batches, subset_indices, train_batches
from jaxgen.data.dataset import decoded_dataset, label_of
from jaxgen.data.pipeline import shuffled

SETTINGS = {"seed": 3, "microbatches": 2, "microbatch_size": 4}


def numbered(length, num_classes=10):
    """Example i shows its own number in every pixel, and is of class i modulo 10."""

    def decode(item):
        return {"image": np.full((2, 3, 1), item, np.uint8), "label": np.int32(item % 10)}

    dataset = decoded_dataset(range(length), decode, lambda index: f"Number {index}")
    return dataset._replace(conditioning=label_of(num_classes))


def take(count, dataset, **settings):
    batches = train_batches(dataset, **{**SETTINGS, "conditions": tuple(dataset.conditioning), **settings})
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def numbers(batches):
    return np.concatenate([batch["image"][..., 0, 0, 0].reshape(-1) for batch in batches])


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_shapes_types_and_positions():
    (batch,) = take(1, numbered(20))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((2, 4, 2, 3, 1), "uint8"),
        "label": ((2, 4), "int32"),
        "index": ((2, 4), "int32"),
    }
    np.testing.assert_array_equal(batch["index"], [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(batch["label"], batch["image"][..., 0, 0, 0] % 10)


def test_data_without_classes_has_no_labels():
    assert take(1, numbered(20, num_classes=0))[0].keys() == {"image", "index"}


def conditioned(length):
    """Example i is of class i modulo 10, and has the words i, i + 1 and the numbers i / 2, -i."""

    def decode(item):
        own = {"caption": np.array([item, item + 1]), "position": np.array([item / 2, -item])}
        return {"image": np.full((1, 1, 1), item, np.uint8), "label": item % 10, "text": "unused", **own}

    data = decoded_dataset(range(length), decode, lambda index: f"Number {index}")
    return data._replace(conditioning={"label": classes(10), "caption": tokens(2, length + 1), "position": vector(2)})


def test_batches_carry_the_conditions_that_are_asked_for():
    data = conditioned(20)
    assert take(1, data, conditions=())[0].keys() == {"image", "index"}
    (batch,) = take(1, data, conditions=["position", "caption"], rows=np.array([3, 1]))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((2, 2, 1, 1, 1), "uint8"),
        "index": ((2, 2), "int32"),
        "caption": ((2, 2, 2), "int32"),
        "position": ((2, 2, 2), "float32"),
    }
    shown = batch["image"][..., 0, 0, 0].astype(int)
    np.testing.assert_array_equal(batch["caption"], np.stack([shown, shown + 1], axis=-1))
    np.testing.assert_array_equal(batch["position"], np.stack([shown / 2, -shown], axis=-1))


def test_images_keep_their_type():
    data = decoded_dataset(range(8), lambda item: {"image": np.full((1, 1, 2), item / 3, np.float32)}, str)
    assert take(1, data)[0]["image"].dtype == np.float32


@pytest.mark.parametrize("read", [train_batches, read_arrays])
def test_a_condition_that_the_data_lacks_is_refused(read):
    settings = SETTINGS if read is train_batches else {}
    with pytest.raises(ValueError, match="no condition 'text'; its conditions are: label, caption, position"):
        read(conditioned(20), conditions=["label", "text"], **settings)
    with pytest.raises(ValueError, match="no condition 'label'; its conditions are: none"):
        read(numbered(20, num_classes=0), conditions=["label"], **settings)


def growing(step):
    """Microbatches of 1, 2, 4, and 4 for ever."""
    return StepLayout(min(2**step, 4))


def test_a_layout_that_is_the_same_at_every_step_changes_nothing():
    data, rows = numbered(20), np.array([2, 0])
    expected = take(4, data, rows=rows, start_step=3)
    assert_equal(take(4, data, layout_at=lambda step: StepLayout(4, rows), start_step=3), expected)
    assert_equal(take(4, data, layout_at=lambda step: StepLayout(4), start_step=3), take(4, data, start_step=3))


def test_a_smaller_step_has_the_first_examples_of_the_whole_one():
    """Every step moves on by as many, so that what is read at a step is a function of the step alone."""
    data = conditioned(50)
    settings = {"conditions": ("caption",)}
    whole, grown = take(5, data, **settings), take(5, data, layout_at=growing, **settings)
    for step, (large, small) in enumerate(zip(whole, grown, strict=True)):
        size = min(2**step, 4)
        for name in ("image", "caption"):
            first = large[name].reshape(8, *large[name].shape[2:])[: 2 * size]
            np.testing.assert_array_equal(small[name], first.reshape(small[name].shape))
        np.testing.assert_array_equal(small["index"], np.arange(2 * size).reshape(2, size))
        assert small["index"].dtype == np.int32
    assert_equal(take(2, data, layout_at=growing, start_step=1, **settings), grown[1:3])


def test_a_smaller_step_has_the_same_examples_in_any_number_of_microbatches():
    data = numbered(50)
    one, two, four = (
        numbers(take(3, data, microbatches=k, microbatch_size=8 // k, layout_at=lambda step, k=k: StepLayout(4 // k)))
        for k in (1, 2, 4)
    )
    np.testing.assert_array_equal(two, one)
    np.testing.assert_array_equal(four, one)


def test_a_layout_says_the_rows_of_its_step():
    data = numbered(50)
    whole = take(3, data, layout_at=growing)
    last = take(3, data, layout_at=lambda step: StepLayout(min(2**step, 4), np.array([min(2**step, 4) - 1])))
    assert_equal(last, [{name: array[:, -1:] for name, array in batch.items()} for batch in whole])


def test_layouts_that_cannot_be_are_refused():
    data = numbered(20)
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"The microbatch has {size} examples, but must have 1 to 4"):
            take(1, data, layout_at=lambda step, size=size: StepLayout(size))
    with pytest.raises(ValueError, match=r"rows to read are \[2\], but must be some of 0 to 1"):
        take(1, data, layout_at=lambda step: StepLayout(2, np.array([2])))
    with pytest.raises(ValueError, match="given twice, by `rows` and by `layout_at`"):
        take(1, data, layout_at=growing, rows=np.array([0]))


def test_every_epoch_has_every_example_once_in_another_order():
    stream = numbers(take(9, numbered(24)))  # 72 examples are 3 epochs
    epochs = stream.reshape(3, 24)
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert len({tuple(epoch) for epoch in [*epochs, np.arange(24)]}) == 4


def test_epochs_need_not_end_where_a_step_does():
    stream = numbers(take(10, numbered(20)))
    assert all(sorted(epoch) == list(range(20)) for epoch in stream.reshape(4, 20))


def test_a_dataset_may_be_smaller_than_a_batch():
    counts = np.bincount(numbers(take(3, numbered(3))))
    np.testing.assert_array_equal(counts, [8, 8, 8])


def test_the_order_is_that_of_the_seed():
    dataset = numbered(200)
    first, again, other = (numbers(take(4, dataset, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    negative, far = (numbers(take(4, dataset, seed=seed)) for seed in (-1, -2))  # near 2^64, where floats are coarse
    assert (negative != far).any()


@pytest.mark.parametrize("start_step", [0, 1, 7])
@pytest.mark.parametrize("source", ["numbers", "shapes"])
def test_starting_later_yields_what_starting_at_zero_would(source, start_step):
    dataset = numbered(20) if source == "numbers" else jaxgen.data.load("shapes", "train", image_size=8)
    assert_equal(take(3, dataset, start_step=start_step), take(start_step + 3, dataset)[start_step:])


def test_starting_late_reads_nothing_of_what_came_before():
    asked = []

    class Recording(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    dataset = decoded_dataset(Recording(range(50)), lambda i: {"image": np.zeros((1, 1, 1), np.uint8)}, str)
    take(1, dataset, start_step=10**12, num_threads=1)
    assert len(asked) <= 1 + 8 * 6


@pytest.mark.parametrize("partition", ["01/23", "0/1/2/3", "31/20", "02/13", "0/321"])
@pytest.mark.parametrize("source", ["numbers", "shapes"])
def test_the_rows_of_any_partition_join_to_the_batch_of_one_process(source, partition):
    dataset = numbered(20) if source == "numbers" else jaxgen.data.load("shapes", "train", image_size=8)
    shares = [np.array([int(row) for row in share]) for share in partition.split("/")]
    parts = [take(3, dataset, rows=rows) for rows in shares]
    places = np.argsort(np.concatenate(shares))
    steps = [
        {name: np.concatenate([part[name] for part in step], axis=1)[:, places] for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(steps, take(3, dataset))


def test_processes_may_read_the_same_rows_and_a_row_twice():
    (whole,) = take(1, numbered(20))
    (batch,) = take(1, numbered(20), rows=np.array([2, 0, 2]))
    assert_equal([batch], [{name: array[:, [2, 0, 2]] for name, array in whole.items()}])


@pytest.mark.parametrize("rows", [[0, 4], [-1], []])
def test_rows_outside_the_microbatch_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows to read are \[.*\], but must be some of 0 to 3"):
        train_batches(numbered(20), **SETTINGS, rows=np.array(rows, np.int64))


def test_endless_data_never_repeats_and_differs_by_seed():
    starts = [shuffled(np.arange(4), length=ENDLESS, seed=seed) for seed in range(50)]
    assert all((start >= 0).all() and (np.diff(start) == 1).all() for start in starts)
    assert len({int(start[0]) for start in starts}) == 50


def test_shuffled_positions_look_uniform():
    """The place of example 0 over 2,000 epochs of 10: chi-squared with 9 degrees of freedom, 99.99% below 33.7."""
    places = shuffled(np.arange(20_000), length=10, seed=0).reshape(2_000, 10).argmin(axis=1)
    assert ((np.bincount(places, minlength=10) - 200) ** 2 / 200).sum() < 33.7


def test_batches_do_not_depend_on_the_number_of_threads():
    dataset = numbered(50)
    assert_equal(take(12, dataset, num_threads=1), take(12, dataset, num_threads=8))


@pytest.mark.parametrize("read", [train_batches, read_batches])
def test_as_many_threads_read_at_the_same_time_as_are_asked_for(read, monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK", 1)
    met, calls = threading.Barrier(3), itertools.count()

    def decode(item):
        if 0 < next(calls) <= 3:  # those after the first example, which is read for its shape
            met.wait(timeout=20)
        return {"image": np.zeros((1, 1, 1), np.uint8)}

    settings = {"seed": 0, "microbatches": 1, "microbatch_size": 1} if read is train_batches else {}
    batches = read(decoded_dataset(range(9), decode, str), num_threads=3, **settings)
    assert len(list(itertools.islice(batches, 3))) == 3
    batches.close()


def test_an_unreadable_example_stops_training_with_its_name():
    def decode(item):
        if item == 7:
            raise OSError("broken data stream")
        return {"image": np.zeros((1, 1, 1), np.uint8)}

    dataset = decoded_dataset(range(16), decode, lambda index: f"Number {index}")
    with pytest.raises(ValueError, match="Number 7 cannot be read: broken data stream"):
        take(2, dataset)


def test_closing_stops_the_threads():
    before = set(threading.enumerate())
    batches = train_batches(numbered(50), **SETTINGS)
    next(batches)
    readers = set(threading.enumerate()) - before
    assert readers  # it reads ahead
    batches.close()
    for reader in readers:
        reader.join(timeout=5)
        assert not reader.is_alive()


def test_an_open_iterator_does_not_hold_up_the_end_of_the_process():
    program = """
import jaxgen.data
batches = jaxgen.data.train_batches(
    jaxgen.data.load("shapes", "train", image_size=8), seed=0, microbatches=1, microbatch_size=8)
next(batches)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_read_arrays_reads_everything_in_order():
    arrays = read_arrays(numbered(30))
    np.testing.assert_array_equal(arrays["image"][:, 1, 2, 0], np.arange(30))
    np.testing.assert_array_equal(arrays["label"], np.arange(30) % 10)
    assert (arrays["image"].dtype, arrays["label"].dtype) == (np.uint8, np.int32)
    assert read_arrays(numbered(30), limit=99)["image"].shape == (30, 2, 3, 1)


def test_read_arrays_takes_a_fixed_subset_from_all_over():
    """That of all subsets, in the data's order, whoever reads it and with how many threads."""
    expected = np.sort(subsets.draw(200, 50))
    assert expected.max() > 150
    np.testing.assert_array_equal(subset_indices(numbered(200), 50), expected)
    for threads in (1, 3):
        read = read_arrays(numbered(200), limit=50, num_threads=threads)
        np.testing.assert_array_equal(read["image"][:, 0, 0, 0], expected)
        np.testing.assert_array_equal(read["label"], expected % 10)


def test_read_arrays_needs_a_limit_where_there_is_no_end():
    dataset = jaxgen.data.load("shapes", "train", image_size=8)
    with pytest.raises(ValueError, match="give a limit"):
        read_arrays(dataset)
    images = read_arrays(dataset, limit=300)["image"]
    assert images.shape == (300, 8, 8, 3)
    np.testing.assert_array_equal(images[299], dataset.examples[299]["image"])
    with pytest.raises(ValueError, match="The limit is 0"):
        read_arrays(dataset, limit=0)


def test_read_arrays_reads_the_label_or_what_is_asked_for():
    data = conditioned(6)
    assert read_arrays(data).keys() == {"image", "label"}
    assert read_arrays(data, conditions=()).keys() == {"image"}
    arrays = read_arrays(data, conditions=["position", "caption"])
    assert arrays.keys() == {"image", "position", "caption"}
    np.testing.assert_array_equal(arrays["caption"], [[i, i + 1] for i in range(6)])
    np.testing.assert_array_equal(arrays["position"], [[i / 2, -i] for i in range(6)])
    assert (arrays["caption"].dtype, arrays["position"].dtype) == (np.int32, np.float32)


def test_read_arrays_leaves_labels_out_where_there_are_none():
    dataset: Dataset = numbered(5, num_classes=0)
    assert read_arrays(dataset).keys() == {"image"}


@pytest.mark.parametrize(("limit_bytes", "size"), [(2**25, 64), (6 * 30 + 5, 30), (5, 1)])
def test_batches_are_those_of_the_arrays_and_smaller_where_images_are_large(limit_bytes, size, monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK", 64)
    monkeypatch.setattr(pipeline, "_CHUNK_BYTES", limit_bytes)
    dataset = numbered(250)
    whole = read_arrays(dataset, limit=201)
    batches = list(read_batches(dataset, limit=201))
    assert [len(batch["image"]) for batch in batches] == [min(size, 201 - start) for start in range(0, 201, size)]
    for name in ("image", "label"):
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), whole[name])
    np.testing.assert_array_equal(whole["image"][:, 0, 0, 0], subset_indices(dataset, 201))


def test_batches_are_smaller_the_larger_the_numbers_of_an_image(monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK_BYTES", 6 * 30)
    for dtype, size in (("uint8", 30), ("uint16", 15), ("float32", 7)):
        images = decoded_dataset(range(40), lambda _, dtype=dtype: {"image": np.zeros((2, 3, 1), dtype)}, str)
        batch = next(read_batches(images))
        assert batch["image"].dtype == dtype
        assert len(batch["image"]) == size


def test_batches_are_read_a_few_ahead_of_their_use_and_no_more():
    read = []

    class Recording:
        def __len__(self):
            return 256 * 50

        def __getitems__(self, indices):
            read.append(len(indices))
            return [{"image": np.zeros((2, 3, 1), np.uint8)} for _ in indices]

    batches = read_batches(Dataset(Recording(), (2, 3, 1)), num_threads=3)
    next(batches)
    batches.close()
    assert 1 <= len(read) <= 5
