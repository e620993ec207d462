import json

import numpy as np
import pytest
from launching import launch

pytestmark = pytest.mark.xdist_group("cli")


def test_evaluate_writes_figures_with_their_protocols_and_repeats_them(trained):
    path = trained.workdir / "evaluation.json"
    after_training = path.read_text()
    path.unlink()
    outcome = launch("evaluate", f"--workdir={trained.workdir}")
    assert outcome.code == 0, outcome.err
    assert path.read_text() == after_training
    report = json.loads(after_training)
    assert report["step"] == 4
    for name, figure in report["figures"].items():
        assert np.isfinite(figure["value"]).all(), name
        assert {"seed", "features", "reference"} & set(figure), name
    assert any(figure.get("num_samples") == 32 for figure in report["figures"].values())
    for name in report["figures"]:
        assert name.split(" ")[0] in outcome.out


def test_an_older_checkpoint_can_be_judged(trained):
    path = trained.workdir / "evaluation.json"
    newest = path.read_bytes()
    outcome = launch("evaluate", f"--workdir={trained.workdir}", "--step=2")
    assert outcome.code == 0, outcome.err
    assert json.loads(path.read_text())["step"] == 2
    path.write_bytes(newest)
