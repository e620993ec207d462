"""One finished run for all tests of the commands."""

from pathlib import Path
from typing import NamedTuple

import pytest
import quick_evaluation
from launching import TINY, Outcome, launch


@pytest.fixture(scope="session", autouse=True)
def quick(tmp_path_factory):
    with quick_evaluation.quick(tmp_path_factory.mktemp("prepared")):
        yield


class Trained(NamedTuple):
    workdir: Path
    arguments: list[str]
    outcome: Outcome


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    """A finished run of a class-conditional model. Only the evaluation adds to it."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = [TINY, "--config.vae.class_conditional=True", f"--workdir={workdir}"]
    return Trained(workdir, arguments, launch("train", *arguments))
