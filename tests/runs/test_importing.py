"""Importing as functions: their outcome, what they leave alone, and a format that is added as one file."""

import sys

import cached_latents
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from specs import data_spec

from jaxgen.core import trees
from jaxgen.interop import formats
from jaxgen.interop.formats import dit, edm
from jaxgen.nn.dit import DiT
from jaxgen.nn.song_unet import SongUNet
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen, importing
from jaxgen.runs.config_files import load_config_file
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config

NCSNPP = {
    "name": "song_unet.SongUNet", "base_channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1,
    "embedding": "fourier", "noise_channel_multiplier": 2,
}  # fmt: skip
FREQUENCIES = np.linspace(0.5, 4.0, 8).astype(np.float32)
SPEC = data_spec((8, 8, 1), 10)
DATA = {"image_shape": (8, 8, 1), "num_classes": 10}

ADDED = '''"""Weights of nobody, by our own names behind a prefix."""

from jaxgen.interop.format import RunFormat, network_parts
from jaxgen.nn.song_unet import SongUNet

FORMAT = RunFormat("ddpm", network_parts(SongUNet, official=lambda name, network: f"mine.{name}", ignored="rest.*"))
'''


@pytest.fixture
def config() -> ConfigDict:
    config = load_config_file("configs/ddpm.py:tiny")
    config.model = ConfigDict(NCSNPP)
    return config


def official(name):
    return edm.official_name(name, SongUNet(1))


def state_dict(config, official=official, spec=SPEC):
    """Random weights of the network of a config."""
    experiment = experiments.build(parse(config), spec)
    network = experiments.target(experiment).params["network"]
    random = np.random.default_rng(0)
    return as_official(jax.tree.map(lambda leaf: np.float32(random.normal(size=leaf.shape)), network), official)


def as_official(params, official=official):
    """Our parameters by official names, in PyTorch's layout."""
    return {
        official(name): np.moveaxis(array, (-1, -2), (0, 1)) if name.endswith("kernel") else array
        for name, array in trees.named_leaves(params).items()
    }


def test_an_import_returns_its_outcome_and_leaves_the_config_alone(config, tmp_path, capsys):
    weights = state_dict(config)
    numbers = sum(array.size for array in weights.values())
    before = config.to_dict()
    imported = importing.import_run(
        tmp_path / "run", edm.FORMAT, {**weights, "map_noise.freqs": FREQUENCIES}, {"mine": config}, **DATA
    )
    assert imported == importing.Imported("mine", numbers, ())
    assert capsys.readouterr() == ("", "")
    assert config.to_dict() == before
    written = load_config(tmp_path / "run").model.to_dict()
    np.testing.assert_array_equal(np.float32(written.pop("frequencies")), FREQUENCIES)
    assert written == NCSNPP


def test_parameters_without_weights_are_named_and_start_as_in_a_new_run(config, tmp_path):
    config.diffusion.uncertainty_channels = 8
    weights = state_dict(config)
    imported = importing.import_run(tmp_path / "run", edm.FORMAT, weights, {"mine": config}, **DATA)
    assert imported.fresh == ("uncertainty",)
    experiment = experiments.build(parse(config), SPEC)
    state, step = experiments.restore(experiment, tmp_path / "run", None)
    assert step == 0
    new = experiment.runner.to_contract(experiment.runner.init(experiments.example(experiment)))
    for ours in (state.params, experiment.model.eval_variables(state)):
        jax.tree.map(np.testing.assert_array_equal, ours["uncertainty"], new.params["uncertainty"])
        jax.tree.map(np.testing.assert_array_equal, as_official(ours["network"]), weights)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A file beside the formats, until the end of the test."""
    (tmp_path / "mine_alone.py").write_text(ADDED)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    yield
    sys.modules.pop("jaxgen.interop.formats.mine_alone", None)


def test_a_format_is_added_as_one_file(config, added, tmp_path):
    weights = state_dict(config, "mine.{}".format) | {"rest.of_it": np.ones(3)}
    format_ = importing.find_format("mine-alone")
    imported = importing.import_run(tmp_path / "run", format_, weights, {"mine": config}, **DATA)
    assert imported.numbers == sum(array.size for array in weights.values()) - 3
    with pytest.raises(ValueError, match=r"^The weights do not fit mine: other \(3,\) is unknown\.$"):
        importing.import_run(tmp_path / "other", format_, weights | {"other": np.ones(3)}, {"mine": config}, **DATA)
    assert not (tmp_path / "other").exists()


def test_configs_that_cannot_be_built_are_named_beside_the_closest(config, tmp_path):
    weights = state_dict(config)
    wide, wrong = config.copy_and_resolve_references(), config.copy_and_resolve_references()
    wide.model.base_channels, wrong.model.widths = 16, 3
    candidates = {"configs:wide": wide, "configs:wrong": wrong}
    with pytest.raises(ValueError, match=r"^The weights do not fit configs:wide, nor any other variant of configs: "):
        importing.import_run(tmp_path / "run", edm.FORMAT, weights, candidates, **DATA)
    with pytest.raises(
        ValueError, match=r"compared with no config: a cannot be built \(model\.widths is not a setting"
    ):
        importing.import_run(tmp_path / "run", edm.FORMAT, weights, {"a": wrong, "b": wrong}, **DATA)
    imported = importing.import_run(tmp_path / "run", edm.FORMAT, weights, {**candidates, "right": config}, **DATA)
    assert imported.name == "right"


def test_a_model_of_cached_latents_keeps_their_autoencoder(tmp_path):
    config = load_config_file("configs/latent.py:tiny")
    config.data.path = str(cached_latents.directory())
    network = DiT(1, depth=config.model.depth)
    weights = state_dict(config, lambda name: dit.official_name(name, network), data_spec((4, 4, 2), 10))
    imported = importing.import_run(tmp_path / "run", dit.FORMAT, weights, {"latent": config})
    assert imported.fresh == ()
    places = (frozen.kept(tmp_path / "run", "autoencoder"), cached_latents.directory() / "autoencoder")
    kept, cached = (frozen.autoencoder(place).load() for place in places)
    jax.tree.map(np.testing.assert_array_equal, kept, cached)


def test_a_directory_that_holds_something_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    for import_, name in ((importing.import_run, "edm"), (importing.import_extractor, "inception")):
        with pytest.raises(ValueError, match="is there already, and not empty: choose another directory"):
            import_(tmp_path, importing.find_format(name), {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
