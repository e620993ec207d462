import re
import shutil
import signal

import numpy as np
import pytest
import untrained_runs
from launching import contents, launch
from PIL import Image

from jaxgen.core import grids
from jaxgen.parallel import sampling as parallel_sampling
from jaxgen.runs import experiment as experiments

pytestmark = pytest.mark.xdist_group("cli")


def sample(trained, output, *arguments):
    outcome = launch("sample", f"--workdir={trained.workdir}", f"--output={output}", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def test_samples_are_a_file_of_images_and_a_grid_beside_it(trained, tmp_path):
    outcome = sample(trained, tmp_path / "new" / "some.npz", "--num_samples=9", "--labels=3,8")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["some.json", "some.npz", "some.png"]
    with np.load(tmp_path / "new" / "some.npz") as arrays:
        assert set(arrays) == {"images", "labels"}
        images, labels = arrays["images"], arrays["labels"]
    assert (images.shape, images.dtype) == ((9, 8, 8, 1), np.uint8)
    assert (labels.tolist(), labels.dtype) == ([3, 8, 3, 8, 3, 8, 3, 8, 3], np.int32)
    picture = np.asarray(Image.open(tmp_path / "new" / "some.png"))
    rows = grids.picture(images, labels=labels, class_names=[str(i) for i in range(10)])  # of 3, 3, 8 and 8
    np.testing.assert_array_equal(picture, rows[..., 0])
    assert "9 images of step 4" in outcome.out
    assert all(str(tmp_path / "new" / f"some.{suffix}") in outcome.out for suffix in ("npz", "png", "json"))


def test_the_default_file_is_of_these_settings_and_never_written_twice(trained, tmp_path):
    directory = shutil.copytree(trained.workdir, tmp_path / "run")
    command = ("sample", f"--workdir={directory}", "--num_samples=4", "--labels=3,8")
    first = launch(*command)
    before = contents(directory)
    assert "samples/step4_seed0_n4_labels3,8.npz" in before
    again = launch(*command)
    assert (first.code, again.code) == (0, 0)
    assert "step4_seed0_n4_labels3,8.npz is there already: 4 images of step 4 by the same settings" in again.out
    assert contents(directory) == before
    other = launch(*command, "--seed=1", "--step=2", "--format=png")
    assert other.code == 0
    new = sorted(contents(directory).keys() - before.keys())
    assert [name for name in new if "_png/" in name] == [
        f"samples/step2_seed1_n4_labels3,8_png/{name}.png" for name in ("000000_3", "000001_8", "000002_3", "000003_8")
    ]
    (directory / "samples" / "step4_seed0_n4_labels3,8.npz").write_bytes(b"mine")
    refused = launch(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "is there already, but not what this command would write (it was changed since)" in refused.err


def test_classes_are_named(trained, tmp_path, monkeypatch):
    names = ("zero", "sneaker", "bag", "3", *"456789")
    monkeypatch.setattr("jaxgen.runs.opened.load_class_names", lambda directory: names)
    sample(trained, tmp_path / "a.npz", "--num_samples=3", "--labels=sneaker,0,3")
    assert np.load(tmp_path / "a.npz")["labels"].tolist() == [1, 0, 3]
    for labels, sentence in (
        ("shoe", "There is no class 'shoe'; the classes are zero, sneaker, bag, 3, 4, 5, 6, 7, 8, 9."),
        ("10", "The model has no class 10; its classes are the numbers from 0 to 9."),
    ):
        outcome = launch("sample", f"--workdir={trained.workdir}", "--num_samples=3", f"--labels={labels}")
        assert (outcome.code, outcome.err) == (2, f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "sample needs --num_samples=N, the number of images to draw."),
        (["--num_samples=0"], "is 0, but must"),
        (["--num_samples=9999999999999"], "--num_samples|9,999,999,999,999"),
        (["--num_samples=2", "--format=gif"], "npz"),
        (["--num_samples=2", "--cond=color"], "--cond is 'color', but must be a name and numbers"),
        (["--num_samples=2", "--cond=color=red"], "--cond is 'color=red'"),
        (["--num_samples=2", "--cond=color=True"], "--cond is 'color=True'"),
        (["--num_samples=2", "--cond=color=3"], "'color'"),
        (["--num_samples=2", "--cond=c=3", "--cond=c=4"], "--cond gives 'c' twice"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(trained, tmp_path, arguments, sentence):
    outcome = launch("sample", f"--workdir={trained.workdir}", f"--output={tmp_path}/a.npz", *arguments)
    assert outcome.code == 2
    assert re.search(sentence, outcome.err)
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_classes_takes_no_labels(tmp_path):
    directory = untrained_runs.make(tmp_path / "run", "vae:tiny", **{"vae.class_conditional": False})
    outcome = launch("sample", f"--workdir={directory}", "--num_samples=2", "--labels=0")
    assert (outcome.code, outcome.err) == (2, "error: This model is unconditional: it takes no --labels.\n")
    assert launch("sample", f"--workdir={directory}", "--num_samples=2", "--format=png").code == 0
    drawn = sorted(path.name for path in (directory / "samples" / "step0_seed0_n2_png").iterdir())
    assert drawn == ["000000.png", "000001.png"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_what_is_drawn_and_the_same_command_goes_on(trained, tmp_path, monkeypatch, number, code):
    command = ("sample", f"--workdir={trained.workdir}", "--num_samples=12", f"--output={tmp_path}/a.npz")
    draw = parallel_sampling.draw_batches

    def interrupted(*arguments, **options):
        for i, batch in enumerate(draw(*arguments, **options)):
            yield batch
            if i == 0:
                signal.raise_signal(number)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(parallel_sampling, "draw_batches", interrupted)
        outcome = launch(*command)
    assert outcome.code == code
    assert "8 of 12 images are kept in " in outcome.out
    assert signal.getsignal(signal.SIGTERM) == handler
    again = launch(*command)
    assert again.code == 0
    assert "8 of 12 images are in " in again.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npz", "a.png"]
    sample(trained, tmp_path / "b.npz", "--num_samples=12")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(trained, tmp_path):
    for name, seed, count in (("a", 0, 9), ("b", 0, 9), ("c", 1, 9), ("d", 0, 12)):
        sample(trained, tmp_path / f"{name}.npz", f"--num_samples={count}", f"--seed={seed}")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    a, c, d = (np.load(tmp_path / f"{name}.npz")["images"] for name in "acd")
    assert (a != c).any((1, 2, 3)).sum() > 2  # the model has hardly begun to learn, and its levels are few
    np.testing.assert_array_equal(d[:9], a)


def test_a_step_can_be_chosen_and_settings_overridden(trained, tmp_path):
    old = sample(trained, tmp_path / "old.npz", "--num_samples=99", "--step=2", "--config.sample.batch_size=9")
    new = sample(trained, tmp_path / "new.npz", "--num_samples=99")
    assert "of step 2" in old.out
    assert "of step 4" in new.out
    assert (tmp_path / "old.npz").read_bytes() != (tmp_path / "new.npz").read_bytes()


def test_sampling_does_not_need_the_data(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "load_data", lambda *arguments: pytest.fail("the data was opened"))
    sample(trained, tmp_path / "a.npz", "--num_samples=4")


ADAPTIVE = """
from ml_collections import ConfigDict

from configs import edm


def get_config(variant=""):
    config = edm.tiny()
    config.model = ConfigDict({"name": "dit.DiT", "hidden_size": 8, "depth": 1, "num_heads": 1, "patch_size": 4})
    config.diffusion.augment_probability = 0.0
    config.sampler.name = "rk45(max_tries=2)"
    config.log.tensorboard = False
    config.parallel.num_devices = 1
    return config
"""
"""EDM with the network that compiles fastest, and with fewer steps of its sampler than it takes."""


def test_images_that_are_not_finite_are_refused_with_the_samplers_reason(tmp_path):
    """A run whose adaptive sampler has too few tries: training goes on without its pictures, what needs images ends."""
    directory, output = tmp_path / "run", tmp_path / "images.npz"
    (tmp_path / "adaptive.py").write_text(ADAPTIVE)
    trained = launch("train", f"--config={tmp_path}/adaptive.py", f"--workdir={directory}")
    reason = r"rk45 did not reach noise level 0\.5 within max_tries=2 steps, or .* raise max_tries.*\."
    assert re.search(rf"warning: no samples of step \d+: 8 of 8 images are not finite: {reason}", trained.out)
    assert re.fullmatch(rf"(error: )?8 of 8 images are not finite: {reason}", refusal(trained))
    drawing = ("sample", f"--workdir={directory}", f"--output={output}", "--num_samples=3")
    assert re.fullmatch(rf"(error: )?3 of 3 images are not finite: {reason}", refusal(launch(*drawing)))
    assert not output.exists()
    enough = launch(*drawing, "--config.sampler.name=rk45")
    assert enough.code == 0, enough.err


def refusal(outcome):
    """What a command that failed says, in one line."""
    assert outcome.code != 0
    return outcome.err.strip() or str(outcome.code)
