"""docs/python.md, run from top to bottom."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("runs")

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == PAGE.count("```python") == 7
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (names["images"].dtype, names["images"].shape) == (np.uint8, (16, 8, 8, 1))
    assert names["labels"].tolist() == [*range(10)] * 2
    assert (names["seen"], names["written"].output) == (20, Path("runs/tiny/samples/step8_seed1_n20_labels3,8.npz"))
    assert names["written"].output.exists()
    assert (Path("runs/digits") / "000019_9.png").exists()
    assert (names["early"].step, names["run"].step, names["step"]) == (6, 8, 8)
    assert names["rebuilt"].shape == names["test"]["image"].shape == (32, 8, 8, 1)
    assert (names["nats"].shape, names["drawn"].shape) == ((32,), (4, 8, 8, 1))
    out = capsys.readouterr().out
    assert "step 8/8" in out
    assert "frechet" in out
    assert (tmp_path / "runs" / "tiny" / "evaluations" / "step8_num_samples=64.json").exists()


def test_the_page_names_functions_that_exist():
    for module, function in re.findall(r"jaxgen\.(runs\.\w+)\.(\w+)", PAGE):
        assert callable(getattr(importlib.import_module(f"jaxgen.{module}"), function))
