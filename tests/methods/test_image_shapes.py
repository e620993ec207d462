"""Images that are not square and have any number of channels, by shapes alone; tests/runs trains on some."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from specs import data_spec

from jaxgen.nn.conv_autoencoder import num_halvings
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse


def build(name: str, shape: tuple[int, int, int]) -> experiments.Experiment:
    config = importlib.import_module(f"configs.{name}").get_config("tiny")
    return experiments.build(parse(config), data_spec(shape, 10))


@pytest.mark.parametrize(
    ("name", "shape", "latent_shape"),
    [
        ("autoencoder_kl", (16, 24, 5), (8, 12, 4)),
        ("dit", (4, 16, 4), None),
        ("edm2", (16, 8, 2), None),
        ("gan", (3, 5, 2), (8,)),
        ("consistency", (8, 16, 13), None),
    ],
)
def test_networks_take_images_of_any_ratio_and_channels(name, shape, latent_shape):
    experiment = build(name, shape)
    model, state = experiment.model, experiments.target(experiment)
    variables = jax.eval_shape(model.eval_variables, state)
    cond = {"label": jnp.zeros(3, jnp.int32)} if model.spec.num_classes else None
    drawn = jax.eval_shape(lambda v: model.sample(jax.random.split(jax.random.key(0), 3), v, cond), variables)
    assert drawn.shape == (3, *shape)
    if latent_shape is not None:
        assert model.spec.latent_shape[:-1] == latent_shape[:-1]
    batch = experiments.batch_shapes(experiment, 8)
    updated = jax.eval_shape(lambda s, b: model.update(jax.random.key(0), s, b), state, batch)[0]
    assert jax.tree.map(jnp.shape, updated) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("stylegan2", (16, 8, 3), r"StyleGAN2 takes square images .* but these are 16x8: set data\.image_size"),
        ("dcgan", (10, 7, 3), r"Images of 10x7 pixels \(height x width\) .*: resize them, to 6x4 say"),
        ("vae", (7, 20, 3), r"Images of 7x20 pixels .*: resize them, to 4x12 say"),
        ("autoencoder_kl", (8, 7, 1), r"Images of 8x7 pixels do not fit 2 levels: both sides must be multiples of 2"),
        ("ddpm", (6, 9, 3), r"Images of 6x9 pixels cannot be halved 1 times: both sides must be multiples of 2"),
        ("sit", (7, 8, 3), r"Images of 7x8 pixels cannot be cut into patches of patch_size=2"),
        ("edm", (16, 1, 3), r"mirrors borders, which needs sides of 2 pixels, not 16x1"),
    ],
)
def test_what_a_network_does_not_take_is_refused_before_training(name, shape, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        experiments.target(build(name, shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(6, 4), (4, 12)])
def test_the_sizes_that_are_proposed_can_be_taken(height, width):
    assert num_halvings(height, width, base_side=2) == 1
