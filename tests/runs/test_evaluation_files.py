import json

import pytest

import jaxgen
from jaxgen.runs import evaluation_files
from jaxgen.runs.config_files import read_only, with_settings
from jaxgen.training import workdir

OWN = read_only(jaxgen.config("vae:tiny"))


@pytest.fixture
def directory(tmp_path):
    workdir.save_config(tmp_path, OWN)
    return tmp_path


def changed(**settings):
    return read_only(with_settings(OWN, {name.replace("__", "."): value for name, value in settings.items()}))


def write(directory, step, config=OWN, *, newest=True, value=0):
    evaluation_files.write(directory, {"a": {"value": value}}, step=step, newest=newest, config=config)


def reports(directory):
    """Step and value of each report, by the name of its file."""
    files = [directory / "evaluation.json", *(directory / "evaluations").glob("*")]
    read = {str(path.relative_to(directory)): json.loads(path.read_text()) for path in files if path.exists()}
    return {name: (report["step"], report["figures"]["a"]["value"]) for name, report in read.items()}


def test_no_evaluation_overwrites_another_one(directory):
    write(directory, 4, value=1)
    write(directory, 2, newest=False, value=2)
    write(directory, 4, changed(evaluate__num_samples=20, vae__sigma=0.5), value=3)
    write(directory, 4, changed(evaluate__num_samples=30), value=4)
    write(directory, 2, changed(evaluate__num_samples=30), newest=False, value=5)
    expected = {
        "evaluation.json": (4, 1),
        "evaluations/step2.json": (2, 2),
        "evaluations/step4_num_samples=20_sigma=0.5.json": (4, 3),
        "evaluations/step4_num_samples=30.json": (4, 4),
        "evaluations/step2_num_samples=30.json": (2, 5),
    }
    assert reports(directory) == expected
    write(directory, 8, value=6)  # the run has gone on
    assert reports(directory) == expected | {"evaluation.json": (8, 6), "evaluations/step4.json": (4, 1)}
    write(directory, 8, value=7)  # the same one again
    assert reports(directory) == expected | {"evaluation.json": (8, 7), "evaluations/step4.json": (4, 1)}


def test_the_settings_that_differ_are_recorded_by_their_paths(directory):
    write(
        directory, 4, changed(evaluate__num_samples=20, vae__sigma=0.5, sample__batch_size=3, parallel__num_devices=1)
    )
    (path,) = (directory / "evaluations").iterdir()
    report = json.loads(path.read_text())
    assert report["settings"] == {"evaluate.num_samples": 20, "vae.sigma": 0.5}
    write(directory, 4, changed(sample__batch_size=3))
    assert json.loads((directory / "evaluation.json").read_text())["settings"] == {}


def test_the_step_that_was_evaluated_is_that_of_these_settings(directory):
    other = changed(evaluate__num_samples=20)
    for config in (OWN, other):
        assert evaluation_files.reported_step(directory, config) is None
    write(directory, 2)
    write(directory, 4)
    write(directory, 2, other)
    write(directory, 6, changed(evaluate__num_samples=20, evaluate__k=2))
    assert evaluation_files.reported_step(directory, OWN) == 4
    assert evaluation_files.reported_step(directory, other) == 2
    (directory / "evaluation.json").write_text("damaged")
    assert evaluation_files.reported_step(directory, OWN) == 2  # the older one


def test_names_are_different_for_different_settings():
    paths = [{"evaluate.inception": f"/a/{name}"} for name in ("b c", "b-c", "b/c", "é" * 300, "é" * 301)]
    long = [{f"a.b{i}": value for i in range(40)} for value in (1, 2)]
    twins = [{"generator.width": 3, "discriminator.width": 4}, {"generator.width": 4, "discriminator.width": 3}]
    names = [evaluation_files.name_of(4, settings) for settings in (*paths, *long, *twins)]
    assert len(set(names)) == len(names)
    assert all("/" not in name and " " not in name and len(name.encode()) < 200 for name in names)
    assert names[-2] == "step4_generator.width=3_discriminator.width=4.json"


def test_figures_depend_on_what_becomes_of_faulty_examples_but_not_on_the_length_of_training(directory):
    other = changed(data__on_fault="skip", data__max_faults=5, train__num_steps=9, train__keep_every_steps=3)
    assert evaluation_files.changed_settings(directory, other) == {"data.on_fault": "skip"}
