"""The benchmark of the start of training, with a program that only says what training says."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import startup

LAUNCH = """
import os, sys, time
from pathlib import Path

programs = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
if "--fails" in sys.argv:
    sys.exit("error: no such flag.")
if not programs.exists():
    programs.mkdir()
    time.sleep(1.0)
print("Compiled in 0.1 s", flush=True)
print("step 1/9  loss 1", flush=True)
time.sleep(60.0)
"""


def test_a_start_is_cold_and_then_warm_and_ends_with_the_first_step(tmp_path):
    (tmp_path / "launch.py").write_text(LAUNCH)
    spent = startup.starts(tmp_path, [])
    (cold, of_cpus), (warm, _) = spent["cold"], spent["warm"]
    assert cold >= warm + 0.5
    assert 0.0 < of_cpus < cold


def test_a_start_that_ends_before_its_first_step_is_an_error_with_what_it_said(tmp_path):
    (tmp_path / "launch.py").write_text(LAUNCH)
    with pytest.raises(ValueError, match="no such flag"):
        startup.starts(tmp_path, ["--fails"])


def test_figures_are_medians_with_least_and_greatest():
    text = startup.described({"cold": [(3.0, 1.0), (1.0, 2.0), (7.0, 9.0)], "warm": [(2.0, 2.0)]})
    assert text.startswith("cold 3.0 (1.0 to 7.0) s, of CPUs 2.0 (1.0 to 9.0) s; warm 2.0 (2.0 to 2.0) s")
