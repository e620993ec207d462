"""Faulty examples: which ones end a run, and what takes the place of those that do not."""

import itertools
import json

import numpy as np
import pytest

from jaxgen.core.conditioning import classes, tokens, vector
from jaxgen.data import read_arrays, train_batches
from jaxgen.data.dataset import decoded_dataset, label_of
from jaxgen.data.faults import DataFaultError, Faults, FaultSettings, tolerant

LENGTH = 60
BROKEN = frozenset({3, 4, 17, 42})
SKIP = FaultSettings("skip")
SETTINGS = {"seed": 3, "microbatches": 2, "microbatch_size": 6}


def numbered(broken=BROKEN, labels=range(LENGTH), num_classes=LENGTH):
    """Example i shows its own number; those that are broken cannot be read."""

    def decode(item):
        if item in broken:
            raise OSError("it is torn")
        return {"image": np.full((1, 1, 1), item, np.uint8), "label": np.int32(labels[item])}

    data = decoded_dataset(range(LENGTH), decode, lambda index: f"Number {index}")
    return data._replace(conditioning=label_of(num_classes))


def faults(settings=SKIP, **options):
    said = []
    made = Faults(settings, split="train", say=said.append, **options)
    return made, said


def take(count, data, **settings):
    batches = train_batches(data, **{**SETTINGS, **settings})
    try:
        return [batch["image"][..., 0, 0, 0] for batch in itertools.islice(batches, count)]
    finally:
        batches.close()


def test_the_first_fault_ends_a_run_that_stops():
    data = tolerant(numbered(), faults(FaultSettings())[0])
    with pytest.raises(
        DataFaultError, match=r"^Number \d+ cannot be read: it is torn\. Repair it, or set data\.on_fault=skip"
    ):
        take(5, data)


def test_a_run_that_stops_looks_at_the_first_example_at_once():
    with pytest.raises(DataFaultError, match="Number 0 cannot be read"):
        tolerant(numbered({0}), faults(FaultSettings())[0])
    tolerant(numbered({0}), faults()[0])


def test_faulty_examples_alone_are_replaced():
    whole = np.array(take(10, numbered(())))
    skipping = np.array(take(10, tolerant(numbered(), faults()[0])))
    replaced = np.isin(whole, list(BROKEN))
    assert replaced.sum() == 2 * len(BROKEN)  # ten steps are two epochs
    np.testing.assert_array_equal(skipping[~replaced], whole[~replaced])
    assert not np.isin(skipping, list(BROKEN)).any()


@pytest.mark.parametrize("num_threads", [1, 4])
def test_what_takes_their_place_depends_on_nothing_but_the_data(num_threads):
    whole = take(10, tolerant(numbered(), faults()[0]))
    later = take(6, tolerant(numbered(), faults()[0]), start_step=4, num_threads=num_threads)
    np.testing.assert_array_equal(later, whole[4:])
    shares = [np.array([5, 1]), np.array([0, 2, 3, 4])]
    parts = [take(10, tolerant(numbered(), faults()[0]), rows=rows) for rows in shares]
    joined = np.concatenate(parts, axis=-1)[..., np.argsort(np.concatenate(shares))]
    np.testing.assert_array_equal(joined, whole)


def test_what_takes_their_place_comes_from_all_over():
    examples = tolerant(numbered(set(range(20, 40))), faults()[0]).examples
    stand_ins = {int(examples[index]["image"][0, 0, 0]) for index in range(20, 40)}
    assert len(stand_ins) > 10
    assert min(stand_ins) < 10
    assert max(stand_ins) > 50


def test_each_fault_is_said_and_written_once(tmp_path):
    file = tmp_path / "faults.jsonl"
    counted, said = faults(file=file)
    for _ in range(2):
        read_arrays(tolerant(numbered(), counted))
    assert sorted(said) == sorted(f"Skipped: Number {number} cannot be read: it is torn." for number in BROKEN)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == sorted(BROKEN)
    assert {"split": "train", "index": 3, "example": "Number 3", "problem": "cannot be read: it is torn"} in lines
    counted.say_count()
    assert said[-1] == f"Faulty examples of the train split, skipped: 4 (named in {file})."


def test_a_resumed_run_goes_on_counting(tmp_path):
    file = tmp_path / "faults.jsonl"
    read_arrays(tolerant(numbered({3, 4}), faults(file=file)[0]))
    before = file.read_text()
    file.write_text(before + '{"split": "train", "ind')  # killed while it wrote
    counted, said = faults(file=file)
    read_arrays(tolerant(numbered({3, 4, 17}), counted))
    assert (counted.count, len(said)) == (3, 1)
    assert faults(file=file)[0].count == 3
    assert Faults(SKIP, split="test", file=file).count == 0


def test_nothing_is_said_of_data_without_faults(tmp_path):
    counted, said = faults(file=tmp_path / "faults.jsonl")
    read_arrays(tolerant(numbered(()), counted))
    counted.say_count()
    assert (counted.count, said, list(tmp_path.iterdir())) == (0, [], [])


def test_too_many_faults_end_a_run_that_skips_and_again_when_it_is_resumed(tmp_path):
    file = tmp_path / "faults.jsonl"
    read_arrays(tolerant(numbered(), faults(FaultSettings("skip", 4), file=file)[0]))
    for _ in range(2):
        counted, _ = faults(FaultSettings("skip", 3), file=file)
        with pytest.raises(DataFaultError, match=r"More than data\.max_faults=3 examples .* Number \d+ cannot be read"):
            read_arrays(tolerant(numbered(), counted))


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_is_no_class_is_a_fault(label):
    labels = [2] * 8 + [label] + [4] * (LENGTH - 9)
    data = numbered((), labels, num_classes=5)
    with pytest.raises(DataFaultError, match=f"Number 8 has the label {label}, but its classes are 0 to 4"):
        read_arrays(tolerant(data, faults(FaultSettings())[0]))
    counted, _ = faults()
    arrays = read_arrays(tolerant(data, counted))
    assert (set(arrays["label"]), counted.count) == ({2, 4}, 1)
    assert arrays["image"][8, 0, 0, 0] != 8  # the whole example is another
    unlabeled = tolerant(data._replace(conditioning=label_of(0)), faults(FaultSettings())[0])
    assert read_arrays(unlabeled)["image"][8, 0, 0, 0] == 8


CONDITIONS = {"color": classes(8), "caption": tokens(2, 5), "position": vector(2)}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("color", np.int32(8), "has the color 8, but its classes are 0 to 7"),
        ("caption", np.array([4, -1]), "has the token -1 in caption, but its tokens are 0 to 4"),
        ("caption", np.array([5, 0]), "has the token 5 in caption, but its tokens are 0 to 4"),
        ("position", np.array([1.0, np.nan]), "has the value nan in position, which is not finite"),
        ("position", np.array([-np.inf, 9.0]), "has the value -inf in position, which is not finite"),
    ],
)
def test_a_value_that_no_condition_can_have_is_a_fault(name, value, problem):
    """Also of conditions that the batches do not carry: the choice of examples is the same for all models."""

    def decode(item):
        own = {"color": np.int32(7), "caption": np.array([4, 0]), "position": np.array([-1e9, 1e9])}
        return {"image": np.full((1, 1, 1), item, np.uint8), **own, **({name: value} if item == 8 else {})}

    data = decoded_dataset(range(LENGTH), decode, lambda index: f"Number {index}")._replace(conditioning=CONDITIONS)
    with pytest.raises(DataFaultError, match=f"Number 8 {problem}"):
        take(10, tolerant(data, faults(FaultSettings())[0]))
    counted, said = faults()
    shown = read_arrays(tolerant(data, counted))["image"][:, 0, 0, 0]
    assert said == [f"Skipped: Number 8 {problem}."]
    np.testing.assert_array_equal(np.flatnonzero(shown != np.arange(LENGTH)), [8])


def test_data_of_which_hardly_anything_is_readable_ends_a_run():
    settings = FaultSettings("skip", LENGTH)
    data = tolerant(numbered(set(range(1, LENGTH))), faults(settings)[0])
    gone = data._replace(
        examples=tolerant(numbered(())._replace(conditioning=label_of(1)), faults(settings)[0]).examples
    )
    assert gone.examples[0]["label"] == 0
    with pytest.raises(DataFaultError, match="100 examples in a row cannot be read"):
        [gone.examples[index] for index in range(1, LENGTH)]


def test_a_limit_that_no_run_can_have_is_refused():
    with pytest.raises(ValueError, match=r"data\.max_faults is 0, but must be at least 1"):
        Faults(FaultSettings("skip", 0), split="train")
