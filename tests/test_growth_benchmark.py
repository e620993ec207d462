"""The benchmark of growth: its points, its ideal lines and its table, without a model."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import growth


def point(times, state, held, **changed):
    return {**growth.REFERENCE, **changed, "relative_times": times, "state_bytes": state, "held_bytes": held}


POINTS = [
    point([0.9, 1.1, 1.0], 100, 500),
    point([3.0, 2.0, 2.33], 100, 800, batch=64),
    point([8.0, 8.0, 8.0], 100, 1_900, resolution=32),
    point([2.0, 2.0, 2.0], 400, 1_400, width=64),
    point([1.5, 1.0, 1.67], 100, 300, devices=2),
]


def test_every_point_differs_from_the_reference_in_one_number():
    grid = growth.grid()
    assert grid[0] == growth.REFERENCE
    differing = [[name for name in point if point[name] != growth.REFERENCE[name]] for point in grid[1:]]
    assert all(len(names) == 1 for names in differing)
    assert len(grid) == 1 + sum(len(values) - 1 for values in growth.SWEEPS.values())


class Steps:
    """A process whose steps take as long as they are said to, one figure a call."""

    def __init__(self, *seconds):
        self.facts = {"state_bytes": 100, "held_bytes": 500}
        self.seconds, self.counts = iter(seconds), []

    def run(self, name, count=1):
        self.counts.append(count)
        value = next(self.seconds)
        return {"seconds": value, "cpu_seconds": 2 * value}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_a_point_takes_turns_with_the_reference(monkeypatch):
    process, reference = Steps(9.0, 0.1, 0.6, 0.8), Steps(0.25, 0.3, 0.2)
    monkeypatch.setattr(growth, "process_of", lambda point: process)
    monkeypatch.setattr(growth, "TURNS", 2)
    found = growth.measured(growth.REFERENCE, reference)
    assert found["relative_times"] == pytest.approx([2.0, 4.0])
    assert (found["state_bytes"], found["held_bytes"]) == (100, 500)
    assert process.counts == [1, 1, 5, 5]  # half a second each
    assert reference.counts == [1, 2, 2]


def test_figures_are_relative_to_the_reference():
    first, second = growth.relative(POINTS, "batch")
    assert (first["value"], second["value"]) == (32, 64)
    assert (first["time"], first["memory"], first["ideal_time"], first["ideal_memory"]) == (1.0, 1.0, 1.0, 1.0)
    assert [second[name] for name in ("time", "least", "greatest")] == [2.33, 2.0, 3.0]
    assert second["memory"] == 1.6


@pytest.mark.parametrize(
    ("name", "time", "memory"),
    [
        ("batch", 2.0, (100 + 2 * 400) / 500),
        ("resolution", 4.0, (100 + 4 * 400) / 500),
        ("width", 4.0, (400 + 2 * 400) / 500),
        ("devices", 1.0, (100 + 400 / 2) / 500),
    ],
)
def test_ideal_lines_are_those_of_convolutions(name, time, memory):
    second = growth.relative(POINTS, name)[1]
    assert second["ideal_time"] == pytest.approx(time)
    assert second["ideal_memory"] == pytest.approx(memory)


def test_the_page_and_the_plot_have_every_point(tmp_path):
    text = growth.page({"hardware": "2-core CPU", "turns": 3, "points": POINTS})
    assert "| batch | 64 | 2.33 (2.00 to 3.00) | 2.00 | 1.60 | 1.80 |" in text
    assert "| devices | 2 | 1.50 (1.00 to 1.67) | 1.00 | 0.60 | 0.60 |" in text
    growth.plot(POINTS, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 0


def test_the_process_of_a_point_has_as_many_devices(monkeypatch):
    monkeypatch.setattr(growth, "Process", lambda command, variables: (command, variables))
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    command, variables = growth.process_of({**growth.REFERENCE, "devices": 4})
    assert json.loads(command[-1])["devices"] == 4
    assert variables == {"XLA_FLAGS": "--mine --xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
