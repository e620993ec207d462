"""Finished runs that others read: what a work directory keeps of them, and what is refused."""

import json
import shutil

import cached_latents
import jax
import numpy as np
import pytest

import jaxgen
from jaxgen.core.images import to_float
from jaxgen.runs import frozen, planning

QUIET = {"evaluate.num_samples": 0, "log.tensorboard": False, "train.num_steps": 2, "parallel.num_devices": 1}
STUDENT = {**QUIET, "consistency.start_from_teacher": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The work directory of a tiny flow."""
    directory = tmp_path_factory.mktemp("frozen") / "teacher"
    jaxgen.train(jaxgen.config("sit:tiny", **QUIET), directory)
    return directory


@pytest.fixture(scope="module")
def student(teacher):
    directory = teacher.parent / "student"
    return jaxgen.train(jaxgen.config("consistency:tiny", **STUDENT, **{"frozen.teacher": str(teacher)}), directory)


def test_a_run_keeps_what_its_teacher_is_built_from_and_where_its_arrays_are(teacher, student):
    kept = frozen.kept(student.directory, "teacher")
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "data.json", "source.json"]
    source = json.loads((kept / "source.json").read_text())
    assert (source["run"], source["step"]) == (str(teacher), 2)
    model = student.experiment.frozen["teacher"]
    assert source["digest"] == frozen.digest_of(model.load())
    variables = jaxgen.open(teacher).variables
    jax.tree.map(np.testing.assert_array_equal, model.load(), jax.tree.map(np.asarray, variables))
    assert model.model.spec.num_classes == 10
    saved = next((student.directory / "checkpoints").glob("*/state/_METADATA")).read_text()
    assert "params" in saved
    assert "teacher" not in saved


def test_a_student_goes_on_with_its_teacher_only_and_is_sampled_without(teacher, student, tmp_path):
    directory, other = tmp_path / "student", tmp_path / "teacher"
    shutil.copytree(teacher, other)
    config = jaxgen.config("consistency:tiny", **STUDENT, **{"frozen.teacher": str(other)})
    drawn = jaxgen.train(config, directory).sample(4)
    longer = jaxgen.config("consistency:tiny", **{**STUDENT, "train.num_steps": 2, "frozen.teacher": str(other)})
    shutil.rmtree(other)
    np.testing.assert_array_equal(jaxgen.open(directory).sample(4), drawn)
    with pytest.raises(ValueError, match=rf"{other}.* has no (whole )?checkpoint"):
        jaxgen.train(longer, directory)
    trained_on = {**QUIET, "seed": 5}
    jaxgen.train(jaxgen.config("sit:tiny", **trained_on), other)
    with pytest.raises(ValueError, match=r"The teacher in .* is another than the one that the run was started with"):
        jaxgen.train(longer, directory)


def test_a_guide_is_chosen_when_images_are_drawn(teacher):
    settings = {"frozen.guide": str(teacher), "sampler.guidance_scale": 3.0}
    plain, guided = jaxgen.open(teacher), jaxgen.open(teacher, **settings)
    assert set(guided.variables) == {"network", "guide"}
    np.testing.assert_array_equal(plain.sample(4), guided.sample(4))  # away from itself, which is nowhere
    x = to_float(jax.numpy.asarray(plain.sample(2)))
    assert guided.model.frozen == ("guide",)
    assert guided.model.denoise(guided.variables, x, jax.numpy.ones(2), {"label": jax.numpy.arange(2)}).shape == x.shape


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"frozen.teacher": "{home}/nothing"}, "nothing holds no run"),
    ({"frozen.teacher": "{home}/latent"}, r"frozen\.teacher is a model of latents, but this run's data are images"),
])  # fmt: skip
def test_what_is_no_teacher_is_refused(teacher, tmp_path, settings, sentence):
    if not (tmp_path / "latent").exists():
        shutil.copytree(teacher, tmp_path / "latent")
        described = frozen.kept(tmp_path / "latent", "autoencoder")
        described.mkdir(parents=True)
        (described / "source.json").write_text('{"digest": ""}')
    given = {name: value.format(home=tmp_path) for name, value in settings.items()}
    config = jaxgen.config("consistency:tiny", **STUDENT, **given)
    with pytest.raises(ValueError, match=sentence):
        jaxgen.train(config, tmp_path / "student")
    assert not (tmp_path / "student" / "config.json").exists()


@pytest.mark.soak
def test_a_model_of_latents_is_distilled_resumed_and_sampled_by_its_own_autoencoder(tmp_path):
    """Its teacher is of the same latents, so that the student's directory keeps the autoencoder once."""
    cached = {"data.path": str(cached_latents.directory())}
    jaxgen.train(jaxgen.config("latent:tiny", **QUIET, **cached), tmp_path / "teacher")
    settings = {**STUDENT, **cached, "data.name": "latents", "sampler.clip": False}
    settings["frozen.teacher"] = str(tmp_path / "teacher")
    run = jaxgen.train(jaxgen.config("consistency:tiny", **settings), tmp_path / "student")
    drawn = run.sample(2)
    assert drawn.shape == (2, 8, 8, 1)
    assert len(list((tmp_path / "student").rglob("arrays.npz"))) == 1
    longer = {**settings, "train.num_steps": 3}
    resumed = jaxgen.train(jaxgen.config("consistency:tiny", **longer), tmp_path / "student", extend=True)
    assert resumed.step == 3
    shutil.rmtree(tmp_path / "teacher")
    np.testing.assert_array_equal(jaxgen.open(tmp_path / "student", step=2).sample(2), drawn)


def test_a_plan_counts_what_is_frozen_and_splits_it():
    """By a teacher that is no run yet, but a config."""
    settings = {"frozen.teacher": "configs/sit.py:tiny", "consistency.start_from_teacher": False}
    config = jaxgen.config("consistency:tiny", **settings)
    made = planning.make(config, 4, planning.find_facts(config), mesh=["fsdp=4", "min_shard_elements=1"])
    alone = jaxgen.config("consistency:tiny")
    without = planning.make(alone, 4, planning.find_facts(alone), mesh=["fsdp=4", "min_shard_elements=1"])
    teacher = made.target.frozen["teacher"]
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(teacher))
    here = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * 4 for leaf in jax.tree.leaves(teacher))
    assert whole / 4 <= here < whole / 3
    more = made.memory.arguments - without.memory.arguments
    assert more == pytest.approx(here, rel=0.02)
