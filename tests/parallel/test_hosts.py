"""Meetings of processes, the others played by the test; tests/test_multiprocess.py has real ones."""

import contextlib
import json
import os
import signal
import socket

import jax
import pytest

from jaxgen.cli.main import refusals
from jaxgen.parallel import agreement, hosts
from jaxgen.parallel.launchers import Place
from jaxgen.training.durability.interruption import Interruption

pytestmark = pytest.mark.short


@pytest.fixture
def played(monkeypatch):
    """`played(me, others)`: this is process `me`; at each meeting, the others bring what `others` says next."""

    def play(me, *others):
        meetings = iter(others)

        def exchange(name, value):
            brought = list(next(meetings))
            brought.insert(me, value)
            return brought

        monkeypatch.setattr(hosts, "process_id", lambda: me)
        monkeypatch.setattr(hosts, "num_processes", lambda: 3)
        monkeypatch.setattr(hosts, "_exchange", exchange)

    return play


def test_a_process_alone_meets_itself():
    assert hosts.num_processes() == 1
    assert hosts.is_first()
    assert hosts.gather("a") == ["a"]
    with pytest.raises(hosts.Refused) as refused:
        hosts.refuse("no")
    assert refused.value.sentences == {0: "no"}


def test_all_have_what_each_gave(played):
    played(1, ("=a", "=c"))
    assert hosts.gather("b") == ["a", "b", "c"]


def test_what_one_refuses_all_refuse_at_whatever_meeting_they_come_to(played):
    played(0, ("=", "!no data"))
    with pytest.raises(hosts.Refused) as refused:
        hosts.in_turn(lambda: None)
    assert refused.value.sentences == {2: "no data"}


def said(capsys, error=None):
    """What a process prints when it leaves a block that may refuse."""
    with contextlib.suppress(SystemExit), refusals():
        if error:
            raise ValueError(error)
    return capsys.readouterr().err


SAID = {
    "nobody": (0, None, ("=", "="), ""),
    "process 0 of itself": (0, "no", ("=", "="), "error: no.\n"),
    "process 0 of another": (0, None, ("=", "!no"), "error: process 2: no.\n"),
    "another of process 0": (2, None, ("!no", "="), ""),
    "another of itself": (2, "no", ("=", "="), "error: process 2: no.\n"),
    "another of the same": (2, "no", ("!no", "="), ""),
    "another of something else": (2, "no", ("!never", "="), "error: process 2: no.\n"),
}


@pytest.mark.parametrize("who", SAID)
def test_process_0_says_what_was_refused_and_others_what_they_have_to_add(who, played, capsys):
    me, error, others, expected = SAID[who]
    played(me, others)
    assert said(capsys, error) == expected


@pytest.mark.parametrize(("me", "order"), [(0, ["act", "meet"]), (1, ["meet", "act"])])
def test_process_0_acts_first(me, order, played, monkeypatch):
    events = []
    played(me, ("=", "="))
    monkeypatch.setattr(hosts, "gather", lambda text: events.append("meet"))
    assert hosts.in_turn(lambda: events.append("act") or 7) == 7
    assert events == order


@pytest.mark.parametrize(("me", "order"), [(0, ["act", "meet"]), (1, ["meet", "act"])])
def test_the_others_do_not_wait_for_a_process_that_failed_in_its_turn(me, order, played, monkeypatch):
    def fail():
        events.append("act")
        raise OSError("disk full")

    events = []
    played(me)
    monkeypatch.setattr(hosts, "gather", lambda text: events.append("meet"))
    with pytest.raises(OSError, match="disk full"):
        hosts.in_turn(fail)
    assert events == order


def test_process_0_alone_finds_and_all_have_what_it_found_or_its_refusal(played):
    def refuse():
        raise ValueError("no such step")

    answer = json.dumps([{"step": 4}, None])
    played(1, (f"={answer}", "="), (f"={json.dumps([None, 'no such step'])}", "="))
    assert agreement.from_first(lambda: pytest.fail("asked in another process")) == {"step": 4}
    with pytest.raises(ValueError, match=r"^no such step$"):
        agreement.from_first(refuse)
    played(0, ("=", "="), ("=", "="))
    assert agreement.from_first(lambda: [1, None]) == [1, None]
    with pytest.raises(ValueError, match=r"^no such step$"):
        agreement.from_first(refuse)


def test_problems_of_all_processes_are_told_once_each(played):
    assert agreement.any_of("disk full") == "disk full"
    assert agreement.any_of(None) is None
    played(1, ("=", "=no disk"), ("=late", "=disk full"), ("=", "="))
    assert agreement.any_of("disk full") == "disk full; no disk"
    assert agreement.any_of("disk full") == "late; disk full"
    assert agreement.any_of(None) is None


def test_other_arguments_than_those_of_process_0_are_refused(played):
    played(1, ("=a", "=a"), ("=a", "=a"))
    hosts.check_same("a", "different")
    with pytest.raises(ValueError, match="different"):
        hosts.check_same("b", "different")


def test_a_directory_is_shared_if_all_see_what_process_0_writes(played, tmp_path):
    played(1, ("=token", "="), ("=", "="))
    with pytest.raises(
        ValueError, match="is not the directory that process 0 writes: give all processes one --workdir"
    ):
        hosts.check_shared(tmp_path)
    (tmp_path / ".shared").write_text("token of another run")
    played(1, ("=token", "="), ("=", "="))
    with pytest.raises(ValueError, match="is not the directory"):
        hosts.check_shared(tmp_path)
    (tmp_path / ".shared").write_text("token")
    played(1, ("=token", "="), ("=", "="))
    hosts.check_shared(tmp_path)
    played(0, ("=", "="), ("=", "="))
    hosts.check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []


class EndedError(Exception):
    pass


@pytest.fixture
def exits(monkeypatch):
    def leave(code):
        raise EndedError(code)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError("disk full"), 1, "process 1: ended by the OSError above, and the others with it"),
        (KeyboardInterrupt(), 130, "process 1: ended by the KeyboardInterrupt above"),
        (jax.errors.JaxRuntimeError("Gloo failed\nmore"), 1, "process 1: Gloo failed. If this is a lost connection"),
        (LookupError("bad row."), 1, "process 1: bad row. The others end with it"),
    ],
)
def test_an_error_of_one_process_ends_it_without_a_wait(error, code, said, played, exits, capsys):
    played(1)
    with pytest.raises(EndedError, match=rf"^{code}$"), hosts.ending_at_once(clear=(LookupError,)):
        raise error
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(f"error: {said}")
    assert err.endswith(". Run the same command again on every host: training goes on from the newest checkpoint.\n")
    assert ("Traceback" in err) == ("above, " in err)


def test_an_error_of_all_or_of_the_only_process_goes_its_way(played, exits):
    with pytest.raises(OSError, match="disk full"), hosts.ending_at_once():
        raise OSError("disk full")
    played(1)
    with pytest.raises(KeyError), hosts.ending_at_once(but=(KeyError,)):
        raise KeyError
    with pytest.raises(SystemExit), hosts.ending_at_once():
        raise SystemExit(2)
    with pytest.raises(hosts.Refused, match=r"^refused by process 1: no$"), hosts.ending_at_once():
        raise hosts.Refused({2: "never", 1: "no"})


def test_a_port_that_is_taken_is_refused_before_anybody_waits():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"Port {port} of this host cannot be used .*in use.*choose another"):
            hosts.start(Place(("localhost", port), 2, 0), hosts.Timeouts(), stoppable=False)


def test_a_coordinator_that_does_not_answer_is_waited_for_no_longer_than_asked():
    with socket.socket() as free:
        free.bind(("", 0))
        place = Place(("localhost", free.getsockname()[1]), 2, 1)
        with pytest.raises(ValueError, match=r"Process 1 could not reach process 0 at localhost:\d+ within 0 seconds"):
            hosts.start(place, hosts.Timeouts(initialization=0), stoppable=False)


def test_ctrl_c_in_one_of_several_processes_is_passed_on_as_the_signal_that_jax_shares(played):
    shared = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: shared.append(number))  # in the place of JAX's
    try:
        played(0)
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (shared, interruption.signal) == ([signal.SIGTERM], None)
            os.kill(os.getpid(), signal.SIGINT)
            assert (shared, interruption.signal) == ([signal.SIGTERM] * 2, signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("me", [0, 1])
@pytest.mark.parametrize("stoppable", [False, True])
def test_jax_is_told_the_place_and_the_time_to_wait(monkeypatch, me, stoppable):
    told, events = [], []
    monkeypatch.setattr(hosts, "_check_free", lambda port: events.append(("free", port)))
    monkeypatch.setattr(hosts, "_await_coordinator", lambda place, seconds: events.append(("await", seconds)))
    monkeypatch.setattr(hosts, "_on_abort", lambda sentence: events.append(sentence))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *place, **options: told.append((place, options)))
    monkeypatch.setattr(jax.config, "update", lambda *setting: events.append(setting))
    monkeypatch.setattr(os, "dup2", lambda file, number: events.append(("silent", number)))
    place = Place(("host0", 8476), 2, me, [3])
    hosts.start(place, hosts.Timeouts(initialization=7, heartbeat=5), stoppable=stoppable)
    ((address, options),) = told
    assert address == ("host0:8476", 2, me, [3])
    assert options == {
        "cluster_detection_method": "deactivate", "initialization_timeout": 7, "heartbeat_timeout_seconds": 5,
        "shutdown_timeout_seconds": 60,
    }  # fmt: skip
    first, early, service, late, *silent = events
    assert first == (("free", 8476), ("await", 7))[me]
    assert "2 processes of this run did not come together within 7 seconds" in early
    assert service == ("jax_enable_preemption_service", stoppable)
    assert "another one of the run has died" in late
    assert silent == [("silent", 1)] * me


@pytest.mark.parametrize(("others", "code"), [(("=15", "=15"), 143), (("=2", "=15"), 130)])
def test_processes_stop_where_jax_has_them_agree_with_one_code(others, code, played, monkeypatch):
    played(0, others)
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point", lambda look: look == 3)
    with Interruption() as interruption:
        assert [interruption(), interruption(), interruption()] == [False, False, True]
    assert interruption.exit_code == code
