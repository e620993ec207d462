"""The commands for latent spaces, on runs with random weights: their files, what is in them, refusals."""

import numpy as np
import pytest
import untrained_runs
from launching import launch
from PIL import Image

import jaxgen
from jaxgen.core import grids
from jaxgen.core import images as image_tools
from jaxgen.runs import latent_space

pytestmark = pytest.mark.xdist_group("latents_commands")


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    return untrained_runs.make(tmp_path_factory.mktemp("commands") / "stylegan2", "stylegan2:tiny")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    settings = {"gan.class_conditional": False, "gan.latent_dim": 5}
    return untrained_runs.make(tmp_path_factory.mktemp("commands") / "gan", "gan:tiny", **settings)


def shown(images, columns):
    """A table of images as it is saved."""
    return grids.enlarged(image_tools.grid(images, columns=columns))[..., 0]


def files_of(outcome, directory, stem):
    """The arrays, and the picture, of a command that ended well."""
    assert (outcome.code, outcome.err) == (0, "")
    archive, picture = directory / f"{stem}.npz", directory / f"{stem}.png"
    assert str(archive) in outcome.out
    assert str(picture) in outcome.out
    with np.load(archive) as arrays:
        return dict(arrays), np.asarray(Image.open(picture))


def test_interpolate_writes_paths_once(styled):
    command = ("interpolate", f"--workdir={styled}", "--num_samples=2", "--steps=3", "--labels=1", "--seed=4")
    arrays, picture = files_of(launch(*command), styled / "latents", "interpolate_step0_w_seed4_n2_steps3_labels1")
    drawn = latent_space.interpolate(jaxgen.open(styled), 2, steps=3, seed=4, label=1)
    np.testing.assert_array_equal(arrays["images"], drawn.images)
    np.testing.assert_allclose(arrays["points"], drawn.points, atol=1e-6)
    assert arrays["labels"].tolist() == [1, 1]
    np.testing.assert_array_equal(picture, shown(drawn.images.reshape(-1, 8, 8, 1), columns=3))
    again = launch(*command)
    assert (again.code, again.out) == (2, "")
    assert again.err.endswith("labels1.npz is there already: remove it, or give another --output.\n")


def test_interpolate_takes_latents_where_there_are_no_styles(plain, tmp_path):
    outcome = launch("interpolate", f"--workdir={plain}", "--num_samples=1", f"--output={tmp_path}/new/path")
    arrays, _ = files_of(outcome, tmp_path / "new", "path")
    assert (arrays["points"].shape, "labels" in arrays) == ((1, 8, 5), False)
    refused = launch("interpolate", f"--workdir={plain}", "--space=w")
    assert (refused.code, refused.err) == (
        2,
        "error: The model has no styles, which the space w is of: choose the space z.\n",
    )


def test_mix_writes_a_table(styled, plain):
    outcome = launch("mix", f"--workdir={styled}", "--num_samples=2", "--layers=1,3")
    arrays, picture = files_of(outcome, styled / "latents", "mix_step0_layers1-3_seed0_n2")
    np.testing.assert_array_equal(arrays["images"], latent_space.mix(jaxgen.open(styled), 2, 2, first=1, last=3).images)
    assert picture.shape[0] == picture.shape[1]
    for run, words, sentence in (
        (styled, [], "mix needs --layers=A,B: the layers from A on, before B, have the styles of the columns."),
        (styled, ["--layers=1"], "--layers is 1, but must be two whole numbers such as 0,2."),
        (styled, ["--layers=1,9"], "Layers from 1 to 9 are mixed, but must be a part of those from 0 to 4."),
        (plain, ["--layers=0,1"], "Style mixing needs a model with styles, which this method does not have."),
    ):
        refused = launch("mix", f"--workdir={run}", *words)
        assert (refused.code, refused.err) == (2, f"error: {sentence}\n")


def test_directions_are_written_with_images_along_them(plain):
    flags = ["--num_directions=2", "--num_samples=3", "--steps=5", "--distance=1.5", "--seed=2"]
    outcome = launch("directions", f"--workdir={plain}", *flags)
    arrays, picture = files_of(outcome, plain / "latents", "directions_step0_z_sefa_k2_seed2_n3_1.5x5")
    run = jaxgen.open(plain)
    found = latent_space.find_directions(run, 2)
    np.testing.assert_allclose(arrays["directions"], found.vectors, atol=1e-5)
    np.testing.assert_allclose(arrays["scales"], found.scales, rtol=1e-4)
    expected = latent_space.traverse(run, found.vectors, 3, distances=np.linspace(-1.5, 1.5, 5), seed=2)
    np.testing.assert_array_equal(arrays["images"], expected.images)
    together = expected.images.swapaxes(0, 1).reshape(-1, 8, 8, 1)  # the images of a direction
    np.testing.assert_array_equal(picture, shown(together, columns=5))
    refused = launch("directions", f"--workdir={plain}", "--by=ganspace")
    for distance in ("0", "-1.5"):
        still = launch("directions", f"--workdir={plain}", f"--distance={distance}")
        sentence = f"error: --distance is {distance}, but must be positive: images move as far to either side.\n"
        assert (still.code, still.err) == (2, sentence)
    assert refused.err == "error: GANSpace needs the styles of a generator, and this space has none: choose sefa.\n"


def test_pictures_are_projected(plain, tmp_path):
    target = jaxgen.open(plain).decode(latent_space.random_latents(jaxgen.open(plain), 1, 9))[0]
    Image.fromarray(target[..., 0]).save(tmp_path / "one.png")
    Image.fromarray(np.zeros((20, 16, 3), np.uint8)).save(tmp_path / "two.png")
    outcome = launch("project", f"--workdir={plain}", f"--images={tmp_path}/one.png,{tmp_path}/two.png", "--steps=30")
    arrays, picture = files_of(outcome, plain / "latents", "project_step0_z_steps30_one_two_n2_seed0")
    assert (arrays["images"].shape, arrays["points"].shape, arrays["distances"].shape) == (
        (2, 8, 8, 1),
        (2, 5),
        (30, 2),
    )
    np.testing.assert_array_equal(picture[: picture.shape[0] // 2 : 64, : picture.shape[1] // 2 : 64].size > 0, True)
    assert arrays["distances"][-1, 0] < arrays["distances"][0, 0]
    for words, sentence in (
        ([], r"project needs --images=FILE"),
        ([f"--images={tmp_path}/none.png"], "none.png cannot be read as a picture"),
        ([f"--images={tmp_path}/one.png,~nobody-at-all/x.png"], "--images is '~nobody-at-all/x.png', but there is no"),
        ([f"--images={tmp_path}/one.png", "--labels=1"], "This model is unconditional: it takes no --labels."),
    ):
        refused = launch("project", f"--workdir={plain}", *words)
        assert refused.code == 2
        assert sentence in refused.err
