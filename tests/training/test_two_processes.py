"""Checkpoints of a run of two processes: files of both are in them, and both see the same at every turn."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgen.training.checkpoint import find_damage

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each process saw, and the work directory."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    (workdir / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(port), str(workdir)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs], workdir


def test_the_list_of_digests_comes_after_the_files_of_all_processes(seen):
    for process in seen[0]:
        assert process["processes_in_list"] == [True, True]
        assert process["damage"] is None
    assert find_damage(seen[1] / "checkpoints", 8) is None


def test_both_resume_at_the_newest_whole_step_and_one_of_them_sets_the_damaged_one_aside(seen):
    first, second = seen[0]
    assert [process["newest"] for process in seen[0]] == [4, 4]
    assert first["restored"]
    assert second["restored"]
    removed, aside = first["said"]
    assert removed.startswith("Removed 3.orbax-checkpoint-tmp")
    assert aside.startswith("Checkpoint 6 is damaged (")
    assert second["said"] == []
    assert first["left"] == second["left"] == ["4", "8", "damaged"]


def test_variables_are_restored_alone_onto_both(seen):
    for process in seen[0]:
        assert process["step"] == 4
        assert process["variables"]


def test_a_save_that_fails_fails_for_both_and_the_next_one_works(seen):
    for process in seen[0]:
        assert process["failed"] == "The checkpoint of step 8 could not be saved (File too large)."


def test_both_are_refused_a_work_directory_in_use(seen):
    first, second = (process["refused"] for process in seen[0])
    assert "is in use by process" in first
    assert first == second
