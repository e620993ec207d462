"""The benchmark of speed: its turns, its figures and its table, with a process that needs no network."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import speed
import speed_protocol
import speed_tables
from speed_cases import CASES, GPU_CASES
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


def test_a_process_tells_its_facts_and_the_seconds_of_one_of_its_runs(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.1)
    held = bytearray(b"1" * 2**30)  # which a process that is started from here does not hold
    command = [sys.executable, "-c", SERVER.format(path=str(Path(speed.__file__).parent))]
    with Process(command, {}) as process:
        assert process.facts == {"parameters": [3, 4]}
        spent = process.run("train", 3)
        assert spent["seconds"] >= 0.02  # of one, not of all three
        assert spent["cpu_seconds"] < 3 * spent["seconds"]
        case = {"batch": 5, "steps": 3, "samples": True}
        rates = speed.rates({"peer": process}, case, rounds=2)["peer"]
        alone = speed.rates({"peer": process}, {**case, "samples": False}, rounds=1)["peer"]
        assert 2**20 < process.peak_memory < len(held)
    assert {name: len(values) for name, values in rates.items()} == dict.fromkeys(
        ("train", "train_cpu", "sample", "sample_cpu"), 2
    )
    assert max(rates["train"]) <= 3 * 5 / 0.02  # three steps are timed as one
    assert set(alone) == {"train", "train_cpu"}


def test_in_each_turn_a_run_goes_before_the_clock(monkeypatch, capsys):
    events = []
    clock = SimpleNamespace(perf_counter=lambda: events.append("clock") or 0.0, process_time=lambda: 0.0)
    monkeypatch.setattr(speed_protocol, "time", clock)
    monkeypatch.setattr("sys.stdin", 2 * [json.dumps({"run": "train", "count": 3})])
    speed_protocol.serve({"train": lambda: events.append("run")}, {})
    assert events == 2 * ["run", "clock", "run", "run", "run", "clock"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_process_that_ends_is_an_error():
    with Process([sys.executable, "-c", "print('{}')"], {}) as process, pytest.raises((EOFError, BrokenPipeError)):
        process.run("train")


def test_the_ratio_is_of_medians_to_the_fastest_peer():
    head, _, line = speed_tables.rows_of({"row": ROW}, "train")
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["jaxgen"] == "20 (10 to 30)"
    assert cells["torch eager"] == "14 (12 to 16)"
    assert cells["torch channels_last"] == ""
    assert cells["ratio"] == "0.80"  # 20 / 25
    assert cells["of product"] == "25%"  # 20 images of 0.5 GFLOP, of 40 GFLOP/s
    assert speed_tables.rows_of({"row": ROW}, "sample")[2].split(" | ")[-3:] == ["0.50", "3", "0.1 |"]


def test_steps_that_are_timed_as_one_are_told_apart_in_the_share_of_the_product():
    head, _, line = speed_tables.rows_of({"row": {**ROW, "steps": 5}}, "train")
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["of product"] == "5%"  # a fifth of the operations an image


def test_a_model_whose_samples_are_not_timed_has_no_row_of_samples():
    trained = {
        name: {k: v for k, v in runs.items() if k != "sample"} for name, runs in ROW["images_per_second"].items()
    }
    assert len(speed_tables.rows_of({"row": {**ROW, "images_per_second": trained}}, "sample")) == 2


def test_the_page_has_memory_and_starts_where_they_were_measured():
    more = {
        "peak_memory": {"jaxgen": 3 * 2**29, "eager": 2**30},
        "program_memory": 2**29,
        "first_step": {"jaxgen": 9.26, "compile": 41.0},
    }
    head, _, line = speed_tables.start_rows({"row": {**ROW, **more}})
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["peak memory, GiB: jaxgen"] == "1.50"
    assert cells["peak memory, GiB: torch eager"] == "1.00"
    assert cells["peak memory, GiB: torch compile"] == ""
    assert cells["the program"] == "0.50"
    assert cells["compilation, s"] == "10"  # 7.4 + 3.1
    assert cells["first step, s: jaxgen"] == "9.3"
    assert cells["first step, s: torch compile |"] == "41.0 |"
    contents = {"hardware": "2-core CPU", "rounds": 3, "rows": {"row": ROW}}
    assert "Peak memory" not in speed_tables.page(contents)
    assert "Peak memory" in speed_tables.page({**contents, "rows": {"row": {**ROW, **more}}})


def test_the_plot_is_of_rows_with_ratios(tmp_path):
    alone = {**ROW, "images_per_second": {"jaxgen": ROW["images_per_second"]["jaxgen"]}}
    speed_tables.plot({"row": alone}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    speed_tables.plot({"row": ROW, "other": alone}, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 0


def test_cases_say_what_both_sides_read():
    for name, case in (CASES | GPU_CASES).items():
        assert {"config", "settings", "shape", "classes", "batch", "steps", "samples", "network", "arguments"} <= set(
            case
        ), name


def test_without_torch_there_is_no_ratio_and_the_page_says_so():
    alone = {**ROW, "flops": {}, "images_per_second": {"jaxgen": ROW["images_per_second"]["jaxgen"]}}
    text = speed_tables.page({"hardware": "2-core CPU", "rounds": 3, "rows": {"row": alone}})
    assert "without PyTorch" in text
    assert "without PyTorch" not in speed_tables.page({"hardware": "2-core CPU", "rounds": 3, "rows": {"row": ROW}})
    assert not speed.has_torch("false")


def test_a_case_chooses_its_peers():
    compiled = speed.commands_of(GPU_CASES["dit_xl2"], ("channels_last", "compile"), "python", "there")
    assert {name: command[-1] for name, command in compiled.items() if name != "jaxgen"} == {"compile": "compile"}
    official = speed.commands_of(GPU_CASES["r3gan_256"], ("channels_last", "compile"), "python", "there")
    assert list(official) == ["jaxgen", "official"]
    assert official["official"][-1] == "there/R3GAN"
    assert (
        speed.commands_of(GPU_CASES["stylegan2_256"], ("compile",), "python", "")["official"][-1]
        == "stylegan2-ada-pytorch"
    )
    for modes in ((), ("eager",)):
        assert list(speed.commands_of(GPU_CASES["dit_xl2"], modes, "python", "there")) == ["jaxgen"]
    assert list(speed.commands_of(GPU_CASES["r3gan_256"], (), "python", "there")) == ["jaxgen"]


def test_the_page_of_a_gpu_has_columns_of_its_own():
    half = {"jaxgen": {"train": [30.0], "product": [1e11]}, "official": {"train": [20.0]}}
    text = speed_tables.page(
        {"hardware": "H200", "rounds": 3, "rows": {"row": {**ROW, "images_per_second": half}}}, "gpu"
    )
    assert "torch official | ratio" in text
    assert "1.50" in text
    assert "torch eager" not in text
    assert "Sampling, images/s" not in text


def test_the_page_has_the_notes_of_its_rows():
    contents = {
        "hardware": "2-core CPU",
        "rounds": 3,
        "rows": {"first": {**ROW, "note": "an older processor."}, "second": ROW},
    }
    assert speed_tables.page(contents).count("first: an older processor.") == 1
    assert "second: " not in speed_tables.page(contents)
