"""The number of levels of the data reaches every likelihood, and every batch; shapes alone are computed."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from specs import data_spec

from jaxgen.core import latents
from jaxgen.core.contract import GenerativeModel, ModelSpec
from jaxgen.data import Facts
from jaxgen.diffusion.likelihood import ode, variational
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.variational import likelihoods

SHAPE = (8, 4, 2)
BOUND = {"diffusion.likelihood": "bound", "diffusion.learned_variance": False}
CASES = {
    "vae": ("vae", {}, likelihoods, "discretized_gaussian_log_likelihood", "log_prob"),
    "ode": ("edm", {"diffusion.likelihood": "ode"}, ode, "log_prob", "log_prob"),
    "bound": ("iddpm", {"diffusion.likelihood": "bound"}, variational, "bound", "log_prob"),
    "hybrid loss": ("iddpm", {}, variational, "hybrid_term", "update"),
}


def build(name: str, changes: dict, levels: int) -> experiments.Experiment:
    config = importlib.import_module(f"configs.{name}").get_config("tiny")
    config.update_from_flattened_dict(changes)
    return experiments.build(parse(config), data_spec(SHAPE, 10, levels=levels))


@pytest.mark.parametrize("levels", [256, 65_536])
@pytest.mark.parametrize("case", CASES)
def test_likelihoods_are_those_of_the_levels_of_the_data(case, levels, monkeypatch):
    config, changes, module, function, caller = CASES[case]
    seen, original = [], getattr(module, function)

    def record(*args, levels, **kwargs):
        seen.append(levels)
        return original(*args, levels=levels, **kwargs)

    monkeypatch.setattr(module, function, record)
    experiment = build(config, changes, levels)
    model, state = experiment.model, experiments.target(experiment)
    batch = experiments.batch_shapes(experiment, 8)
    assert batch["image"].dtype == {256: jnp.uint8, 65_536: jnp.uint16}[levels]
    seen.clear()
    if caller == "update":
        jax.eval_shape(lambda state, batch: model.update(jax.random.key(0), state, batch), state, batch)
    else:
        cond = {"label": jnp.zeros(3, jnp.int32)} if model.spec.num_classes else None
        score = lambda variables: model.log_prob(jax.random.split(jax.random.key(0), 3), variables, images, cond)  # noqa: E731
        images = jnp.zeros((3, *SHAPE))
        jax.eval_shape(score, jax.eval_shape(model.eval_variables, state))
    assert set(seen) == {levels}


def test_dequantization_and_its_volume_are_those_of_the_levels():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.zeros((2, 16, 16, 1))
    few, many = ode.dequantize(keys, x, 3), ode.dequantize(keys, x, 65_536)
    assert 0.49 < jnp.abs(few).max() <= 0.5
    assert jnp.allclose(many * 65_535, few * 2.0, rtol=1e-5)


def test_the_spec_of_data_has_its_levels_and_that_of_latents_those_of_their_images():
    assert experiments.spec_of(Facts(SHAPE)).levels == 256
    assert experiments.spec_of(Facts(SHAPE, image_dtype="uint16")).levels == 65_536
    assert experiments.spec_of(Facts(SHAPE, pixel_levels=17)).levels == 17
    assert experiments.spec_of(Facts(SHAPE, image_dtype="float32")).levels == 256
    autoencoder = GenerativeModel(ModelSpec((8, 4, 1), latent_shape=(4, 2, 3), levels=65_536), *[lambda *_: None] * 4)
    autoencoder = autoencoder._replace(encode=lambda *_: None, decode=lambda *_: None)
    model = GenerativeModel(ModelSpec((4, 2, 3)), *[lambda *_: None] * 4)
    spec = latents.with_latents(model, autoencoder).spec
    assert (spec.levels, spec.image_shape, spec.latent_shape) == (65_536, (8, 4, 1), (4, 2, 3))
