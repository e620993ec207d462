"""Arrays of images: digests, blocks of large ones, held-out rows, and labels of any values as classes."""

import numpy as np
import pytest

from jaxgen.data import stored_arrays
from jaxgen.data.stored_arrays import content_digest, held_out_rows, numbered_classes, spread_blocks, to_classes


def test_a_digest_is_that_of_types_shapes_content_and_places():
    a = np.arange(6, dtype=np.int32)
    arrays = [
        *((a,), (a, None), (None, a), (a[::-1],), (a.view(np.uint32),), (a.view(np.float32),)),
        *((a.reshape(2, 3),), (a.reshape(3, 2),), (a[:3], a[3:]), (a[3:], a[:3])),
    ]
    assert len({content_digest(*some) for some in arrays}) == len(arrays)
    assert content_digest(np.asfortranarray(a.reshape(2, 3))) == content_digest(a.reshape(2, 3).copy())


def test_blocks_of_a_large_array_are_spread_from_its_beginning_to_its_end(monkeypatch):
    array = np.arange(5_000, dtype=np.uint32).reshape(1_000, 5)  # 20 bytes a row
    (whole,) = spread_blocks(array)
    assert whole is array
    monkeypatch.setattr(stored_arrays, "CACHE_BYTES", 19_999)
    for size, rows in ((40, 2), (1, 1)):  # of rows that are larger than a block, one
        monkeypatch.setattr(stored_arrays, "_BLOCK_BYTES", size)
        blocks = list(spread_blocks(array))
        assert {block.shape for block in blocks} == {(rows, 5)}
        starts = np.array([block[0, 0] for block in blocks]) // 5
        assert len(starts) == 64
        assert (starts[0], starts[-1]) == (0, 1_000 - rows)
        assert set(np.diff(starts.astype(int))) == {15, 16}


def test_the_held_out_rows_of_a_seed_stay_the_same():
    """Others would be in the training data of a run that goes on with a newer version."""
    np.testing.assert_array_equal(held_out_rows(60, 3, held_out=True), [0, 7, 10, 20, 33, 43, 47])
    np.testing.assert_array_equal(held_out_rows(60, -1, held_out=True), [5, 7, 8, 10, 16, 19, 43, 46, 49])


def test_labels_that_are_numbers_in_texts_are_classes_in_the_order_of_the_numbers():
    labels = np.array(["2", "10", "9", "10"])
    values, names = numbered_classes(labels)
    assert names == ("2", "9", "10")
    np.testing.assert_array_equal(to_classes(labels, values, where="x"), [0, 2, 1, 2])


@pytest.mark.parametrize(("count", "shown"), [(12, ", ".join(map(str, range(12)))), (13, "0, 1, 2, ..., 12")])
def test_of_more_than_twelve_values_of_labels_a_few_are_shown(count, shown):
    with pytest.raises(ValueError, match=rf"^x holds the label 99, which no training image has; those have {shown}\.$"):
        to_classes(np.array([3, 99]), np.arange(count), where="x")
