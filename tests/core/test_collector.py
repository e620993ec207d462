"""The pause of Python's collector of reference cycles."""

import gc

import pytest

from jaxgen.core import collector


def test_the_collector_is_as_it_was_after_a_pause():
    def fail():
        with collector.paused():
            with collector.paused():
                assert not gc.isenabled()
            assert not gc.isenabled()  # the outer pause goes on
            raise KeyError

    assert gc.isenabled()
    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()
