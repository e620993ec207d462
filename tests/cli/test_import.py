"""Official weights into a work directory, to draw from and to train on; or nothing is written."""

import json
import re

import jax
import numpy as np
import pytest
from launching import contents, launch
from specs import data_spec

from jaxgen.core import trees
from jaxgen.interop.formats import autoencoder_kl, dit
from jaxgen.nn.dit import DiT
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen
from jaxgen.runs.config_files import config_variants, load_config_file
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config, load_spec

CONFIG = """
from ml_collections import ConfigDict

from configs import common


def get_config(variant="right"):
    return common.choose({"deep": lambda: make(2), "right": lambda: make(1), "again": lambda: make(1)}, variant)


def make(depth):
    config = common.tiny(common.digits(common.diffusion(common.base())))
    config.optimizer.warmup_steps = 0
    config.optimizer.name, config.optimizer.b2 = "sgd", 0.999
    config.optimizer.learning_rate = 1e-6
    config.evaluate.num_samples = 0
    config.log.tensorboard = False
    config.parallel.num_devices = 1
    config.train.checkpoint_every_steps = 4
    config.sampler.num_steps = 2
    config.model = ConfigDict({"name": "dit.DiT", "hidden_size": 16, "depth": depth, "num_heads": 2, "patch_size": 4})
    return config
"""

AUTOENCODER = """
from configs import autoencoder_kl, common


def get_config(variant=""):
    config = common.tiny(autoencoder_kl.digits())
    config.model.block_channels, config.model.num_groups = (4, 4), 2
    config.parallel.num_devices = 1
    return config
"""
"""One player: tests/interop say where the network of two is."""


def official_weights(config, official_name, seed=0):
    """A state dict of random numbers under official names, and the same arrays as our parameters."""
    params = experiments.target(experiments.build(parse(config), data_spec((8, 8, 1), 10))).params
    random = np.random.default_rng(seed)
    ours = jax.tree.map(lambda leaf: 0.1 * random.normal(size=leaf.shape).astype(np.float32), params["network"])
    return as_official(ours, official_name), ours


def as_official(params, official_name):
    """Our parameters, or their shapes, in PyTorch's layout and names."""

    def convert(name, leaf):
        array = np.zeros(leaf.shape, np.float32) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        return np.moveaxis(array, (-1, -2), (0, 1)) if name.endswith("kernel") else array

    return {official_name(name): convert(name, leaf) for name, leaf in trees.named_leaves(params).items()}


def state_of(workdir):
    config = load_config(workdir)
    experiment = experiments.build(parse(config), load_spec(workdir))
    return experiments.restore(experiment, workdir, None)[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a config file, weights that fit it, and the run made of both."""
    directory = tmp_path_factory.mktemp("import")
    (directory / "config.py").write_text(CONFIG)
    config = load_config_file(f"{directory}/config.py:right")
    state_dict, ours = official_weights(config, lambda name: dit.official_name(name, DiT(out_channels=1, depth=1)))
    np.savez(directory / "weights.npz", **state_dict)
    outcome = launch(*arguments(directory, f"--config={directory}/config.py:right", f"--workdir={directory}/run"))
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{directory}/run holds {directory}/config.py:right with ")
    return directory, state_dict, ours


def arguments(directory, *more):
    return ["import", "--format=dit", f"--weights={directory}/weights.npz", *more]


def test_parameters_and_their_average_are_the_imported_ones_at_step_zero(place):
    directory, _, ours = place
    state = state_of(directory / "run")
    assert state.step == 0
    jax.tree.map(np.testing.assert_array_equal, state.params["network"], ours)
    averaged = experiments.build(
        parse(load_config(directory / "run")), load_spec(directory / "run")
    ).model.eval_variables(state)
    jax.tree.map(np.testing.assert_array_equal, averaged["network"], ours)
    assert {"config.json", "data.json", "environment.json"} <= {path.name for path in (directory / "run").iterdir()}
    assert json.loads((directory / "run" / "data.json").read_text())["conditioning"]["label"]["size"] == 10
    assert not [path.name for path in directory.iterdir() if path.name.startswith(".run")]


def test_images_are_drawn_from_them(place):
    directory = place[0]
    outcome = launch(
        "sample", f"--workdir={directory}/run", "--num_samples=8", f"--output={directory}/samples.npz", "--step=0"
    )
    assert outcome.code == 0, outcome.err
    with np.load(directory / "samples.npz") as arrays:
        assert arrays["images"].shape == (8, 8, 8, 1)


def test_training_goes_on_from_them(place):
    directory, _, ours = place
    outcome = launch("train", f"--workdir={directory}/run")
    assert outcome.code == 0, outcome.err
    assert "Resumed at step 0." in outcome.out
    state = state_of(directory / "run")
    assert state.step == 4
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), state.params["network"], ours)
    assert 0.0 < max(jax.tree.leaves(moved)) < 1e-3  # at a rate of 1e-6; another start is some 0.1 away


def test_without_a_config_the_first_variant_that_fits_is_taken(place, monkeypatch):
    directory = place[0]
    variants = config_variants(f"{directory}/config.py")
    assert [name.partition(":")[2] for name in variants] == ["deep", "right", "again"]
    monkeypatch.setattr("jaxgen.runs.importing.config_variants", lambda file: variants)
    outcome = launch(*arguments(directory, f"--workdir={directory}/chosen"))
    assert outcome.code == 0, outcome.err
    assert f"holds {directory}/config.py:right with" in outcome.out
    assert load_config(directory / "chosen").model.depth == 1


def test_weights_of_a_wrapped_network_among_others_are_imported_without_their_prefix(place, tmp_path):
    directory, state_dict, ours = place
    wrapped = {f"module._orig_mod.{name}": array for name, array in state_dict.items()}
    np.savez(tmp_path / "wrapped.npz", **wrapped, **{"cond_stage_model.x": np.zeros(3)})
    outcome = launch(
        "import", "--format=dit", f"--weights={tmp_path}/wrapped.npz", f"--config={directory}/config.py",
        f"--workdir={tmp_path}/run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    sentence = "Their names fit without 'module._orig_mod.' at the beginning; 1 entries without it are left out.\n"
    assert sentence in outcome.out
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / "run").params["network"], ours)


def test_weights_whose_names_fit_nothing_are_shown_beside_those_that_are_expected(place, tmp_path):
    np.savez(tmp_path / "other.npz", **{f"layer{i}.w": np.zeros(2, np.float32) for i in range(5)})
    config = f"--config={place[0]}/config.py"
    outcome = launch("import", "--format=dit", f"--weights={tmp_path}/other.npz", config, f"--workdir={tmp_path}/run")
    assert outcome.code == 2
    assert (
        "fits: they have layer0.w, layer1.w, layer2.w and 2 more, where blocks.0.adaLN_modulation.1.bias, "
        in outcome.err
    )
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


REFUSED = {
    "format": (["--format=dti"], r"--format is 'dti', but must be one of .*dit.* Did you mean dit"),
    "no format": (["--format="], "--format is empty: give a value"),
    "a tool": (["--format=files"], r"--format is 'files', but must be one of"),
    "no weights": (
        ["--config=configs/ddpm.py", "--weights={directory}/none.pt"],
        r"none\.pt cannot be read: .*No such file",
    ),
    "entry": (["--config=configs/ddpm.py", "--entry=ema"], "leave --entry=ema out"),
    "config": (["--config={directory}/none.py"], "There is no config"),
    "overrides without config": (["--config.seed=3"], r"import takes --config\.seed=3 only together with --config"),
    "another network": (["--config=configs/ddpm.py:tiny"], "The format's weights are of DiT, which the config"),
    "a network of another size": (
        ["--config={directory}/config.py:deep"],
        r"do not fit .*config\.py:deep: blocks\.1\.attn\.proj\.bias is missing \(our block_1/attention/out/bias",
    ),
    "a network of another shape": (
        ["--config={directory}/config.py", "--config.model.hidden_size=32"],
        r"blocks\.0\.attn\.proj\.bias has shape \(16,\), but our block_0/attention/out/bias has \(32,\); ",
    ),
    "classes": (["--config={directory}/config.py", "--num_classes=7"], r"embedding_table.* has shape \(11, 16\), but"),
    "image shape": (["--image_shape=32,32", "--config={directory}/config.py"], r"--image_shape is 32,32, but must be"),
    "shift of no latents": (["--latent_shift=1"], "--latent_shift has no effect without --autoencoder: leave it out"),
    "scale of no latents": (["--latent_scale=1"], "--latent_scale has no effect without --autoencoder: leave it out"),
    "shape of latents": (["--autoencoder=x", "--image_shape=8,8,4"], "that of the latents of --autoencoder: leave it"),
    "no data": (
        ["--config={directory}/config.py", "--config.data.name=folder"],
        r"data lacks path: .* Or give --image_shape=H,W,C and --num_classes=N",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_and_leaves_nothing(place, tmp_path, name):
    directory = place[0]
    more, sentence = REFUSED[name]
    more = [argument.format(directory=directory) for argument in more]
    outcome = launch(*arguments(directory, f"--workdir={tmp_path}/new", *more))
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert re.fullmatch(r"error: [^\n]*[.?]\n", outcome.err), outcome.err
    assert re.search(sentence, outcome.err), outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_left_alone(place):
    directory = place[0]
    before = contents(directory / "run")
    outcome = launch(*arguments(directory, f"--workdir={directory}/run"))
    assert outcome.code == 2
    assert "is there already, and not empty: choose another --workdir" in outcome.err
    assert contents(directory / "run") == before


def test_a_place_below_a_file_is_refused(place):
    directory = place[0]
    more = [f"--config={directory}/config.py:right", f"--workdir={directory}/weights.npz/run"]
    outcome = launch(*arguments(directory, *more))
    assert outcome.code == 2
    assert "weights.npz/run cannot be written (" in outcome.err


def test_flags_say_what_the_data_is_where_it_cannot_be_asked(place, tmp_path):
    directory = place[0]
    outcome = launch(
        *arguments(directory, f"--workdir={tmp_path}/run", f"--config={directory}/config.py:right"),
        "--config.data.name=folder", "--image_shape=16,16,1", "--num_classes=10",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert load_spec(tmp_path / "run") == data_spec((16, 16, 1), 10)


def test_a_model_of_latents_comes_with_its_autoencoder(place, tmp_path):
    directory = place[0]
    (tmp_path / "coder.py").write_text(AUTOENCODER)
    coder = load_config_file(f"{tmp_path}/coder.py")
    state_dict, ours = official_weights(coder, autoencoder_kl.official_name)
    np.savez(tmp_path / "coder.npz", **state_dict)
    first = ["--format=autoencoder-kl", f"--weights={tmp_path}/coder.npz", f"--config={tmp_path}/coder.py"]
    outcome = launch("import", *first, f"--workdir={tmp_path}/coder")
    assert outcome.code == 0, outcome.err

    latents = load_config_file(f"{directory}/config.py:right")
    spec = data_spec((4, 4, 2), 10)
    params = experiments.target(experiments.build(parse(latents), spec)).params["network"]
    weights = as_official(params, lambda name: dit.official_name(name, DiT(out_channels=2, depth=1)))
    np.savez(tmp_path / "dit.npz", **weights)
    second = [
        "--format=dit", f"--weights={tmp_path}/dit.npz", f"--config={directory}/config.py:right",
        "--config.data.name=latents", "--config.sampler.clip=False", "--num_classes=10", f"--workdir={tmp_path}/run",
    ]  # fmt: skip
    coder_of = f"--autoencoder={tmp_path}/coder"
    for more, sentence in (
        ([], "are not known, since data.path is not set: set it. Or give --image_shape"),
        ([f"--autoencoder={directory}/run"], "method denoising.diffusion, which has no feature maps as latents"),
        ([coder_of, "--latent_scale=1,2,3"], "--latent_scale is 1,2,3, but must be one number, or 2 of them"),
        ([coder_of, "--config.data.name=digits"], "is for models of latents, but data.name is 'digits'"),
    ):
        outcome = launch("import", *second, *more)
        assert outcome.code == 2
        assert sentence in outcome.err
        assert not (tmp_path / "run").exists()
    outcome = launch("import", *second, coder_of, "--latent_scale=5.0")
    assert outcome.code == 0, outcome.err
    kept = frozen.autoencoder(tmp_path / "run" / "frozen" / "autoencoder").load()
    np.testing.assert_array_equal(kept["scale"], [5.0, 5.0])
    jax.tree.map(np.testing.assert_array_equal, kept["variables"]["network"], ours)
    outcome = launch("sample", f"--workdir={tmp_path}/run", "--num_samples=8", f"--output={tmp_path}/samples.npz")
    assert outcome.code == 0, outcome.err
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["images"].shape == (8, 8, 8, 1)
