"""Every autoregressive network: exact probabilities, causality, incremental evaluation, and its own reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.autoregressive import raster
from jaxgen.autoregressive.distribution import Choice, make_distribution
from jaxgen.core import images as ranges
from jaxgen.core import keys
from jaxgen.nn.autoregressive import AutoregressiveNetwork, make_autoregressive_network
from jaxgen.nn.gated_pixelcnn import GatedPixelCNN
from jaxgen.nn.layers import Dropout
from jaxgen.nn.masked_conv import POINT, Geometry, MaskedConv, above, around, before
from jaxgen.nn.pixelcnn import PixelCNN
from jaxgen.nn.pixelcnnpp import GatedResidualBlock, WeightNormUpsample

CONVOLUTIONS = {"head_features": 8, "first_kernel_size": 5, "kernel_size": 3}
NETWORKS = {
    "pixelcnn": {"name": "pixelcnn.PixelCNN", "hidden": 8, "num_blocks": 1, **CONVOLUTIONS},
    "gated": {"name": "gated_pixelcnn.GatedPixelCNN", "features": 8, "num_layers": 1, **CONVOLUTIONS},
    "pixelcnnpp": {"name": "pixelcnnpp.PixelCNNpp", "filters": 4, "num_blocks": 1, "resolutions": 2},
    "wavenet": {"name": "wavenet.WaveNet", "features": 6, "skip_features": 6, "dilations": (3, 1, 8)},
    "transformer": {
        "name": "pixel_transformer.PixelTransformer", "hidden_size": 8, "depth": 2, "num_heads": 2, "multiple_of": 4,
    },
}  # fmt: skip
LEVELS, CLASSES = 3, 2


def build(kind, distribution, shape, **more):
    """A network with random weights, also where it starts at zero; returns it, its distribution and its variables."""
    pieces = make_distribution(distribution, channels=shape[-1], levels=LEVELS, choice=Choice())
    given = {"image_shape": shape, "levels": LEVELS, "num_classes": CLASSES, "dtype": jnp.float32}
    outputs = {"num_outputs": pieces.num_outputs, "channelwise": pieces.channelwise}
    network = make_autoregressive_network(NETWORKS[kind] | more, **given, **outputs)
    x, label = jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    draws = np.random.default_rng(3)
    values = [jnp.float32(0.5 * draws.standard_normal(leaf.shape)) for leaf in leaves]
    return network, pieces, jax.tree.unflatten(tree, values)


MIXTURE = "logistic_mixture(mixtures=2)"
EXHAUSTIVE = {
    **{name: (name, MIXTURE if name == "pixelcnnpp" else "categorical") for name in NETWORKS},
    **{f"{name} mixture": (name, MIXTURE) for name in ("gated", "transformer")},
}


@pytest.mark.parametrize("case", EXHAUSTIVE)
def test_probabilities_of_all_images_sum_to_one(case):
    """Of two rows, two columns and two channels."""
    name, distribution = EXHAUSTIVE[case]
    more = {"resolutions": 1} if name == "pixelcnnpp" else {}
    network, pieces, params = build(name, distribution, (2, 2, 2), **more)
    assert isinstance(network, AutoregressiveNetwork)
    every = np.stack(np.meshgrid(*[np.arange(LEVELS)] * 8), axis=-1).reshape(-1, 2, 2, 2)
    x, label = ranges.from_indices(jnp.asarray(every), LEVELS), jnp.ones(len(every), jnp.int32)
    log_probs = jax.jit(lambda p, x, label: pieces.log_prob(x, network.apply({"params": p}, x, label)))(
        params, x, label
    )
    assert np.exp(np.float64(log_probs)).sum() == pytest.approx(1.0, abs=2e-5)
    assert np.ptp(log_probs) > 0.5


SEQUENCES = {
    "pixelcnn": ("pixelcnn", "categorical", {}),
    "gated with vectors": ("gated", "categorical", {"level_features": 3}),
    "pixelcnnpp": ("pixelcnnpp", MIXTURE, {}),
    "wavenet with vectors": ("wavenet", MIXTURE, {"level_features": 3}),
    "transformer": ("transformer", "categorical", {}),
    "transformer of pixels": ("transformer", MIXTURE, {}),
}
SHAPE = (2, 4, 2)  # neither square nor gray


@pytest.mark.parametrize("case", SEQUENCES)
def test_an_element_depends_on_those_before_it_alone_and_cached_draws_are_those_of_the_whole(case):
    name, distribution, more = SEQUENCES[case]
    network, pieces, params = build(name, distribution, SHAPE, **more)
    elements = 2 if pieces.channelwise else 1
    count = 8 * elements
    sample_keys = keys.per_example(keys.root_key(5), jnp.arange(count + 1))
    label = jnp.arange(count + 1) % (CLASSES + 1)  # the null token, too
    draws = np.random.default_rng(1).integers(0, LEVELS, (2, *SHAPE))
    # Image t is the first up to element t, and the other one from it on.
    kept = np.arange(count) < np.arange(count + 1)[:, None]
    kept = np.repeat(kept, 16 // count, axis=1).reshape(-1, *SHAPE)
    spliced = ranges.from_indices(jnp.asarray(np.where(kept, draws[0], (draws[0] + 1) % LEVELS)), LEVELS)

    @jax.jit
    def compute(params):
        def apply(x, label):
            return network.apply({"params": params}, x, label).reshape(len(x), count, -1)

        outputs = raster.cached_outputs(network, params, label, count=count + 1)
        drawn = raster.draw_images(sample_keys, outputs, pieces.draw, image_shape=SHAPE, elements=elements)
        same = jnp.zeros(count + 1, jnp.int32)
        outputs = apply(jnp.concatenate([spliced, drawn]), jnp.concatenate([same, label]))
        redraw = jax.vmap(lambda t, out: pieces.draw(keys.fold_each(sample_keys, t), out), (0, 1), 1)
        redrawn = redraw(jnp.arange(count), outputs[count + 1 :])
        weights = jnp.cos(jnp.arange(pieces.num_outputs) + 1.0)[None, None]
        slope = jax.jacfwd(lambda x: jnp.sum(apply(x[None], same[:1]) * weights, axis=(0, 2)))(spliced[-1])
        return outputs[: count + 1], drawn, redrawn, slope

    outputs, drawn, redrawn, slope = map(np.asarray, compute(params))
    # Images t and the last one differ from element t on. On some processors equal rows of a batch differ by rounding.
    changed = np.abs(outputs[:-1] - outputs[-1]).max(axis=2) > 1e-5
    assert np.triu(np.ones((count, count)), 1)[changed].all()
    assert changed[np.arange(count - 1), np.arange(1, count)].mean() > 0.3  # by the element right before, often
    assert changed[:-2].any(axis=1).all()
    # Uncached drawing computes the outputs of what has been drawn so far, and then draws by the same keys.
    np.testing.assert_array_equal(redrawn.reshape(drawn.shape), drawn)
    assert len(np.unique(drawn)) == LEVELS
    slope = np.abs(slope).reshape(count, count, -1).max(axis=2)
    np.testing.assert_array_equal(slope * np.triu(np.ones((count, count))), 0.0)
    takes_numbers = not more and not (name == "transformer" and pieces.channelwise)
    assert (slope.max() > 0) == takes_numbers


def masked(params, x, geometry=POINT, center="B", groups=2, parts=1):
    """A masked convolution, whose masks the tests above have shown to be right."""
    features = params["kernel"].shape[-1]
    return MaskedConv(features, geometry, x.shape[1:3], center, groups, parts).apply({"params": params}, x)


def dense(params, x):
    return np.asarray(x) @ np.asarray(params["kernel"]) + np.asarray(params.get("bias", 0.0))


def headed(params, h):
    """The two hidden layers before the outputs, each after a ReLU."""
    for name in ("head_0", "head_1", "out"):
        h = masked(params[name], jax.nn.relu(h))
    return np.asarray(h).reshape(*h.shape[:3], 2, LEVELS)


def gated(x):
    values, gates = np.split(np.asarray(x), 2, axis=-1)
    return np.tanh(values) / (1.0 + np.exp(-gates))


LABEL = np.array([1, CLASSES, 0])
ONE_HOT = np.eye(CLASSES + 1)[LABEL][:, :CLASSES]  # the null token has no part of its own
INDICES = np.random.default_rng(4).integers(0, LEVELS, (3, *SHAPE))
X = ranges.from_indices(jnp.asarray(INDICES), LEVELS)


def pixelcnn_by_hand(params):
    """Residual blocks of 1x1, masked and 1x1 convolutions, each after a ReLU; levels of each channel have vectors."""
    vectors = np.asarray(params["levels_in"]["table"]["embedding"]).reshape(2, LEVELS, 3)
    x = vectors[np.arange(2), INDICES].reshape(3, 2, 4, 6)
    h = masked(params["first"], jnp.asarray(x), around(5), "A")
    r = masked(params["middle_0"], jax.nn.relu(masked(params["reduce_0"], jax.nn.relu(h))), around(3))
    r = r + jnp.asarray(dense(params["class_shift_0"], ONE_HOT), jnp.float32)[:, None, None]
    return headed(params, h + masked(params["expand_0"], jax.nn.relu(r)))


def gated_by_hand(params):
    """The vertical stack adds to the horizontal one before its class; the head gets the sum of all skips."""
    v = h = X
    skips = []
    for i, (size, center) in enumerate(((5, "A"), (3, "B"))):
        v = masked(params[f"vertical_conv_{i}"], v, above(size, shifted=i == 0), "all", 1)
        across = dense(params[f"vertical_{i}"]["across"], v)
        v = jnp.float32(gated(v + dense(params[f"vertical_{i}"]["classes"], ONE_HOT)[:, None, None]))
        own = params[f"horizontal_{i}"]
        z = masked(params[f"horizontal_conv_{i}"], h, before(size), center, 2, 2) + across
        z = jnp.float32(gated(z + dense(own["classes"], ONE_HOT)[:, None, None]))
        skips.append(masked(own["skip"], z))
        h = masked(own["out"], z) + (h if i else 0.0)
    return headed(params, skips[0] + skips[1])


def wavenet_by_hand(params):
    """Gates of each element and one before it, at growing distance; residual and skip connections."""
    earlier = np.pad(np.asarray(X).reshape(3, 16, 1), ((0, 0), (1, 0), (0, 0)))[:, :-1]
    h = dense(params["first"], earlier) + np.asarray(params["positions"])
    skips = 0.0
    for i, distance in enumerate(NETWORKS["wavenet"]["dilations"]):
        before_it = np.pad(h, ((0, 0), (distance, 0), (0, 0)))[:, :16]
        z = dense(params[f"dilated_{i}"]["own"], h) + dense(params[f"dilated_{i}"]["earlier"], before_it)
        z = gated(z + dense(params[f"class_shift_{i}"], ONE_HOT)[:, None])
        skips = skips + dense(params[f"skip_{i}"], z)
        h = h + dense(params[f"residual_{i}"], z)
    hidden = dense(params["head"], np.maximum(skips, 0.0))
    return dense(params["out"], np.maximum(hidden, 0.0)).reshape(3, *SHAPE, LEVELS)


BY_HAND = {
    "pixelcnn": (pixelcnn_by_hand, {"level_features": 3}),
    "gated": (gated_by_hand, {}),
    "wavenet": (wavenet_by_hand, {}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_outputs_by_hand(name):
    by_hand, more = BY_HAND[name]
    network, _, params = build(name, "categorical", SHAPE, **more)
    found = jax.jit(network.apply)({"params": params}, X, jnp.asarray(LABEL))
    expected = by_hand(params)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_in_every_network_and_by_the_keys_given(name):
    distribution = MIXTURE if name == "pixelcnnpp" else "categorical"
    more = {"resolutions": 1} if name == "pixelcnnpp" else {}
    network, _, params = build(name, distribution, SHAPE, dropout=0.25, **more)
    seen = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, Dropout):
            seen.append((context.module.rate, args[1] is not None))
        return call(*args, **kwargs)

    x, label, own_keys = jnp.zeros((1, *SHAPE)), jnp.zeros(1, jnp.int32), jax.random.split(jax.random.key(0), 1)
    for train in (True, False):
        with nn.intercept_methods(record):
            jax.eval_shape(lambda t=train: network.apply({"params": params}, x, label, train=t, dropout_keys=own_keys))
        assert set(seen) == {(0.25, train)}
        seen.clear()


def test_weights_are_normalized_for_each_output_or_input_of_a_transposed_convolution():
    """A pixel of two channels makes 2x2 pixels of three: kernels of ones, of norm g."""
    x = jnp.array([1.0, 10.0]).reshape(1, 1, 1, 2)
    for norm, g in (("output", jnp.array([1.0, 2.0, 3.0])), ("input", jnp.array([1.0, 2.0]))):
        params = {"kernel": jnp.ones((2, 2, 2, 3)), "g": g, "bias": jnp.array([0.0, 0.5, 0.0])}
        found = WeightNormUpsample(3, 2, norm).apply({"params": params}, x)
        expected = 11.0 * g / np.sqrt(8.0) if norm == "output" else np.full(3, (1.0 + 20.0) / np.sqrt(12.0))
        np.testing.assert_allclose(found, np.broadcast_to(expected + params["bias"], (1, 2, 2, 3)), rtol=1e-5)


def test_the_class_shifts_the_gates_of_pixelcnnpp():
    """With a last convolution of zeros, values and gates are those of the class alone."""
    block = GatedResidualBlock(Geometry((2, 3), (1, 1)), SHAPE[:2], conditional=True, dropout=0.0)
    classes, x = jnp.eye(2)[jnp.array([1, 0, 1])], X * jnp.ones((1, 1, 1, 2))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, None, classes, None, None))["params"]
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)
    params["conv_out"] |= {"g": jnp.zeros(4), "bias": jnp.zeros(4)}
    params["classes"]["kernel"] = kernel = jnp.array([[0.5, -1.0, 2.0, 0.0], [1.5, 0.2, -0.3, 1.0]])
    found = jax.jit(lambda p: block.apply({"params": p}, x, None, classes, None, None))(params)
    values, gates = np.split(np.asarray(kernel)[[1, 0, 1]], 2, axis=1)
    np.testing.assert_allclose(
        found - x, np.broadcast_to((values / (1 + np.exp(-gates)))[:, None, None], x.shape), atol=1e-5
    )


def reach(network, side, row, column):
    """Pixels of an image of one channel that the output at a pixel depends on, for weights that are all positive."""
    x = jnp.full((1, side, side, 1), 0.5)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.05), shapes)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(network.apply({"params": params}, x)[0, row, column])))(x)
    return np.abs(np.asarray(slope[0, :, :, 0])) > 0


def test_gated_pixelcnn_has_no_blind_spot_and_pixelcnn_has_one():
    given = {"image_shape": (4, 4, 1), "num_outputs": 2, "channelwise": True, "levels": 4, "head_features": 2}
    layers = {"kernel_size": 3, "first_kernel_size": 3}
    before = np.arange(16).reshape(4, 4) < 3 * 4
    gated = reach(GatedPixelCNN(**given, features=2, num_layers=3, **layers), 4, 3, 0)
    np.testing.assert_array_equal(gated, before)
    plain = reach(PixelCNN(**given, hidden=2, num_blocks=3, **layers), 4, 3, 0)
    assert not plain[~before].any()
    blind = {(2, 2), (2, 3), (1, 3)}  # right of the diagonal up from the pixel
    assert {tuple(map(int, place)) for place in np.argwhere(before & ~plain)} == blind


@pytest.mark.parametrize(
    ("name", "distribution", "shape", "more", "message"),
    [
        ("pixelcnn", "categorical", (2, 2, 3), {"hidden": 8}, r"model\.hidden is 8, .* multiple of 3"),
        ("gated", "categorical", (2, 2, 3), {"features": 6}, r"model\.head_features is 8, .* multiple of 3"),
        ("gated", "categorical", (2, 2, 1), {"kernel_size": 4}, r"model\.kernel_size is 4, .* odd"),
        ("pixelcnn", "categorical", (2, 2, 1), {"first_kernel_size": 1}, r"model\.first_kernel_size is 1, .* odd"),
        ("pixelcnnpp", "categorical", (2, 2, 3), {}, "PixelCNN.. sees no channel .*logistic_mixture"),
        ("pixelcnnpp", "categorical", (6, 6, 1), {"resolutions": 3}, r"6x6 .* halved evenly 2 times"),
        ("pixelcnnpp", "categorical", (4, 4, 1), {"num_blocks": 0}, r"model\.num_blocks"),
        ("wavenet", "categorical", (2, 2, 1), {"dilations": (1, 0)}, r"model\.dilations is \(1, 0\)"),
        ("transformer", "categorical", (2, 2, 1), {"hidden_size": 12}, r"model\.hidden_size is 12, .* multiple"),
        ("transformer", "categorical", (2, 2, 1), {"multiple_of": 0}, r"model\.multiple_of is 0"),
        ("pixelcnn", "categorical", (2, 2, 1), {"name": "dit.DiT"}, r"model\.name of dit is 'DiT'"),
    ],
)  # fmt: skip
def test_settings_that_fit_no_network_are_refused(name, distribution, shape, more, message):
    with pytest.raises(ValueError, match=message):
        build(name, distribution, shape, **more)
