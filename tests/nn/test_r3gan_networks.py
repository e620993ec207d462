"""R3GAN's networks against the official ones: images, logits, activations, penalties, gradients, initialization."""

import json
import math

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.r3gan import FORMAT, official_discriminator_names, official_generator_name
from jaxgen.nn.adversarial import make_discriminator, make_generator
from jaxgen.nn.r3gan import Discriminator, Generator

TARGET = Target("gan.gan", None, {})
FILTERS = r".*Resampler\.Kernel"


def meta_of(name):
    with np.load(golden_files.DIRECTORY / f"{name}.npz") as file:
        return json.loads(str(file["meta"]))


def label_of(golden):
    return jnp.argmax(golden.inputs["label"], axis=1)


def shapes(params):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)


def shapes_of(network, *inputs):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, train=False))["params"]


@pytest.fixture(scope="module")
def generator():
    golden, meta = golden_files.load("r3gan_generator"), meta_of("r3gan_generator")["kw"]
    network = Generator(
        golden.outputs["image"].shape[1:],
        meta["NoiseDimension"],
        tuple(meta["WidthPerStage"]),
        tuple(meta["CardinalityPerStage"]),
        tuple(meta["BlocksPerStage"]),
        meta["ExpansionFactor"],
        meta["ConditionEmbeddingDimension"],
        num_classes=meta["ConditionDimension"],
    )
    z, label = jnp.asarray(golden.inputs["z"]), label_of(golden)
    params = state_dict.to_params(
        golden.state_dict, shapes_of(network, z, label), official_generator_name, ignore=FILTERS
    )
    return golden, network, {"params": params}, (z, label)


@pytest.fixture(scope="module")
def discriminator():
    golden, meta = golden_files.load("r3gan_discriminator"), meta_of("r3gan_discriminator")
    settings = meta["kw"]
    network = Discriminator(
        tuple(settings["WidthPerStage"][::-1]),
        tuple(settings["CardinalityPerStage"][::-1]),
        tuple(settings["BlocksPerStage"][::-1]),
        settings["ExpansionFactor"],
        settings["ConditionEmbeddingDimension"],
        num_classes=settings["ConditionDimension"],
    )
    real, label = jnp.asarray(golden.inputs["real"]), label_of(golden)
    official = official_discriminator_names(golden.state_dict)
    params = state_dict.to_params(golden.state_dict, shapes_of(network, real, label), official, ignore=FILTERS)
    return golden, network, params, meta["gamma"]


def assert_close(ours, official, *, tolerance=golden_files.TOLERANCE):
    ours, official = np.asarray(ours), np.asarray(official)
    assert ours.shape == official.shape
    scale = official.std() if official.size > 1 else abs(official)
    assert np.abs(ours - official).max() <= tolerance * scale


def layers_of(captured, network, *, mirrored):
    """Our activations by the official names `stageK_layerJ`; the discriminator's stages count from the finest."""
    stages, found = len(network.widths), {}
    for i, blocks in enumerate(network.blocks):
        stage, first = (stages - 1 - i, 0) if mirrored else (i, 1)
        for j in range(blocks):
            found[f"stage{stage}_layer{j + first}"] = captured[f"stage{i}_block{j}"]["__call__"][0]
        transition = f"stage{i}_transition" if i else ("stage0_out" if mirrored else "stage0_basis")
        found[f"stage{stage}_layer{blocks if mirrored else 0}"] = captured[transition]["__call__"][0]
    return found


def test_parity_with_the_official_generator(generator):
    golden, network, variables, inputs = generator
    apply = jax.jit(lambda *inputs: network.apply(variables, *inputs, train=True, capture_intermediates=True))
    image, state = apply(*inputs)
    golden_files.assert_parity(image, golden.outputs["image"])
    layers = layers_of(state["intermediates"], network, mirrored=False)
    assert set(layers) == {name for name in golden.outputs if name.startswith("stage")}
    for name, activations in layers.items():
        golden_files.assert_parity(activations[:1], golden.outputs[name])
    embedding = state["intermediates"]["label"]["__call__"][0]
    golden_files.assert_parity(embedding, golden.outputs["embedding"])


def test_parity_with_the_official_discriminator_losses_and_gradients(discriminator):
    golden, network, params, gamma = discriminator
    out, label = golden.outputs, label_of(golden)
    real, fake = (jnp.asarray(golden.inputs[name]) for name in ("real", "fake"))

    images, labels, count = jnp.concatenate([real, fake]), jnp.concatenate([label, label]), len(real)

    @jax.jit
    def compute(params):
        """One pass over real and generated images, for logits, their slopes by the images, and the losses."""

        def logits(images, params):
            given = {"train": True, "capture_intermediates": True}
            critique, state = network.apply({"params": params}, images, labels, **given)
            return jnp.sum(critique.logits), (critique.logits, state["intermediates"])

        def d_loss(params):
            slopes, (found, captured) = jax.grad(logits, has_aux=True)(images, params)
            squares = jnp.sum(slopes**2, axis=(1, 2, 3))
            margin, r1, r2 = found[:count] - found[count:], squares[:count], squares[count:]
            each = jax.nn.softplus(-margin)
            return jnp.mean(each + gamma / 2 * (r1 + r2)), (found, captured, slopes, (each, margin, r1, r2))

        (loss, found), gradients = jax.value_and_grad(d_loss, has_aux=True)(params)
        return loss, *found, gradients

    loss, found, captured, slopes, of_d, d_grads = compute(params)
    at_real, at_fake = found[:count], found[count:]
    margin = np.asarray(at_fake - at_real, np.float64)
    of_g = np.log1p(np.exp(-margin)), margin
    chain = -1.0 / (1.0 + np.exp(margin)) / count  # of the mean softplus, by the logits of generated images
    g_grad = chain[:, None, None, None] * slopes[count:]
    golden_files.assert_parity(at_real, out["logits_real"])
    golden_files.assert_parity(at_fake, out["logits_fake"])
    layers = layers_of(captured, network, mirrored=True)
    assert set(layers) == {name for name in out if name.startswith("stage")}
    for name, activations in layers.items():
        golden_files.assert_parity(activations[:1], out[name])
    names = ("d_loss_adversarial", "d_relativistic_logits", "r1_penalty", "r2_penalty")
    names += ("g_loss_adversarial", "g_relativistic_logits")
    for name, ours in zip(names, (*of_d, *of_g), strict=True):
        golden_files.assert_parity(ours, out[name])
    np.testing.assert_allclose(loss, out["d_loss_mean"], rtol=1e-4)
    assert_close(g_grad, out["g_grad_fake"], tolerance=1e-3)
    compare_gradients(d_grads, golden)


def compare_gradients(ours, golden):
    """The official gradients, where they are stored, and the norms of all of them."""
    official = official_discriminator_names(golden.state_dict)
    norms, whole = {}, {}
    for name, gradient in trees.named_leaves(ours).items():
        source = official(name)
        entry = source if isinstance(source, str) else source.name
        norms[entry], whole[entry] = np.linalg.norm(gradient), name
    expected = {name.removeprefix("d_grad_norm/") for name in golden.outputs if name.startswith("d_grad_norm/")}
    assert set(norms) == expected
    for entry, norm in norms.items():
        np.testing.assert_allclose(norm, golden.outputs[f"d_grad_norm/{entry}"], rtol=1e-3)
    # golden_files reads rank 4 as images: these are kernels.
    stored = {name: a for name, a in golden.outputs.items() if name.startswith("d_grad/")}
    weights = {name.removeprefix("d_grad/"): np.moveaxis(a, -1, 1) if a.ndim == 4 else a for name, a in stored.items()}
    leaves = trees.named_leaves(ours)
    for entry, gradient in weights.items():
        name = whole[entry]
        converted = state_dict.to_params({entry: gradient}, shapes({name: leaves[name]}), official)
        assert_close(leaves[name], converted[name], tolerance=1e-3)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_the_initialization_is_the_official_one(player, request):
    """Standard deviations over many draws, within five of their own."""
    golden, network = request.getfixturevalue(player)[:2]
    inputs = (jnp.asarray(golden.inputs["z" if player == "generator" else "real"]), label_of(golden))
    draws = jax.jit(jax.vmap(lambda key: network.init(key, *inputs, train=False)["params"]))(
        jax.random.split(jax.random.key(0), 24)
    )
    official = official_generator_name if player == "generator" else official_discriminator_names(golden.state_dict)
    expected = {name.removeprefix("init_std/"): float(a) for name, a in golden.outputs.items() if "init_std/" in name}
    seen = set()
    for name, array in trees.named_leaves(draws).items():
        source = official(name)
        entry = source if isinstance(source, str) else source.name
        seen.add(entry)
        np.testing.assert_allclose(np.std(array), expected[entry], rtol=5 / math.sqrt(2 * array.size), atol=1e-12)
        assert abs(np.mean(array)) <= 5 * expected[entry] / math.sqrt(array.size)
    assert seen == set(expected)


WIDE, HUGE = 768, 1536
PRESETS = {
    # Shape, classes, widths, groups, and the official counts of both networks.
    "cifar10": ((32, 32, 3), 10, (WIDE,) * 4, (96,) * 4, 20_781_952, 21_280_512),
    "ffhq64": ((64, 64, 3), 0, (WIDE,) * 4 + (384,), (96,) * 4 + (48,), 22_429_824, 22_381_440),
    "ffhq256": (
        (256, 256, 3), 0, (WIDE,) * 4 + (384, 192, 96), (96,) * 4 + (48, 24, 12), 23_057_952, 23_009_568,
    ),
    "imagenet32": ((32, 32, 3), 1000, (HUGE,) * 4, (96,) * 4, 82_914_304, 86_548_992),
    "imagenet64": ((64, 64, 3), 1000, (HUGE,) * 5, (96,) * 5, 103_570_432, 107_205_120),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_official_parameter_counts(name):
    shape, classes, widths, groups, *counts = PRESETS[name]
    fields = {"widths": widths, "groups": groups, "blocks": (2,) * len(widths)}
    given = {"num_classes": classes, "axis_name": None, "dtype": jnp.float32}
    generator = make_generator({"name": "r3gan.Generator", **fields}, image_shape=shape, latent_dim=64, **given)
    critic = make_discriminator({"name": "r3gan.Discriminator", **fields}, **given)
    label = jnp.zeros(1, jnp.int32) if classes else None
    found = [shapes_of(generator, jnp.zeros((1, 64)), label), shapes_of(critic, jnp.zeros((1, *shape)), label)]
    assert [trees.count(params) for params in found] == counts


BASES = [((8, 8), 2, (4, 4)), ((8, 8), 3, (2, 2)), ((28, 28), 3, (7, 7)), ((12, 8), 2, (6, 4))]


@pytest.mark.parametrize(("sides", "stages", "base"), BASES)
def test_the_base_is_what_is_left_of_any_sides(sides, stages, base):
    fields = {"widths": (4,) * stages, "groups": (2,) * stages, "blocks": (1,) * stages}
    generator, critic = Generator((*sides, 1), 3, **fields), Discriminator(**fields)
    params = shapes_of(generator, jnp.zeros((2, 3)))
    assert params["stage0_basis"]["basis"].shape == (*base, 4)
    assert shapes_of(critic, jnp.zeros((2, *sides, 1)))["stage0_pool"]["basis"].shape == (*base, 4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"widths": (4, 4, 4)}, r"has 3 widths, 2 groups and 2 blocks, but must have one of each for every stage"),
        ({"widths": (), "groups": (), "blocks": ()}, r"has 0 widths, .* and a stage at least\."),
        ({"groups": (2, 3)}, r"^A stage has 4 channels and 3 groups, but the channels within its blocks, 8 by an e"),
        ({"groups": (2, 0)}, r"^A stage has 4 channels and 0 groups"),
        ({"widths": (4,) * 5, "groups": (2,) * 5, "blocks": (1,) * 5}, r"^Images of 8x8 .* between 5 stages: .* of 16"),
    ],
)  # fmt: skip
def test_stages_that_do_not_fit_are_refused(changes, sentence):
    fields = {"widths": (4, 4), "groups": (2, 2), "blocks": (1, 1), **changes}
    for network, inputs in ((Generator((8, 8, 1), 3, **fields), (2, 3)), (Discriminator(**fields), (2, 8, 8, 1))):
        with pytest.raises(ValueError, match=sentence):
            shapes_of(network, jnp.zeros(inputs))


def test_labels_are_needed_exactly_by_conditional_networks():
    fields = {"widths": (4,), "groups": (2,), "blocks": (1,)}
    x, label = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32)
    for network, inputs in (
        (lambda k: Generator((4, 4, 1), 3, num_classes=k, **fields), jnp.zeros((2, 3))),
        (lambda k: Discriminator(num_classes=k, **fields), x),
    ):
        with pytest.raises(ValueError, match=r"conditional on 5 classes needs a label"):
            shapes_of(network(5), inputs)
        with pytest.raises(ValueError, match=r"unconditional network was given labels"):
            shapes_of(network(0), inputs, label)
    given = {"num_classes": 0, "axis_name": None, "dtype": jnp.float32}
    with pytest.raises(ValueError, match=r"discriminator\.label_features is 7, but has no effect without classes"):
        make_discriminator({"name": "r3gan.Discriminator", "label_features": 7}, **given)
    with pytest.raises(ValueError, match=r"generator\.label_features is 7, but has no effect without classes"):
        make_generator({"name": "r3gan.Generator", "label_features": 7}, image_shape=(8, 8, 1), latent_dim=3, **given)


def test_computation_has_its_type_but_for_the_coarsest_stages():
    """The residual stream of each stage, by the number of stages that are float32 whatever the type is."""
    fields = {"widths": (4, 4, 4), "groups": (2, 2, 2), "blocks": (1, 1, 1), "dtype": jnp.bfloat16}
    for float32_stages in (0, 2):
        generator = Generator((16, 16, 1), 3, float32_stages=float32_stages, **fields)
        critic = Discriminator(float32_stages=float32_stages, **fields)
        for network, inputs in ((generator, jnp.zeros((2, 3))), (critic, jnp.zeros((2, 16, 16, 1)))):
            out, state = jax.eval_shape(
                lambda network=network, inputs=inputs: network.init_with_output(
                    jax.random.key(0), inputs, train=False, capture_intermediates=True
                )
            )
            types = [state["intermediates"][f"stage{i}_block0"]["__call__"][0].dtype for i in range(3)]
            assert types == [jnp.float32] * float32_stages + [jnp.bfloat16] * (3 - float32_stages)
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((out, state["params"])))


def shuffled_run(generator, discriminator):
    """The official state dict of a run, with the wrapper's names, and another average."""
    weights = {f"G.Model.{name}": a for name, a in generator[0].state_dict.items()}
    weights |= {f"G_ema.Model.{name}": a + np.float16(1) for name, a in generator[0].state_dict.items()}
    return weights | {f"D.Model.{name}": a for name, a in discriminator[0].state_dict.items()}


def test_a_whole_run_fills_both_players_and_the_average(generator, discriminator):
    weights = shuffled_run(generator, discriminator)
    parts = {part.place: part for part in FORMAT.parts(TARGET, weights)}
    ours = {"params/generator": generator[2]["params"], "params/discriminator": discriminator[2]}
    ours["ema/params/generator"] = jax.tree.map(lambda x: x.astype(jnp.float16) + 1, generator[2]["params"])
    assert set(parts) == set(ours)
    for place, params in ours.items():
        loaded = state_dict.to_params(weights, shapes(params), parts[place].official, ignore=parts[place].ignored)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
    alone = {f"Model.{name}": a for name, a in generator[0].state_dict.items()}
    for given in (alone, generator[0].state_dict):
        (part,) = FORMAT.parts(TARGET, given)
        assert state_dict.misfits(given, shapes(generator[2]["params"]), part.official, ignore=part.ignored) == []
    del weights["D.Model.ExtractionLayer.Layer.weight"]
    part = parts["params/discriminator"]
    (problem,) = state_dict.misfits(weights, shapes(discriminator[2]), part.official, ignore=part.ignored)
    assert problem.startswith("D.Model.ExtractionLayer.Layer.weight is missing")
    with pytest.raises(ValueError, match=r"weights are of the method gan\.gan, but config\.method=gan\.stylegan2"):
        FORMAT.parts(TARGET._replace(method="gan.stylegan2"), weights)
