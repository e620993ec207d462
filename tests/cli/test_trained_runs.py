"""Finished runs that serve others: as the teacher of a distillation, and as the guide of a sampler."""

import shutil

import numpy as np
import pytest
from launching import launch

QUIET = ("--config.evaluate.num_samples=0", "--config.log.tensorboard=False")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory with the run of a tiny flow of digits."""
    directory = tmp_path_factory.mktemp("trained")
    outcome = launch("train", "--config=configs/sit.py:tiny", f"--workdir={directory}/flow", *QUIET)
    assert outcome.code == 0, outcome.err
    return directory


def images(directory, *arguments):
    output = directory / f"drawn-{len(arguments)}.npz"
    outcome = launch("sample", f"--workdir={directory}", "--num_samples=8", f"--output={output}", *arguments)
    assert outcome.code == 0, outcome.err
    with np.load(output) as arrays:
        return arrays["images"]


def test_a_run_is_distilled_and_its_student_is_sampled_without_it(finished, tmp_path):
    shutil.copytree(finished / "flow", tmp_path / "teacher")
    distill = (
        "train",
        "--config=configs/consistency.py:tiny",
        f"--workdir={tmp_path}/student",
        f"--config.frozen.teacher={tmp_path}/teacher",
        "--config.consistency.start_from_teacher=False",
        *QUIET,
    )
    outcome = launch(*distill)
    assert outcome.code == 0, outcome.err
    shutil.rmtree(tmp_path / "teacher")
    assert images(tmp_path / "student").shape == (8, 8, 8, 1)
    absent = launch(*distill[:2], f"--workdir={tmp_path}/other", *distill[3:])
    assert absent.code == 2
    assert f"{tmp_path}/teacher holds no run" in absent.err


def test_samples_are_guided_away_from_another_run(finished):
    other = ("--config=configs/sit.py:tiny", "--config.seed=1", "--config.optimizer.learning_rate=0.1")
    outcome = launch("train", f"--workdir={finished}/other", *other, *QUIET)
    assert outcome.code == 0, outcome.err
    plain, guide = images(finished / "flow"), images(finished / "other")
    assert not np.array_equal(plain, guide)
    guided = [f"--config.frozen.guide={finished}/other", "--config.sampler.guidance_scale"]
    # At 0 nothing but the guide is left; at 1 nothing of it, so that it is refused.
    np.testing.assert_array_equal(images(finished / "flow", guided[0], f"{guided[1]}=0.0"), guide)
    outcome = launch("sample", f"--workdir={finished}/flow", guided[0], f"{guided[1]}=1.0", "--num_samples=8")
    assert outcome.code == 2
    assert "has no effect without a sampler.guidance_scale other than 1: set it to None." in outcome.err
