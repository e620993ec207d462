"""DCGAN's networks: official sizes, odd image sizes, batch statistics, conditioning."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import trees
from jaxgen.nn.dcgan import Discriminator, Generator
from jaxgen.nn.minibatch import MinibatchDiscrimination
from jaxgen.nn.spectral_norm import SpectralDense

KEY = jax.random.key(0)


def variables_of(module, *inputs):
    return jax.eval_shape(lambda: module.init(KEY, *inputs, train=False))


def test_parameter_counts_are_the_official_ones():
    generator = variables_of(Generator((64, 64, 3)), jnp.zeros((1, 100)))
    discriminator = variables_of(Discriminator(), jnp.zeros((1, 64, 64, 3)))
    assert trees.count(generator["params"]) == 3_576_704
    assert trees.count(discriminator["params"]) == 2_765_568


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 64, 3), (96, 96, 3)])
def test_every_halvable_size_works(shape):
    z = jnp.zeros((2, 5))
    images, _ = jax.eval_shape(lambda: Generator(shape, 5, width=2).init_with_output(KEY, z, train=False))
    chex.assert_shape(images, (2, *shape))
    judged, _ = jax.eval_shape(
        lambda: Discriminator(width=2).init_with_output(KEY, jnp.zeros((2, *shape)), train=False)
    )
    chex.assert_shape(judged.logits, (2,))


def test_a_smaller_base_makes_a_deeper_network():
    shallow, deep = (
        variables_of(Generator((8, 8, 1), 5, width=2, base_side=side), jnp.zeros((1, 5))) for side in (4, 2)
    )
    assert set(deep["params"]) - set(shallow["params"]) == {"conv_1", "norm_1"}


@pytest.mark.parametrize("shape", [(7, 7, 1), (30, 30, 1), (31, 31, 3), (4, 4, 1)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]} pixels"):
        variables_of(Generator(shape, 5, width=2), jnp.zeros((1, 5)))


def test_initialization_follows_the_paper():
    params = Generator((16, 16, 3), width=16).init(KEY, jnp.zeros((1, 100)), train=False)["params"]
    assert abs(float(jnp.std(params["base"]["kernel"])) - 0.02) < 1e-3
    assert abs(float(jnp.mean(params["norm_0"]["scale"])) - 1.0) < 0.02
    assert 0.01 < float(jnp.std(params["norm_0"]["scale"])) < 0.03


def test_training_normalizes_by_the_batch_and_moves_the_running_statistics():
    module = Generator((8, 8, 1), 5, width=2, momentum=0.9)
    z = 3.0 * jax.random.normal(KEY, (16, 5))
    variables = module.init(KEY, z, train=False)
    images, updated = module.apply(variables, z, train=True, mutable="batch_stats")
    base = (z @ variables["params"]["base"]["kernel"]).reshape(-1, 2)
    chex.assert_trees_all_close(updated["batch_stats"]["norm_0"]["mean"], 0.1 * jnp.mean(base, axis=0), atol=1e-6)
    assert not jnp.allclose(images, module.apply(variables, z, train=False), atol=1e-3)
    assert float(jnp.max(jnp.abs(images))) <= 1.0


def test_evaluation_treats_each_latent_alone():
    module = Generator((8, 8, 1), 5, width=2)
    z = jax.random.normal(KEY, (4, 5))
    variables = module.init(KEY, z, train=False)
    alone = module.apply(variables, z[:1], train=False)
    chex.assert_trees_all_close(module.apply(variables, z, train=False)[:1], alone, atol=1e-6)


def test_batch_normalization_of_the_discriminator_can_be_left_out():
    variables = variables_of(Discriminator(width=2, batch_norm=False), jnp.zeros((1, 16, 16, 1)))
    assert set(variables) == {"params"}


def test_half_precision_keeps_parameters_and_outputs_in_float32():
    module = Generator((8, 8, 1), 5, width=2, dtype=jnp.bfloat16)
    images, variables = jax.eval_shape(lambda: module.init_with_output(KEY, jnp.zeros((2, 5)), train=False))
    chex.assert_type([images, *jax.tree.leaves(variables)], jnp.float32)


def test_labels_change_images_and_logits():
    z, x, labels = jnp.ones((2, 5)), jnp.ones((2, 8, 8, 1)), jnp.arange(2)
    generator, discriminator = Generator((8, 8, 1), 5, width=2, num_classes=3), Discriminator(width=2, num_classes=3)
    images, _ = generator.init_with_output(KEY, z, labels, train=False)
    judged, _ = discriminator.init_with_output(KEY, x, labels, train=False)
    assert not jnp.allclose(images[0], images[1])
    assert not jnp.allclose(judged.logits[0], judged.logits[1])


def test_labels_must_fit_the_network():
    with pytest.raises(ValueError, match="needs a label"):
        variables_of(Generator((8, 8, 1), 5, num_classes=3), jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match="unconditional"):
        variables_of(Discriminator(), jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,), jnp.int32))


def test_the_features_are_the_activations_that_the_logit_is_linear_in():
    module = Discriminator(width=2)
    x = jax.random.normal(KEY, (3, 8, 8, 1))
    variables = module.init(KEY, x, train=False)
    judged = module.apply(variables, x, train=False)
    chex.assert_shape(judged.features, (3, 4 * 4 * 2))
    kernel = variables["params"]["head"]["out"]["kernel"][:, 0]
    chex.assert_trees_all_close(judged.logits, judged.features @ kernel, atol=1e-6)
    assert (judged.classes, judged.embedding) == (None, None)


def test_a_discriminator_that_compares_images_sees_the_others_of_the_batch():
    plain, comparing = (Discriminator(width=4, base_side=2, batch_norm=False, minibatch_kernels=k) for k in (0, 3))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    for network, alone in ((plain, True), (comparing, False)):
        variables = network.init(jax.random.key(1), images, train=False)
        assert ("minibatch" in variables["params"]) != alone
        logits, first = (network.apply(variables, x, train=True).logits for x in (images, images[:2]))
        assert np.allclose(logits[:2], first, atol=1e-6) == alone


def filled(shapes):
    """Parameters and statistics that are all random; variances are positive."""
    draw = np.random.default_rng(0).normal

    def fill(path, leaf):
        values = draw(size=leaf.shape)
        return jnp.float32(np.abs(values) + 0.1 if path[-1].key == "var" else 0.5 * values)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def normalized(x, variables, name, train):
    scale, bias = (variables["params"][name][leaf].reshape(1, 1, 1, -1) for leaf in ("scale", "bias"))
    stats = variables["batch_stats"][name]
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
    return (x - mean.reshape(1, 1, 1, -1)) / jnp.sqrt(var.reshape(1, 1, 1, -1) + 1e-5) * scale + bias


LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("train", [False, True])
def test_networks_are_the_layers_of_the_paper(train):
    """Convolution, normalization and activation, in this order; leaky by 0.2 in the discriminator, tanh at the end."""
    z, images, label = jax.random.normal(KEY, (4, 5)), jax.random.normal(KEY, (4, 8, 8, 2)), jnp.array([2, 0, 1, 2])
    generator = Generator((8, 8, 2), 5, width=3, base_side=2, num_classes=3)
    critic = Discriminator(width=3, base_side=2, num_classes=3, conditioning="cosine", embedding_dim=6)
    of_generator, of_critic = filled(variables_of(generator, z, label)), filled(variables_of(critic, images, label))

    def made(variables):
        own = variables["params"]
        h = jnp.concatenate([z, own["label"]["embedding"][label]], axis=1) @ own["base"]["kernel"]
        h = jax.nn.relu(normalized(h.reshape(4, 2, 2, 6), variables, "norm_0", train))
        h = jax.lax.conv_transpose(h, own["conv_1"]["kernel"], (2, 2), "SAME", dimension_numbers=LAYOUT)
        h = jax.nn.relu(normalized(h, variables, "norm_1", train))
        return jnp.tanh(jax.lax.conv_transpose(h, own["out"]["kernel"], (2, 2), "SAME", dimension_numbers=LAYOUT))

    def features(variables):
        own, h = variables["params"], images
        for i in range(2):
            kernel = own[f"conv_{i}"]["kernel"]
            h = jax.lax.conv_general_dilated(h, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT)
            h = normalized(h, variables, f"norm_{i}", train) if i else h
            h = jnp.where(h > 0, h, 0.2 * h)
        return h.reshape(4, -1)

    @jax.jit
    def everything(of_generator, of_critic):
        options = {"train": train, "mutable": ["batch_stats"]}
        ours = (
            generator.apply(of_generator, z, label, **options)[0],
            critic.apply(of_critic, images, label, **options)[0],
        )
        return ours, (made(of_generator), features(of_critic))

    (ours, critique), (expected, seen) = everything(of_generator, of_critic)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert 0.7 < np.abs(expected).max() < 1.0
    np.testing.assert_allclose(critique.features, seen, rtol=1e-3, atol=1e-4)
    assert critique.embedding.shape == (4, 6)


def test_layers_have_the_settings_of_their_network():
    """The mapped axis of batches, the type of the computation, the momentum, the small weights at the start."""
    found, settings = [], {"momentum": 0.7, "axis_name": "devices", "dtype": jnp.bfloat16, "width": 4, "base_side": 2}

    def record(method, arguments, options, context):
        found.append(context.module)
        return method(*arguments, **options)

    networks = [(Generator((8, 8, 1), 5, **settings), jnp.zeros((2, 5)))]
    networks.append((Discriminator(minibatch_kernels=3, **settings), jnp.zeros((2, 8, 8, 1))))
    with nn.intercept_methods(record):
        for network, inputs in networks:
            jax.eval_shape(lambda n=network, x=inputs: n.init(KEY, x, train=True))
    norms = {id(module): module for module in found if isinstance(module, nn.BatchNorm)}.values()
    assert [(norm.momentum, norm.axis_name) for norm in norms] == [(0.7, "devices")] * 3
    (compare,) = (module for module in found if isinstance(module, MinibatchDiscrimination))
    assert (compare.kernels, compare.axis_name, compare.dtype) == (3, "devices", jnp.bfloat16)
    layers = [
        module for module in found if isinstance(module, nn.Conv | nn.ConvTranspose | SpectralDense | nn.BatchNorm)
    ]
    assert len({id(layer) for layer in layers}) == 8
    assert {layer.dtype for layer in layers} == {jnp.bfloat16}
    kernels = [layer.kernel_init(KEY, (100, 100)) for layer in layers if not isinstance(layer, nn.BatchNorm)]
    np.testing.assert_allclose([jnp.std(kernel) for kernel in kernels], 0.02, rtol=0.05)
