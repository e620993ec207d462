"""BigGAN's networks: sizes of images, latents and classes, initialization, bottleneck blocks, settings refused."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.interpreters import partial_eval

from jaxgen.core import trees
from jaxgen.nn import biggan_deep
from jaxgen.nn.adversarial import make_discriminator, make_generator
from jaxgen.nn.batch_norm import UnbiasedBatchNorm
from jaxgen.nn.biggan_layers import INITIALIZERS, SpectralStyle
from jaxgen.nn.non_local_block import NonLocalBlock
from jaxgen.nn.spectral_norm import PowerIteration, SpectralConv, SpectralDense, SpectralEmbed

KEY = jax.random.key(0)
GIVEN = {"num_classes": 3, "axis_name": None, "dtype": jnp.float32}
Z, LABEL = jax.random.normal(KEY, (4, 6)), jnp.arange(4) % 3
X = jax.random.normal(KEY, (4, 8, 8, 1))

TABLES = {"shared_dim": 0, "hierarchical": False}


def shapes_of(network, *inputs):
    return jax.eval_shape(partial(network.init, train=True), KEY, *inputs)


def random_variables(network, *inputs):
    """Variables of the network's shapes, all of them random, without a program to compile."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.float32(0.3 * rng.normal(size=leaf.shape)), shapes_of(network, *inputs))


def generator_of(module="biggan", latent_dim=6, image_shape=(8, 8, 1), num_classes=3, **section):
    section = {"name": f"{module}.Generator", "channels": (8, 8), "shared_dim": 5 if num_classes else 0, **section}
    if module == "biggan_deep" and not num_classes:
        del section["shared_dim"]
    given = {**GIVEN, "num_classes": num_classes}
    return make_generator(section, image_shape=image_shape, latent_dim=latent_dim, **given)


def discriminator_of(module="biggan", num_classes=3, **section):
    section = {"name": f"{module}.Discriminator", "channels": (8, 8), "num_downsampling": 1, **section}
    return make_discriminator(section, **{**GIVEN, "num_classes": num_classes})


@pytest.mark.parametrize("module", ["biggan", "biggan_deep"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (16, 24, 2)])
def test_every_halvable_size_works(module, shape):
    generator = generator_of(module, image_shape=shape, channels=(16, 8, 8), attention=(shape[0],))
    images, _ = jax.eval_shape(partial(generator.init_with_output, train=True), KEY, Z, LABEL)
    chex.assert_shape(images, (4, *shape))
    discriminator = discriminator_of(module, channels=(8, 8, 12), num_downsampling=2, attention=(shape[0] // 4,))
    x = jnp.zeros((4, *shape))
    critique, variables = jax.eval_shape(partial(discriminator.init_with_output, train=True), KEY, x, LABEL)
    chex.assert_shape(critique.features, (4, 12))
    chex.assert_shape(critique.logits, (4,))
    attention = {name for name in variables["params"] if name.startswith("attention")}
    assert attention == ({"attention_1", "attention_2"} if module == "biggan" else {"attention_1"})


def test_conditions_are_what_the_settings_say():
    """The length of what batch normalization sees: the embedding, a part of the latent, both, or a table of classes."""
    lengths = {
        (True, 5, 3): 5 + 2,
        (True, 0, 0): 2,
        (False, 5, 3): 5,
    }
    for (hierarchical, shared_dim, num_classes), length in lengths.items():
        network = generator_of(
            num_classes=num_classes, hierarchical=hierarchical, shared_dim=shared_dim, channels=(8, 8, 8)
        )
        params = shapes_of(network, Z, LABEL if num_classes else None)["params"]
        assert params["block_1"]["norm_1"]["gain"]["kernel"].shape == (length, 8)
        assert params["stem"]["kernel"].shape == (2 if hierarchical else 6, 4 * 8)
    tables = shapes_of(generator_of(**TABLES), Z, LABEL)["params"]
    assert tables["block_0"]["norm_0"]["bias"]["embedding"].shape == (3, 8)
    plain = shapes_of(generator_of(num_classes=0, hierarchical=False, shared_dim=0), Z)["params"]
    assert set(plain["block_0"]["norm_0"]) == {"scale", "bias"}
    deep = shapes_of(generator_of("biggan_deep"), Z, LABEL)["params"]
    assert deep["stem"]["kernel"].shape[0] == deep["block_0"]["norm_3"]["gain"]["kernel"].shape[0] == 5 + 6
    unconditional = shapes_of(generator_of("biggan_deep", num_classes=0), Z)["params"]
    assert unconditional["block_0"]["norm_0"]["gain"]["kernel"].shape == (6, 8)


def test_settings_that_do_not_fit_are_refused():
    cases = [
        (generator_of(latent_dim=7), r"cut into 2 equal parts, .* gan.latent_dim is 7: set it to 6, say"),
        (generator_of(latent_dim=1), r"set it to 2, say"),
        (generator_of(shared_dim=0), r"hierarchical=True needs a generator.shared_dim of at least 1"),
        (generator_of("biggan_deep", shared_dim=0), r"shared_dim is 0, but must be at least 1"),
        (generator_of(attention=(8, 16)), r"generator.attention has 16, but .* after its blocks have the heights 8\."),
        (generator_of(channels=()), r"generator.channels is \(\), but must have at least one"),
        (generator_of(image_shape=(9, 8, 1)), r"9x8 pixels .* halved evenly 1 times: .* fewer generator.channels"),
        (generator_of(power_iterations=0), r"power_iterations is 0, but must be at least 1"),
        (generator_of("biggan_deep", depth=0), r"generator.depth is 0, but must be at least 1"),
        (generator_of("biggan_deep", channels=(8, 12)), r"\(8, 12\), but must be multiples of 4 that do not grow"),
        (generator_of("biggan_deep", channels=(8, 6)), r"\(8, 6\), but must be multiples of 4"),
    ]
    for network, message in cases:
        with pytest.raises(ValueError, match=message):
            shapes_of(network, jnp.zeros((4, network.latent_dim)), LABEL)
    of_images = [
        (discriminator_of(attention=(2,)), r"discriminator.attention has 2, but .* have the heights 4\."),
        (discriminator_of(num_downsampling=3), r"num_downsampling is 3, but must lie in \[0, 2\]"),
        (discriminator_of("biggan_deep", num_downsampling=2), r"num_downsampling is 2, but must lie in \[0, 1\]"),
        (discriminator_of("biggan_deep", channels=(8, 4)), r"\(8, 4\), .* multiples of 4 that do not shrink"),
        (discriminator_of("biggan_deep", depth=0), r"discriminator.depth is 0, but must be at least 1"),
    ]
    for network, message in of_images:
        with pytest.raises(ValueError, match=message):
            shapes_of(network, X, LABEL)
    for module in ("biggan", "biggan_deep"):
        with pytest.raises(ValueError, match="shared_dim is 5, but has no effect without classes"):
            make_generator(
                {"name": f"{module}.Generator", "shared_dim": 5},
                image_shape=(8, 8, 1),
                latent_dim=6,
                **{**GIVEN, "num_classes": 0},
            )
        with pytest.raises(ValueError, match="conditioning is 'cosine', but has no effect without classes"):
            discriminator_of(module, num_classes=0, conditioning="cosine")
        with pytest.raises(ValueError, match="needs a label for each image"):
            shapes_of(generator_of(module), Z)


@pytest.mark.parametrize("module", ["biggan", "biggan_deep"])
def test_classes_are_used_as_the_head_is_told_to(module):
    for conditioning, layers in {"classifier": {"classes"}, "cosine": {"proxies", "embedding"}}.items():
        network = discriminator_of(module, conditioning=conditioning)
        assert set(shapes_of(network, X, LABEL)["params"]["head"]) == {"out"} | layers
    cosine = discriminator_of(module, conditioning="cosine", embedding_dim=7)
    assert shapes_of(cosine, X, LABEL)["params"]["head"]["embedding"]["kernel"].shape == (8, 7)


def test_a_thin_discriminator_has_the_channels_of_its_input_between_convolutions():
    for wide, hidden in ((True, 6), (False, 4)):
        params = shapes_of(discriminator_of(channels=(4, 6), wide=wide), X, LABEL)["params"]
        assert params["block_1"]["conv_0"]["kernel"].shape == (3, 3, 4, hidden)


@pytest.mark.parametrize("module", ["biggan", "biggan_deep"])
def test_all_kernels_and_embeddings_start_as_the_settings_say(module, monkeypatch):
    initialized = []

    def record(key, shape, dtype=jnp.float32):
        initialized.append(shape)
        return jnp.zeros(shape, dtype)

    monkeypatch.setitem(INITIALIZERS, "normal", record)
    settings = {"attention": (4, 8), "kernel_init": "normal", "channels": (8, 8, 8)}
    generator = generator_of(module, **settings)
    discriminator = discriminator_of(module, **settings | {"attention": (4,)}, conditioning="cosine")
    for network, inputs in ((generator, Z), (discriminator, X)):
        initialized.clear()
        leaves = trees.named_leaves(shapes_of(network, inputs, LABEL)["params"])
        expected = [leaf.shape for name, leaf in leaves.items() if name.endswith(("kernel", "embedding"))]
        assert sorted(initialized) == sorted(expected)


def test_initializations_are_those_of_their_names():
    orthogonal, normal, glorot = (INITIALIZERS[name](KEY, (60, 40)) for name in ("orthogonal", "normal", "glorot"))
    np.testing.assert_allclose(orthogonal.T @ orthogonal, np.eye(40), atol=1e-5)
    np.testing.assert_allclose(normal.std(), 0.02, rtol=0.1)
    assert 0.9 * np.sqrt(6.0 / 100.0) < np.abs(glorot).max() <= np.sqrt(6.0 / 100.0)


def normalized(params, spectral):
    """The parameters of a block with kernels divided by the estimates of their singular values."""
    if "kernel" not in params:
        return {name: normalized(own, spectral.get(name, {})) for name, own in params.items()}
    kernel = np.asarray(params["kernel"], np.float64)
    matrix = kernel.reshape(-1, kernel.shape[-1]).T
    v = np.asarray(spectral["u"]) @ matrix
    v /= np.linalg.norm(v)
    return {**params, "kernel": jnp.asarray(kernel / np.linalg.norm(matrix @ v), jnp.float32)}


def conv(layer, x):
    kernel = layer["kernel"]
    if kernel.ndim == 2:
        return x @ kernel + layer["bias"][None, None, None]
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + layer["bias"][None, None, None]


STYLE = SpectralStyle.of("glorot", 1, jnp.float32)
MAP = jax.random.normal(KEY, (2, 4, 6, 16))


@pytest.mark.parametrize("doubles", [False, True])
def test_a_bottleneck_of_the_generator_drops_channels_of_its_shortcut(doubles):
    """ReLU before each convolution, resizing before the first of 3x3; norms that add a number tell their places."""

    class Shift(nn.Module):
        """Adds the condition, and one more for each norm after the first."""

        @nn.compact
        def __call__(self, y, condition, *, train):
            return y + condition + float(self.name[-1])

    block = biggan_deep.BottleneckUpBlock(12, doubles, Shift, STYLE)
    variables = random_variables(block, MAP, jnp.array(-0.5))
    layers = normalized(variables["params"], variables["spectral"])

    def up(x):
        return x.repeat(2, axis=1).repeat(2, axis=2) if doubles else x

    @jax.jit
    def both(variables, layers):
        y = conv(layers["conv_0"], jax.nn.relu(MAP - 0.5))
        y = conv(layers["conv_1"], up(jax.nn.relu(y + 0.5)))
        y = conv(layers["conv_2"], jax.nn.relu(y + 1.5))
        y = conv(layers["conv_3"], jax.nn.relu(y + 2.5))
        return block.apply(variables, MAP, jnp.array(-0.5), train=False), up(MAP[..., :12]) + y

    assert layers["conv_1"]["kernel"].shape == (3, 3, 4, 4)
    ours, expected = both(variables, layers)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(("halves", "features"), [(False, 16), (True, 24)])
def test_a_bottleneck_of_the_discriminator_adds_channels_to_its_shortcut(halves, features):
    block = biggan_deep.BottleneckDownBlock(features, halves, STYLE)
    variables = random_variables(block, MAP)
    layers = normalized(variables["params"], variables["spectral"])

    def down(x):
        return x.reshape(2, 2, 2, 3, 2, -1).mean(axis=(2, 4)) if halves else x

    @jax.jit
    def both(variables, layers):
        y = conv(layers["conv_0"], jax.nn.relu(MAP))
        y = conv(layers["conv_2"], jax.nn.relu(conv(layers["conv_1"], jax.nn.relu(y))))
        y = conv(layers["conv_3"], down(jax.nn.relu(y)))
        skip = down(MAP)
        if features > 16:
            skip = jnp.concatenate([skip, conv(layers["shortcut"], skip)], axis=-1)
        return block.apply(variables, MAP, train=False), skip + y

    assert layers["conv_1"]["kernel"].shape == (3, 3, features // 4, features // 4)
    ours, expected = both(variables, layers)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("module", ["biggan", "biggan_deep"])
def test_features_are_sums_over_pixels_of_what_is_positive(module):
    network = discriminator_of(module)
    variables = random_variables(network, X, LABEL)
    apply = jax.jit(partial(network.apply, train=False, capture_intermediates=True))
    critique, state = apply(variables, X, LABEL)
    last = state["intermediates"]["block_1" if module == "biggan" else "block_0_1"]["__call__"][0]
    assert last.min() < 0.0
    np.testing.assert_allclose(critique.features, np.maximum(last, 0.0).sum((1, 2)), rtol=1e-4)


def found_in(network, inputs):
    found = []

    def record(method, arguments, options, context):
        found.append(context.module)
        return method(*arguments, **options)

    with nn.intercept_methods(record):
        shapes_of(network, inputs, LABEL)
    return found


def test_stages_change_channels_and_size_in_one_of_their_blocks():
    """The last one of the generator, the first one of the discriminator."""
    generator = shapes_of(generator_of("biggan_deep", channels=(16, 8), depth=3), Z, LABEL)["params"]
    outputs = [generator[f"block_{i}"]["conv_3"]["kernel"].shape[1] for i in range(3)]
    assert outputs == [16, 16, 8]
    discriminator = shapes_of(discriminator_of("biggan_deep", channels=(8, 16), depth=3), X, LABEL)["params"]
    outputs = [discriminator[f"block_0_{i}"]["conv_3"]["kernel"].shape[1] for i in range(3)]
    assert outputs == [16, 16, 16]
    blocks = [
        module
        for stages in (0, 1)
        for module in found_in(discriminator_of("biggan_deep", num_downsampling=stages), X)
        if isinstance(module, biggan_deep.BottleneckDownBlock)
    ]
    assert [block.halves for block in blocks] == [False, False, True, False]
    assert [("shortcut" in discriminator[f"block_0_{i}"]) for i in range(3)] == [True, False, False]


@pytest.mark.parametrize("module", ["biggan", "biggan_deep"])
def test_every_layer_has_the_settings_of_its_network(module):
    """Momentum and mapped axis of batch statistics, iterations of spectral norms, and the type of the computation."""
    settings = {"power_iterations": 3, "channels": (8, 8, 8)}
    generator = generator_of(module, attention=(8,), momentum=0.7, **settings)
    generator = generator.clone(axis_name="devices", dtype=jnp.bfloat16)
    discriminator = discriminator_of(module, attention=(4,), **settings).clone(dtype=jnp.bfloat16)
    for network, inputs, layers in ((generator, Z, 2 if module == "biggan" else 4), (discriminator, X, 0)):
        found = []

        def record(method, arguments, options, context, found=found):
            found.append(context.module)
            return method(*arguments, **options)

        with nn.intercept_methods(record):
            outputs, _ = jax.eval_shape(partial(network.init_with_output, train=True), KEY, inputs, LABEL)
        assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
        norms = [module for module in found if isinstance(module, UnbiasedBatchNorm)]
        assert len(norms) >= layers
        assert all((norm.momentum, norm.axis_name) == (0.7, "devices") for norm in norms)
        spectral = [module for module in found if isinstance(module, SpectralConv | SpectralDense | SpectralEmbed)]
        assert all(layer.power_iteration == PowerIteration(stores_v=False, iterations=3) for layer in spectral)
        convolutions = [module for module in found if isinstance(module, SpectralConv | NonLocalBlock)]
        assert len(convolutions) > 4
        assert all(layer.dtype == jnp.bfloat16 for layer in convolutions)


@pytest.mark.parametrize("module", ["biggan", "biggan_deep"])
def test_every_parameter_has_a_part_in_the_output(module):
    """That of attention, too, whose gain is zero at the start."""
    generator, discriminator = generator_of(module, attention=(8,)), discriminator_of(module, attention=(4,))
    for network, inputs in ((generator, Z), (discriminator, X)):
        variables = shapes_of(network, inputs, LABEL)

        def output(params, network=network, inputs=inputs, rest=variables):
            return network.apply({**rest, "params": params}, inputs, LABEL, train=False)

        rest = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), {**variables, "params": {}})
        traced = jax.make_jaxpr(partial(output, rest=rest))(variables["params"])
        _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
        assert [path for path, one in zip(paths, used, strict=True) if not one] == []
