"""SNGAN's networks: official sizes and initialization, other images, conditioning, settings that are refused."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import trees
from jaxgen.nn.adversarial import make_discriminator, make_generator
from jaxgen.nn.batch_norm import ClassBatchNorm, UnbiasedBatchNorm
from jaxgen.nn.sngan import Discriminator, Generator
from jaxgen.nn.spectral_norm import SpectralConv, SpectralDense

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 8, 12, 1))
Z, LABEL = jax.random.normal(KEY, (4, 5)), jnp.arange(4) % 3
GIVEN = {"num_classes": 0, "axis_name": None, "dtype": jnp.float32}


def shapes_of(network, inputs, label=None):
    return jax.eval_shape(lambda: network.init(KEY, inputs, label, train=False))["params"]


def init(network, *inputs):
    return jax.jit(partial(network.init, train=False))(KEY, *inputs)


@pytest.fixture(scope="module")
def discriminator_variables():
    return init(Discriminator((4, 4), 1), X)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (16, 24, 2)])
def test_every_halvable_size_works(shape):
    generator = make_generator(
        {"name": "sngan.Generator", "channels": (6, 4, 3)}, image_shape=shape, latent_dim=5, **GIVEN
    )
    images, variables = jax.eval_shape(lambda: generator.init_with_output(KEY, jnp.zeros((2, 5)), train=True))
    chex.assert_shape(images, (2, *shape))
    assert variables["params"]["stem"]["kernel"].shape == (5, shape[0] * shape[1] // 16 * 6)
    section = {"name": "sngan.Discriminator", "channels": (3, 4, 6), "num_downsampling": 2}
    discriminator = make_discriminator(section, **GIVEN)
    critique, _ = jax.eval_shape(lambda: discriminator.init_with_output(KEY, jnp.zeros((2, *shape)), train=True))
    chex.assert_shape(critique.logits, (2,))
    chex.assert_shape(critique.features, (2, 6))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"8x30 pixels cannot be halved evenly 2 times: .* fewer generator.channels"):
        shapes_of(Generator((8, 30, 1), 5, (2, 2, 2)), jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"8x30 pixels .* multiples of 4, .* or lower discriminator.num_downsampling"):
        shapes_of(Discriminator((2, 2), 2), jnp.zeros((1, 8, 30, 1)))
    for number in (-1, 3):
        with pytest.raises(ValueError, match=rf"num_downsampling is {number}, but must lie in \[0, 2\]"):
            shapes_of(Discriminator((2, 2), number), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="needs a label for each image"):
        shapes_of(Generator((8, 8, 1), 5, (2, 2), num_classes=3), jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"channels is \(\), but must have at least one"):
        shapes_of(Generator((8, 8, 1), 5, ()), jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"channels is \(\), but must have at least one"):
        shapes_of(Discriminator((), 0), jnp.zeros((1, 8, 8, 1)))


def test_classes_need_to_be_there_for_conditioning():
    section = {"name": "sngan.Discriminator"}
    for setting in ({"conditioning": "classifier"}, {"embedding_dim": 4}):
        with pytest.raises(ValueError, match=f"discriminator.{next(iter(setting))} is .* has no effect without"):
            make_discriminator(section | setting, **GIVEN)
    make_discriminator(section | {"conditioning": "none"}, **GIVEN)
    with pytest.raises(ValueError, match=r"embedding_dim is 4, .* without conditioning='cosine'"):
        make_discriminator(section | {"embedding_dim": 4}, **GIVEN | {"num_classes": 3})
    make_discriminator(section | {"conditioning": "cosine", "embedding_dim": 4}, **GIVEN | {"num_classes": 3})


def test_initialization_follows_the_official_code():
    """Glorot's, with a gain of sqrt(2) in 3x3 convolutions of blocks; biases as PyTorch's, 1 / sqrt(fan-in) wide."""
    generator, discriminator = Generator((8, 8, 3), 40, (30, 20)), Discriminator((24, 30), 1, num_classes=50)
    x, label = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, jnp.int32)
    params, others = jax.jit(
        lambda: (
            generator.init(KEY, jnp.zeros((1, 40)), train=False)["params"],
            discriminator.init(KEY, x, label, train=False)["params"],
        )
    )()
    bounds = {
        ("stem", "kernel"): np.sqrt(6.0 / (40 + 16 * 30)),
        ("stem", "bias"): np.sqrt(1.0 / 40),
        ("block_0", "conv_0", "kernel"): np.sqrt(2.0 * 6.0 / (9 * (30 + 20))),
        ("block_0", "conv_0", "bias"): np.sqrt(1.0 / (9 * 30)),
        ("block_0", "conv_1", "kernel"): np.sqrt(2.0 * 6.0 / (9 * (20 + 20))),
        ("block_0", "shortcut", "kernel"): np.sqrt(6.0 / (30 + 20)),
        ("out", "kernel"): np.sqrt(6.0 / (9 * (20 + 3))),
    }
    params |= {name: others[name] for name in ("block_1", "head")}
    bounds |= {
        ("block_1", "conv_0", "kernel"): np.sqrt(2.0 * 6.0 / (9 * (24 + 24))),
        ("block_1", "conv_1", "kernel"): np.sqrt(2.0 * 6.0 / (9 * (24 + 30))),
        ("block_1", "shortcut", "kernel"): np.sqrt(6.0 / (24 + 30)),
        ("head", "label", "embedding"): np.sqrt(6.0 / (50 + 30)),
        ("head", "out", "kernel"): np.sqrt(6.0 / (30 + 1)),
    }
    leaves = trees.named_leaves(params)
    for path, bound in bounds.items():
        values = np.asarray(leaves["/".join(path)]).ravel()
        assert 0.7 * bound < np.abs(values).max() <= bound, path
        if values.size > 500:
            np.testing.assert_allclose(values.std(), bound / np.sqrt(3.0), rtol=0.1, err_msg="/".join(path))


@pytest.mark.parametrize("conditioning", ["projection", "classifier", "cosine", "none"])
def test_a_discriminator_uses_classes_as_it_is_told_to(conditioning):
    network = Discriminator((4, 4), 1, num_classes=3, conditioning=conditioning, embedding_dim=5)
    x, label = jnp.zeros((3, 8, 8, 1)), jnp.arange(3)
    critique, variables = jax.eval_shape(partial(network.init_with_output, train=False), KEY, x, label)
    layers = {"projection": {"label"}, "classifier": {"classes"}, "cosine": {"proxies", "embedding"}, "none": set()}
    assert set(variables["params"]["head"]) == {"out"} | layers[conditioning]
    assert (critique.classes is None) == (conditioning in ("projection", "none"))
    assert (None if critique.embedding is None else critique.embedding.shape) == {"cosine": (3, 5)}.get(conditioning)


def test_features_are_summed_or_averaged_over_pixels(discriminator_variables):
    @jax.jit
    def features(variables):
        return [
            Discriminator((4, 4), 1, pooling=pooling).apply(variables, X, train=False).features
            for pooling in ("sum", "mean")
        ]

    sums, means = features(discriminator_variables)
    np.testing.assert_allclose(sums, 24.0 * means, rtol=1e-5)
    assert (sums > 0).any()


def test_spectral_normalization_can_be_left_out():
    x = jnp.zeros((1, 8, 8, 1))
    plain, normalized = (
        jax.eval_shape(lambda n=network: n.init(KEY, x, train=False))
        for network in (Discriminator((4, 4), 1, spectral_norm=False), Discriminator((4, 4), 1))
    )
    assert set(plain) == {"params"}
    assert {path.rpartition("/")[0] for path in trees.named_leaves(normalized["spectral"])} == {
        path.rpartition("/")[0] for path in trees.named_leaves(normalized["params"])
    }


def test_images_depend_on_their_own_class_and_latent():
    network = Generator((8, 8, 1), 5, (4, 4), num_classes=3)
    variables = init(network, Z, LABEL)
    variables["params"]["block_0"]["norm_0"]["embedding"] = jax.random.normal(KEY, (3, 8))
    apply = jax.jit(partial(network.apply, train=False))
    images, changed = apply(variables, Z, LABEL), apply(variables, Z, LABEL.at[1].set(0))
    np.testing.assert_allclose(images[::2], changed[::2], atol=1e-6)
    assert jnp.abs(images[1] - changed[1]).max() > 1e-3
    assert images.dtype == jnp.float32
    assert jnp.abs(images).max() <= 1.0


def test_training_takes_statistics_over_a_mapped_axis():
    settings = {"image_shape": (8, 8, 1), "latent_dim": 5, "channels": (4, 4), "momentum": 0.5}
    variables = init(Generator(**settings), Z)
    parameters = variables["params"]["stem"]

    @jax.jit
    def run(variables):
        spread = Generator(**settings, axis_name="devices")
        return Generator(**settings).apply(variables, Z, train=True, mutable=["batch_stats"]), jax.vmap(
            lambda z: spread.apply(variables, z, train=True, mutable=["batch_stats"]), axis_name="devices"
        )(Z.reshape(2, 2, 5))

    (images, updated), (parts, updates) = run(variables)
    np.testing.assert_allclose(parts.reshape(images.shape), images, atol=1e-5)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), updated["batch_stats"])
    chex.assert_trees_all_close(updates["batch_stats"], twice, atol=1e-5)
    mean = np.mean(np.asarray(Z @ parameters["kernel"]) + np.asarray(parameters["bias"]), axis=0)
    expected = 0.5 * mean.reshape(4, 16).mean(axis=1)
    np.testing.assert_allclose(updated["batch_stats"]["block_0"]["norm_0"]["mean"], expected, atol=1e-5)


def test_bfloat16_computes_nearly_the_same(discriminator_variables):
    network = Discriminator((4, 4), 1)

    @jax.jit
    def run(variables):
        return [n.apply(variables, X, train=False) for n in (network, network.clone(dtype=jnp.bfloat16))]

    for full, rough in zip(*map(jax.tree.leaves, run(discriminator_variables)), strict=True):
        assert rough.dtype == jnp.float32
        assert 0 < jnp.std(full - rough) < 0.05 * jnp.std(full)


def test_every_layer_has_the_settings_of_its_network():
    """The type of the computation; momentum and mapped axis of batch statistics."""
    found = []
    settings = {"momentum": 0.7, "axis_name": "devices", "dtype": jnp.bfloat16}

    def record(method, arguments, options, context):
        found.append(context.module)
        return method(*arguments, **options)

    networks = [(Generator((8, 8, 1), 5, (4, 4), num_classes=n, **settings), Z, n) for n in (0, 3)]
    networks.append((Discriminator((4, 4), 1, num_classes=3, dtype=jnp.bfloat16), X[:, :, :8], 3))
    with nn.intercept_methods(record):
        for network, inputs, num_classes in networks:
            label = LABEL[: len(inputs)] if num_classes else None
            outputs, _ = jax.eval_shape(partial(network.init_with_output, train=True), KEY, inputs, label)
            assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    layers = [module for module in found if isinstance(module, SpectralConv | SpectralDense | ClassBatchNorm)]
    assert len(layers) > 15
    assert all(layer.dtype == jnp.bfloat16 for layer in layers)
    norms = [module for module in found if isinstance(module, UnbiasedBatchNorm)]
    assert len({id(norm) for norm in norms}) == 6
    assert all((norm.momentum, norm.axis_name) == (0.7, "devices") for norm in norms)
