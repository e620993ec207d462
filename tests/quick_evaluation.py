"""Evaluations that take no time, for the tests of commands and of the functions behind them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxgen.data.sources import digits
from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.report import EvaluationSettings


@contextlib.contextmanager
def quick(prepared: Path) -> Iterator[None]:
    """The digits prepared once, in a directory, and a classifier for the evaluation that is hardly trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXGEN_DATA_DIR", str(prepared))
        settings = EvaluationSettings(classifier=ClassifierSettings(width=4, training_steps=2))
        patch.setattr(EvaluationSettings.__new__, "__defaults__", tuple(settings))
        digits.load("train")
        yield
