"""Reasons of failed writes in a few words, from the errors of the operating system and of the libraries below."""

import errno

import jax
import pytest

from jaxgen.training.durability.write_errors import reason

LATE = "a process did not write its part in time"
REASONS = {
    "the system": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    "no number": (OSError("the link is down"), "the link is down"),
    "too late": (TimeoutError("30 s"), LATE),
    "too late elsewhere": (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: barrier\nmore"), LATE),
    "a number in words": (ValueError("UNKNOWN: write [os_error_code='28', x='5']"), "No space left on device"),
    "a status": (ValueError("UNAVAILABLE: the disk\nmore"), "UNAVAILABLE: the disk"),
    "a long one": (ValueError("UNKNOWN: " + 400 * "x"), "UNKNOWN: " + 291 * "x"),
    "XLA": (jax.errors.JaxRuntimeError("the peer is gone\nmore"), "the peer is gone"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_failed_write_has_a_reason_of_one_line(kind):
    error, expected = REASONS[kind]
    assert reason(error) == expected


def test_of_a_process_that_failed_and_waited_in_vain_the_failure_is_the_reason():
    error = jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: barrier")
    error.__context__ = OSError(errno.EROFS, "Read-only file system")
    assert reason(error) == "Read-only file system"


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyError("step"), ValueError("unknown: a mistake")])
def test_an_error_of_another_kind_is_raised(error):
    with pytest.raises(type(error)) as raised:
        reason(error)
    assert raised.value is error
