"""StyleGAN2 with given weights, against official styles, images and logits; and which weights go where."""

import functools
from typing import NamedTuple

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.stylegan2 import FORMAT
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator

TARGET = Target("gan.style_based", None, {})
SETTINGS = {"channel_base": 512, "channel_max": 32, "num_mapping_layers": 2, "num_classes": 10}


class Loaded(NamedTuple):
    """A generator with its official weights and inputs."""

    golden: golden_files.Golden
    network: Generator
    variables: dict
    z: jax.Array
    label: jax.Array

    def apply(self, *arguments, **options):
        return self.network.apply(self.variables, *arguments, **options)


def places_of(variables):
    """The variables of a generator by where a run keeps them."""
    return {"params/generator": variables["params"], "model_state/generator": {"buffers": variables["buffers"]}}


@pytest.fixture(scope="module")
def generator() -> Loaded:
    golden = golden_files.load("stylegan2_generator")
    z, label = jnp.asarray(golden.inputs["z"]), jnp.argmax(golden.inputs["c"], axis=1)
    network = Generator((32, 32, 3), latent_dim=32, w_dim=32, **SETTINGS)
    target = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), z, label)
    params, buffers = (
        state_dict.to_params(golden.state_dict, own, part.official, ignore=part.ignored)
        for own, part in zip(places_of(target).values(), FORMAT.parts(TARGET, golden.state_dict), strict=True)
    )
    return Loaded(golden, network, {"params": params, **buffers}, z, label)


def test_parity_with_the_official_styles(generator):
    ws = generator.apply(generator.z, generator.label, method="styles")
    golden_files.assert_parity(ws, generator.golden.outputs["w"])
    truncated = generator.apply(ws, psi=0.5, method="truncate")
    golden_files.assert_parity(truncated, generator.golden.outputs["w_truncated"])
    some = generator.apply(ws, psi=0.5, cutoff=3, method="truncate")
    np.testing.assert_array_equal(some, jnp.concatenate([truncated[:, :3], ws[:, 3:]], axis=1))


@pytest.mark.parametrize(("mode", "output"), [("const", "image_const_noise"), ("none", "image_no_noise")])
def test_parity_with_the_official_images(generator, mode, output):
    @jax.jit
    def draw(z, label):
        return generator.apply(generator.apply(z, label, method="styles"), noise_mode=mode, method="synthesize")

    images = draw(generator.z, generator.label)
    golden_files.assert_parity(images, generator.golden.outputs[output])


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def part_of_a_run(place, weights, target):
    """The parameters at a place of a whole run, from its weights."""
    part = next(part for part in FORMAT.parts(TARGET, weights) if part.place == place)
    return state_dict.to_params(weights, shapes(target), part.official, ignore=part.ignored)


def test_parity_with_the_official_discriminator():
    golden = golden_files.load("stylegan2_discriminator")
    x, label = jnp.asarray(golden.inputs["x"]), jnp.argmax(golden.inputs["c"], axis=1)
    network = Discriminator(group_size=2, **SETTINGS)
    target = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), x, label)["params"]
    weights = {f"D.{name}": array for name, array in golden.state_dict.items()}
    weights |= {"G.mapping.w_avg": np.zeros(32), "G_ema.mapping.w_avg": np.zeros(32)}
    params = part_of_a_run("params/discriminator", weights, target)
    judged = jax.jit(functools.partial(network.apply, train=False))({"params": params}, x, label)
    golden_files.assert_parity(judged.logits, golden.outputs["logits"][:, 0])


def test_a_whole_run_has_an_average_and_its_buffers(generator):
    given = generator.golden.state_dict
    weights = {f"{network}.{name}": array for network in ("G", "G_ema") for name, array in given.items()}
    weights |= {"G_ema.mapping.w_avg": np.ones(32), "G_ema.synthesis.b4.conv1.bias": np.full(32, 7.0)}
    assert {part.place for part in FORMAT.parts(TARGET, weights)} == {
        "params/generator",
        "ema/params/generator",
        "model_state/generator",
        "params/discriminator",
    }
    params, buffers = places_of(generator.variables).values()
    jax.tree.map(np.testing.assert_array_equal, part_of_a_run("params/generator", weights, params), params)
    np.testing.assert_array_equal(
        part_of_a_run("model_state/generator", weights, buffers)["buffers"]["w_avg"], np.ones(32)
    )
    average = part_of_a_run("ema/params/generator", weights, params)
    np.testing.assert_array_equal(average["synthesis"]["b4"]["conv1"]["bias"], np.full(32, 7.0))


@pytest.mark.parametrize("name", ["mapping.w_avg", "synthesis.b8.conv0.noise_const", "mapping.embed.bias"])
def test_a_missing_entry_is_named_by_one_part(generator, name):
    incomplete = {key: array for key, array in generator.golden.state_dict.items() if key != name}
    places = places_of(generator.variables)
    problems = [
        problem
        for part in FORMAT.parts(TARGET, incomplete)
        for problem in state_dict.misfits(incomplete, shapes(places[part.place]), part.official, ignore=part.ignored)
    ]
    assert len(problems) == 1
    assert problems[0].startswith(f"{name} is missing")
