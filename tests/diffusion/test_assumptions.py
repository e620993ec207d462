"""Numbers that several settings assume: whether they agree is found out, and a disagreement is refused by name."""

import importlib
import inspect
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.config import bind_text
from jaxgen.diffusion.process import assumptions
from jaxgen.diffusion.process.noise_process import make_process

PIECES = {
    "path": "normalized(sigma_data=0.75)",
    "parameterization": "edm(sigma_data=0.75)",
    "schedule": "karras",
    "noise_label": "log_sigma",
    "times": "log_normal",
    "weighting": "edm(sigma_data=0.75)",
}
CONFIGS = Path(__file__).parent.parent.parent / "configs"


def test_the_number_is_that_of_the_settings_which_assume_one():
    assert assumptions.agreed("sigma_data", {"a": None, "b": 0.25, "c": None, "d": 0.25}) == 0.25
    assert assumptions.agreed("sigma_data", {"a": None}) is None
    assert assumptions.agreed("sigma_data", {}) is None


@pytest.mark.parametrize(("assumed", "sentence"), [
    ({"a": 0.5, "b": None, "c": 0.25}, r"^a assumes sigma_data=0\.5, but c sigma_data=0\.25: give both the same value"),
    ({"a": None, "b": 0.0}, r"^b assumes sigma_data=0\.0, but it must be positive"),
    ({"a": 1.0, "b": -1.0}, r"^b assumes sigma_data=-1\.0, but it must be positive"),
    ({"a": float("nan")}, "must be positive"),
])  # fmt: skip
def test_numbers_that_disagree_or_are_not_positive_are_refused(assumed, sentence):
    with pytest.raises(ValueError, match=sentence):
        assumptions.agreed("sigma_data", assumed)


@pytest.mark.parametrize(
    ("text", "value"), [("edm", 0.5), ("edm()", 0.5), ("edm(sigma_data=0.75)", 0.75), ("eps", None)]
)
def test_what_a_piece_assumes_is_its_argument_or_its_default(text, value):
    piece = bind_text("jaxgen.diffusion.process.parameterizations", text, where="parameterization", later=())
    assert assumptions.assumed_by(piece, "sigma_data") == value


def test_a_process_states_the_deviation_that_its_pieces_assume():
    assert make_process(**PIECES).sigma_data == 0.75
    for names in (("path",), ("parameterization",), ("weighting",)):
        others = {"path": "linear", "parameterization": "velocity", "weighting": "uniform"}
        assert make_process(**{**PIECES, **others, **{name: PIECES[name] for name in names}}).sigma_data == 0.75
        assert make_process(**{**PIECES, **others}).sigma_data is None


@pytest.mark.parametrize("name", ["path", "parameterization", "weighting"])
def test_two_pieces_that_assume_different_deviations_are_refused_by_name(name):
    kind = PIECES[name].split("(")[0]
    with pytest.raises(ValueError, match=rf"diffusion\.{name}={kind}\(?.*sigma_data=0\.5"):
        make_process(**{**PIECES, name: kind})


@pytest.mark.parametrize("module", ["paths", "parameterizations", "weightings", "schedules", "noise_labels", "times"])
def test_every_piece_names_the_datas_deviation_alike(module):
    """A piece that called it otherwise would not be compared with the others."""
    functions = inspect.getmembers(importlib.import_module(f"jaxgen.diffusion.process.{module}"), inspect.isfunction)
    named = {parameter for _, function in functions for parameter in inspect.signature(function).parameters}
    assert not {name for name in named if "data" in name} - {"sigma_data"}


def diffusion_sections():
    for path in sorted(CONFIGS.glob("*.py")):
        if path.stem in ("__init__", "common", "networks"):
            continue
        module = importlib.import_module(f"configs.{path.stem}")
        try:
            module.get_config("")
        except ValueError as error:
            variants = error.variants
        for variant in variants:
            config = module.get_config(variant)
            if "diffusion" in config:
                yield f"{path.stem}:{variant}", config.diffusion


def test_the_pieces_of_every_config_agree_and_preconditioning_gives_unit_variances():
    stated = {}
    for name, section in diffusion_sections():
        process = make_process(**{piece: section[piece] for piece in (*PIECES, "shift") if piece in section})
        stated[name] = process.sigma_data
        if process.sigma_data is None:
            continue
        sigma, variance = np.array([0.01, 0.7, 30.0]), process.sigma_data**2
        m = process.mixture(jnp.float32(sigma))
        np.testing.assert_allclose(m.alpha**2 * (variance + sigma**2), 1.0, rtol=1e-5)  # Karras et al. 2022, eq. 114
        np.testing.assert_allclose(m.a**2 * variance + m.b**2, 1.0, rtol=1e-4)  # and 115
    assert {stated[f"edm2:{size}"] for size in ("xs", "s", "m", "l", "xl", "xxl")} == {0.5}
    assert stated["edm2:digits"] == stated["edm:digits"] == 0.75
    assert {stated[name] for name in ("ddpm:digits", "sit:xl2", "latent:imagenet256", "dit:xl2")} == {None}
