"""Which batch a step reads, after returns to earlier steps."""

import itertools
import json

import pytest

from jaxgen.training.durability import rollback


class Positions:
    """Data whose batches are their positions; remembers what was opened and closed."""

    def __init__(self):
        self.opened, self.closed, self.streams = [], [], []

    def __call__(self, start):
        self.opened.append(start)

        def batches():
            try:
                yield from itertools.count(start)
            finally:
                self.closed.append(start)

        self.streams.append(batches())  # kept, since what nobody holds is closed in any case
        return self.streams[-1]


def steps(rollbacks, start, count):
    source = Positions()
    reading = rollback.read(source, rollbacks, start)
    read = list(itertools.islice(reading, count))
    reading.close()
    assert source.closed == source.opened
    return read


def returned(*pairs):
    """The list after returns from one step to another."""
    rollbacks = ()
    for at_step, to_step in pairs:
        rollbacks = rollback.add(rollbacks, at_step=at_step, to_step=to_step, reason="loss is not finite")
    return rollbacks


def test_without_rollbacks_the_position_is_the_step():
    assert steps((), 3, 4) == [3, 4, 5, 6]


def test_after_a_return_the_data_go_on_behind_the_step_that_went_wrong():
    """Step 7 read position 6; back at step 4, position 7 is next."""
    rollbacks = returned((7, 4))
    assert steps(rollbacks, 4, 3) == [7, 8, 9]
    assert steps(rollbacks, 0, 7) == [0, 1, 2, 3, 7, 8, 9]


def test_no_position_is_met_again_however_often_the_run_returns():
    rollbacks, met, start = (), set(), 0
    for at_step, to_step in [(7, 4), (5, 4), (12, 8), (20, 0), (3, 0)]:
        read = steps(rollbacks, start, at_step - start)
        assert not met & set(read)
        met |= set(read)
        rollbacks = rollback.add(rollbacks, at_step=at_step, to_step=to_step, reason="")
        start = to_step


def test_a_run_that_resumes_before_the_last_return_reads_what_it_read_there():
    """A checkpoint may be damaged later, so that the run resumes at an older one."""
    rollbacks = returned((7, 4), (12, 8))
    whole = steps(rollbacks, 0, 20)
    for start in range(12):
        assert steps(rollbacks, start, 20 - start) == whole[start:]
    assert whole[:10] == [0, 1, 2, 3, 7, 8, 9, 10, 15, 16]


def test_a_later_return_to_an_earlier_step_counts_from_there_on():
    assert steps(returned((12, 8), (10, 4)), 0, 8) == [0, 1, 2, 3, 14, 15, 16, 17]


def test_no_step_gone_wrong_is_met_again_where_a_run_resumed_before_its_last_return():
    """Back at 8, the run was killed, found that checkpoint damaged, resumed at 4, and returned there again."""
    assert steps(returned((12, 8), (7, 4)), 0, 10) == [0, 1, 2, 3, *range(12, 18)]


def test_the_records_are_read_as_they_were_written(tmp_path):
    assert rollback.load(tmp_path) == ()
    rollbacks = returned((7, 4), (12, 8))
    rollback.save(tmp_path, rollbacks)
    assert rollback.load(tmp_path) == rollbacks
    assert json.loads((tmp_path / "rollbacks.json").read_text())["rollbacks"][0] == {
        "at_step": 7,
        "to_step": 4,
        "offset": 3,
        "reason": "loss is not finite",
    }


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"rollbacks": [{"at_step": 7}]}', '{"rollbacks": 3}'])
def test_damaged_records_are_refused(tmp_path, text):
    (tmp_path / "rollbacks.json").write_text(text)
    with pytest.raises(ValueError, match=r"rollbacks\.json cannot be read .*: restore it, or start in another"):
        rollback.load(tmp_path)


def test_a_record_of_which_a_digit_has_changed_is_refused(tmp_path):
    rollback.save(tmp_path, returned((7, 4)))
    path = tmp_path / "rollbacks.json"
    path.write_text(path.read_text().replace('"offset": 3', '"offset": 2'))
    with pytest.raises(ValueError, match=r"rollbacks\.json cannot be read .*checksum"):
        rollback.load(tmp_path)
