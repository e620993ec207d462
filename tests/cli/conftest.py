"""One finished run for all tests of the commands."""

from pathlib import Path
from typing import NamedTuple

import pytest
from launching import TINY, Outcome, launch

from jaxgen.data.sources import digits
from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.report import EvaluationSettings


@pytest.fixture(scope="session", autouse=True)
def quick(tmp_path_factory):
    """The digits prepared once, and a classifier for the evaluation that is hardly trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXGEN_DATA_DIR", str(tmp_path_factory.mktemp("prepared")))
        settings = EvaluationSettings(classifier=ClassifierSettings(width=4, training_steps=2))
        patch.setattr(EvaluationSettings.__new__, "__defaults__", tuple(settings))
        digits.load("train")
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
