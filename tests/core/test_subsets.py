import numpy as np
import pytest

from jaxgen.core import subsets


def test_a_subset_is_drawn_without_replacement_and_is_always_the_same():
    drawn = subsets.draw(10, 4)
    assert len(set(drawn.tolist())) == 4
    np.testing.assert_array_equal(drawn, [7, 9, 8, 5])
    np.testing.assert_array_equal(subsets.draw(10, 4, seed=subsets.SEED), drawn)


def test_smaller_subsets_are_the_beginning_of_larger_ones_and_all_is_all():
    order = subsets.draw(50, 50)
    assert sorted(order) == list(range(50))
    assert (order != np.arange(50)).any()
    for count in (1, 7, 49):
        np.testing.assert_array_equal(subsets.draw(50, count), order[:count])
    np.testing.assert_array_equal(subsets.draw(50, 51), order)


def test_subsets_of_data_in_the_order_of_its_classes_have_every_class():
    labels = np.repeat(np.arange(10), 1000)
    counts = np.bincount(labels[subsets.draw(10_000, 2000)], minlength=10)
    assert np.abs(counts - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9 * 0.8)  # hypergeometric


def test_another_seed_draws_another_subset_and_any_integer_is_a_seed():
    first, other, negative = (subsets.draw(1000, 100, seed=seed) for seed in (3, 4, -1))
    for drawn in (other, negative):
        assert 0 <= len(np.intersect1d(first, drawn)) < 30
    np.testing.assert_array_equal(subsets.draw(1000, 100, seed=2**64 - 1), negative)
    assert (subsets.draw(1000, 100, seed=-2) != negative).any()
    assert (subsets.draw(1000, 100, seed=3 + 128) != first).any()


def test_epochs_have_orders_of_their_own_and_none_can_be_written_into():
    orders = [subsets.permutation(5, epoch, 100) for epoch in range(3)]
    assert len({order.tobytes() for order in orders}) == 3
    np.testing.assert_array_equal(subsets.permutation(3, 2, 6), [2, 4, 1, 3, 5, 0])
    for order in orders:  # no subset is what a run of that seed sees first
        assert len(np.intersect1d(order[:20], subsets.draw(100, 20, seed=5))) < 15
    with pytest.raises(ValueError, match="read-only"):
        subsets.draw(100, 3, seed=5)[0] = 0


@pytest.mark.parametrize("count", [0, -1])
def test_an_empty_subset_is_refused(count):
    with pytest.raises(ValueError, match=f"The count of a subset is {count}, but must be at least 1"):
        subsets.draw(10, count)
