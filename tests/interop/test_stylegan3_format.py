"""StyleGAN3's format: parity with the official generators T and R, filters included, and its errors."""

import json
from typing import NamedTuple

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.stylegan3 import FORMAT, official_generator_name
from jaxgen.nn.stylegan3_generator import Generator

TARGET = Target("gan.style_based", None, {})
PLACES = ("params/generator", "model_state/generator")


class Official(NamedTuple):
    """A golden file, and our network of its settings."""

    golden: golden_files.Golden
    network: Generator
    target: dict
    z: jax.Array
    label: jax.Array


@pytest.fixture(scope="module", params=["stylegan3_t", "stylegan3_r"])
def official(request) -> Official:
    golden = golden_files.load(request.param)
    with np.load(golden_files.DIRECTORY / f"{request.param}.npz") as file:
        settings = json.loads(str(file["meta"]))["kw"]
    z = jnp.asarray(golden.inputs["z"])
    label = jnp.argmax(golden.inputs["c"], axis=1) if settings["c_dim"] else None
    network = Generator(
        (settings["res"], settings["res"], golden.outputs["image"].shape[-1]),
        latent_dim=settings["z_dim"],
        w_dim=settings["w_dim"],
        num_mapping_layers=settings["num_mapping_layers"],
        channel_base=settings["channel_base"],
        channel_max=settings["channel_max"],
        num_layers=settings["num_layers"],
        num_critical=settings["num_critical"],
        margin=settings["margin_size"],
        kernel_size=settings["conv_kernel"],
        radial_filters=settings["use_radial_filters"],
        num_classes=settings["c_dim"],
    )
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), z, label, train=False))
    return Official(golden, network, target, z, label)


def halves(variables: dict) -> tuple[dict, dict]:
    """Parameters, and what a run keeps of the generator beside them."""
    return variables["params"], {"buffers": variables["buffers"]}


def loaded(official: Official, weights: dict, prefix: str = "") -> dict:
    """The network's variables, from the parts of the format."""
    parts = {part.place.removeprefix(prefix): part for part in FORMAT.parts(TARGET, weights)}
    params, state = (
        state_dict.to_params(weights, target, parts[place].official, ignore=parts[place].ignored)
        for place, target in zip(PLACES, halves(official.target), strict=True)
    )
    return {"params": params, **state}


def test_parity_with_the_official_generator(official):
    variables = loaded(official, official.golden.state_dict)
    ws, images = jax.jit(
        lambda v: (
            official.network.apply(v, official.z, official.label, method="styles"),
            official.network.apply(v, official.z, official.label, train=False),
        )
    )(variables)
    golden_files.assert_parity(ws, official.golden.outputs["w"])
    golden_files.assert_parity(images, official.golden.outputs["image"])


def test_filters_are_designed_as_the_official_ones(official):
    """Compared as new networks have them, though weights of the format bring their own."""

    def filters(key):
        buffers = official.network.init(key, official.z, official.label, train=False)["buffers"]
        return {name: leaf for name, leaf in trees.named_leaves(buffers).items() if name.endswith("_filter")}

    ours = jax.jit(filters)(jax.random.key(0))
    assert len(ours) == 2 * official.network.num_layers
    for name, taps in ours.items():
        np.testing.assert_allclose(
            taps, official.golden.state_dict[official_generator_name(name)], rtol=1e-6, atol=1e-8
        )


def misfits(official: Official, weights: dict, network: Generator) -> list[str]:
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), official.z, official.label, train=False))
    return [
        problem
        for own, part in zip(halves(target), FORMAT.parts(TARGET, weights), strict=True)
        for problem in state_dict.misfits(weights, own, part.official, ignore=part.ignored)
    ]


@pytest.mark.parametrize(
    "name",
    ["mapping.w_avg", "synthesis.input.freqs", "synthesis.input.affine.bias", "synthesis.L0_24_32.magnitude_ema"],
)
def test_a_missing_entry_is_named_once(official, name):
    entry = next(entry for entry in official.golden.state_dict if entry.split(".")[-2:] == name.split(".")[-2:])
    incomplete = {key: array for key, array in official.golden.state_dict.items() if key != entry}
    (problem,) = misfits(official, incomplete, official.network)
    assert problem.startswith(f"{entry} is missing")


def test_filters_of_another_shape_are_refused(official):
    """Nothing else tells radial filters from separable ones."""
    other = official.network.clone(radial_filters=not official.network.radial_filters)
    problems = misfits(official, official.golden.state_dict, other)
    assert problems
    assert all("down_filter has shape" in problem for problem in problems)


def test_a_whole_run_has_an_average_and_its_buffers(official):
    given = official.golden.state_dict
    weights = {f"{network}.{name}": array for network in ("G", "G_ema") for name, array in given.items()}
    for name, shift in (("mapping.w_avg", 2.0), ("synthesis.input.weight", 3.0)):
        weights[f"G_ema.{name}"] = shift + given[name].astype(np.float32)
    weights["D.b4.out.weight"] = np.ones(1)
    places = {part.place for part in FORMAT.parts(TARGET, weights)}
    assert places == {*PLACES, "ema/params/generator", "params/discriminator"}
    own, alone = loaded(official, weights), loaded(official, given)
    jax.tree.map(np.testing.assert_array_equal, own["params"], alone["params"])
    np.testing.assert_array_equal(own["buffers"]["w_avg"], 2.0 + alone["buffers"]["w_avg"])
    average = loaded(official, weights, "ema/")["params"]
    expected = 3.0 + alone["params"]["synthesis"]["input"]["kernel"]
    np.testing.assert_array_equal(average["synthesis"]["input"]["kernel"], expected)


def test_weights_of_another_method_are_refused(official):
    with pytest.raises(ValueError, match=r"gan\.style_based, but config\.method=gan\.gan"):
        FORMAT.parts(Target("gan.gan", None, {}), official.golden.state_dict)
