"""The benchmark of speed: its turns, its figures and its table, with a process that needs no network."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import speed
from speed_protocol import Process

SERVER = """
import sys, time
sys.path.append({path!r})
from speed_protocol import serve
serve({{"train": lambda: time.sleep(0.02), "sample": lambda: sum(range(1000))}}, {{"parameters": [3, 4]}})
"""
ROW = {
    "model": "unet8",
    "batch": 64,
    "parameters": 652449,
    "load": 0.12,
    "versions": {"jaxlib": "0.12.0.1"},
    "flops": {"train": 64 * 5e8},
    "compilation": {"train": 7.4, "sample": 3.1},
    "images_per_second": {
        "jaxgen": {"train": [10.0, 30.0, 20.0], "sample": [4.0], "product": [1e11, 4e10, 2e10]},
        "eager": {"train": [12.0, 16.0, 14.0], "sample": [1.0]},
        "compile": {"train": [25.0, 24.0, 50.0], "sample": [8.0]},
    },
}


def test_a_process_tells_its_facts_and_the_seconds_of_one_of_its_runs():
    command = [sys.executable, "-c", SERVER.format(path=str(Path(speed.__file__).parent))]
    with Process(command, {}) as process:
        assert process.facts == {"parameters": [3, 4]}
        spent = process.run("train", 3)
        assert spent["seconds"] >= 0.02  # of one, not of all three
        assert spent["cpu_seconds"] < 3 * spent["seconds"]
        rates = speed.rates({"peer": process}, batch=5, rounds=2)["peer"]
    assert {name: len(values) for name, values in rates.items()} == dict.fromkeys(
        ("train", "train_cpu", "sample", "sample_cpu"), 2
    )
    assert max(rates["train"]) <= 5 / 0.02


def test_a_process_that_ends_is_an_error():
    with Process([sys.executable, "-c", "print('{}')"], {}) as process, pytest.raises((EOFError, BrokenPipeError)):
        process.run("train")


def test_the_ratio_is_of_medians_to_the_fastest_peer():
    head, _, line = speed.rows_of({"row": ROW}, "train")
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["jaxgen"] == "20 (10 to 30)"
    assert cells["torch eager"] == "14 (12 to 16)"
    assert cells["torch channels_last"] == ""
    assert cells["ratio"] == "0.80"  # 20 / 25
    assert cells["of product"] == "25%"  # 20 images of 0.5 GFLOP, of 40 GFLOP/s
    assert speed.rows_of({"row": ROW}, "sample")[2].split(" | ")[-3:] == ["0.50", "3", "0.1 |"]


def test_without_torch_there_is_no_ratio_and_the_page_says_so():
    alone = {**ROW, "flops": {}, "images_per_second": {"jaxgen": ROW["images_per_second"]["jaxgen"]}}
    text = speed.table({"hardware": "2-core CPU", "rounds": 3, "rows": {"row": alone}})
    assert "without PyTorch" in text
    assert "without PyTorch" not in speed.table({"hardware": "2-core CPU", "rounds": 3, "rows": {"row": ROW}})
    assert not speed.has_torch("false")
