import re

import numpy as np
import pytest
from launching import launch
from PIL import Image

from jaxgen.runs import experiment as experiments

pytestmark = pytest.mark.xdist_group("cli")


def sample(trained, output, *arguments):
    outcome = launch("sample", f"--workdir={trained.workdir}", f"--output={output}", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def test_samples_are_a_file_of_images_and_a_grid_beside_it(trained, tmp_path):
    outcome = sample(trained, tmp_path / "new" / "some.npz", "--num_samples=9", "--labels=3,8")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["some.npz", "some.png"]
    with np.load(tmp_path / "new" / "some.npz") as arrays:
        assert set(arrays) == {"images", "labels"}
        images, labels = arrays["images"], arrays["labels"]
    assert (images.shape, images.dtype) == ((9, 8, 8, 1), np.uint8)
    assert (labels.tolist(), labels.dtype) == ([3, 8, 3, 8, 3, 8, 3, 8, 3], np.int32)
    picture = np.asarray(Image.open(tmp_path / "new" / "some.png"))
    factor = picture.shape[0] // (3 * 9 - 1)
    np.testing.assert_array_equal(picture[::factor, ::factor][9:17, 9:17], images[4, ..., 0])
    assert "9 images of step 4" in outcome.out
    assert str(tmp_path / "new" / "some.npz") in outcome.out


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(trained, tmp_path):
    for name, seed, count in (("a", 0, 9), ("b", 0, 9), ("c", 1, 9), ("d", 0, 12)):
        sample(trained, tmp_path / f"{name}.npz", f"--num_samples={count}", f"--seed={seed}")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    a, c, d = (np.load(tmp_path / f"{name}.npz")["images"] for name in "acd")
    assert (a != c).any((1, 2, 3)).all()
    np.testing.assert_array_equal(d[:9], a)


def test_a_step_can_be_chosen_and_settings_overridden(trained, tmp_path):
    old = sample(trained, tmp_path / "old.npz", "--num_samples=3", "--step=2", "--config.sample.batch_size=1")
    new = sample(trained, tmp_path / "new.npz", "--num_samples=3")
    assert "of step 2" in old.out
    assert "of step 4" in new.out
    assert (tmp_path / "old.npz").read_bytes() != (tmp_path / "new.npz").read_bytes()


def test_sampling_does_not_need_the_data(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "load_data", lambda *arguments: pytest.fail("the data was opened"))
    sample(trained, tmp_path / "a.npz", "--num_samples=4")


def test_images_that_are_not_finite_are_refused_with_the_samplers_reason(tmp_path):
    """A run whose adaptive sampler has too few tries: training goes on without its pictures, what needs images ends."""
    directory, output = tmp_path / "run", tmp_path / "images.npz"
    sampler = ("--config.sampler.name=rk45(max_tries=2)", "--config.sampler.num_steps=2")
    trained = launch("train", "--config=configs/edm.py:tiny", f"--workdir={directory}", *sampler)
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
