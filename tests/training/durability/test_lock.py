"""One run at a time in a work directory, and no obstacle where a process has died."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from jaxgen.training.durability import lock


def test_a_second_run_is_refused_with_who_holds_the_first(tmp_path):
    with lock.held(tmp_path / "run", print):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with (
            pytest.raises(ValueError, match=f"run is in use by {holder}: wait until .* choose another --workdir"),
            lock.held(tmp_path / "run", print),
        ):
            pass
    with lock.held(tmp_path / "run", print):
        pass


def test_refusals_name_the_flag_of_another_directory(tmp_path):
    with (
        lock.held(tmp_path / "run", print),
        pytest.raises(ValueError, match=r"in use by .*, or choose another --output\.$"),
        lock.held(tmp_path / "run", print, flag="--output"),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"cannot be written .*: choose another --output\.$"),
        lock.held(tmp_path / "file", print, flag="--output"),
    ):
        pass


def test_a_killed_holder_is_no_obstacle(tmp_path):
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(tmp_path / lock.NAME)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(ValueError, match="is in use by another process"), lock.held(tmp_path, print):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock.held(tmp_path, print):
            assert str(os.getpid()) in (tmp_path / lock.NAME).read_text()


def test_where_a_file_system_has_no_locks_that_is_said(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []
    with lock.held(tmp_path, said.append):
        pass
    assert said == [
        f"The file system of {tmp_path} has no locks: see to it yourself that no second run is started there."
    ]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written \(.*\): choose"), lock.held(tmp_path / "file", print):
        pass
