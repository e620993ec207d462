"""Configs by name, in a checkout, in the package, and in a directory of the user."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

import jaxgen
from configs import ddpm
from jaxgen.core import config as configs
from jaxgen.runs import config_files

ROOT = Path(__file__).parents[2]

OF_THE_USER = """
from configs import common


def get_config(variant="plain"):
    def plain():
        config = common.base()
        config.method, config.seed = "vae.vae", 7
        return config

    def other():
        config = plain()
        config.seed = 0
        return config

    return common.choose({"plain": plain, "other": other}, variant)
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A directory of a user, with a config and with another package that is called `configs`."""
    (tmp_path / "mine.py").write_text(OF_THE_USER)
    (tmp_path / "ddpm").mkdir()
    other = ModuleType("configs")
    other.__path__ = [str(tmp_path / "configs")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "configs", other)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(ROOT))])
    monkeypatch.chdir(tmp_path)
    return other


@pytest.mark.parametrize("name", ["ddpm:tiny", "configs/ddpm.py:tiny", f"{ROOT}/configs/ddpm.py:tiny"])
def test_a_config_of_the_package_has_a_short_name(name, elsewhere):
    modules, path = {name for name in sys.modules if name.startswith("configs")}, list(sys.path)
    assert configs.to_json(jaxgen.config(name)) == configs.to_json(ddpm.get_config("tiny"))
    assert sys.modules["configs"] is elsewhere
    assert {name for name in sys.modules if name.startswith("configs")} == modules == {"configs"}
    assert sys.path == path


def test_without_a_variant_it_is_the_default_one():
    assert configs.to_json(jaxgen.config("ddpm")) == configs.to_json(ddpm.get_config("digits"))
    assert configs.to_json(jaxgen.config()) == configs.to_json(ddpm.get_config("digits"))


@pytest.mark.usefixtures("elsewhere")
def test_a_config_of_the_user_takes_what_all_share_from_the_package():
    assert jaxgen.config("mine.py").seed == 7
    assert jaxgen.config("./mine.py:other").seed == 0
    assert list(config_files.config_variants("mine.py")) == ["mine.py:plain", "mine.py:other"]


def test_a_file_of_the_user_goes_before_one_of_the_package(elsewhere, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ddpm.py").write_text(OF_THE_USER)
    assert jaxgen.config("configs/ddpm.py").seed == 7
    assert jaxgen.config("ddpm:tiny").seed == 0


def test_the_modules_of_a_checkout_stay_imported():
    before = sys.modules["configs"]
    jaxgen.config("vae:tiny")
    assert sys.modules["configs"] is before


def test_settings_are_given_by_their_path():
    settings = {"train.num_steps": 50, "data.path": "there", "ema.warmup": False, "ema.sigma_rel": (0.1, 0.2)}
    config = jaxgen.config("ddpm:tiny", **settings, **{"optimizer.learning_rate": "2e-4", "seed": 3})
    assert (config.train.num_steps, config.data.path, config.ema.warmup) == (50, "there", False)
    assert (config.ema.sigma_rel, config.optimizer.learning_rate, config.seed) == ((0.1, 0.2), 2e-4, 3)


def test_a_changed_copy_leaves_the_config_alone_and_keeps_its_types():
    config = jaxgen.config("ddpm:tiny")
    changed = config_files.with_settings(config, {"data.image_size": 16})
    assert (config.data.image_size, changed.data.image_size) == (None, 16)
    changed.data.batch_size = 1
    assert config.data.batch_size != 1
    with pytest.raises(ValueError, match=r"data\.path is .* but must be of type str"):
        config_files.with_settings(changed, {"data.path": 3})


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("dpm", {}, r"no config 'configs/dpm\.py'; there are .*configs/ddpm\.py"),
        ("configs/dpm.py", {}, r"no config 'configs/dpm\.py'; there are .*configs/ddpm\.py"),
        ("nowhere/ddpm.py", {}, "none in its directory"),
        ("ddpm:tinny", {}, "no variant 'tinny'"),
        ("ddpm:tiny", {"train.num_step": 3}, r"train\.num_step is not a setting.* Did you mean num_steps"),
        ("ddpm:tiny", {"train.num_steps": 2.5}, r"train\.num_steps is '2\.5', but must be of type int"),
        ("ddpm:tiny", {"train.num_steps": True}, r"train\.num_steps is 'True', but must be of type int"),
        ("ddpm:tiny", {"seed": None}, "seed is None, but must be of type int"),
    ],
)
def test_what_does_not_exist_is_refused(name, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        jaxgen.config(name, **settings)


def test_the_default_directory_is_named_after_the_config():
    assert config_files.default_workdir("configs/ddpm.py:tiny") == Path("runs/ddpm-tiny")
    assert config_files.default_workdir("ddpm:tiny") == Path("runs/ddpm-tiny")
    assert config_files.default_workdir(config_files.DEFAULT) == Path("runs/ddpm")
