"""Invertible layers: both directions, log-determinants, starts, and the closed forms of masks and orders."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flow_exactness import assert_exact, measured, random_params, shaken

from jaxgen.nn.coupling_net import CouplingNet, WeightNormConv
from jaxgen.nn.dequantizer import Dequantizer
from jaxgen.nn.flow_layers import (
    ActNorm,
    AffineCoupling,
    ConditionalPrior,
    FlowContext,
    FlowLevel,
    InvertibleConv,
    MaskedCoupling,
    affine,
    channel_mask,
    checkerboard,
    from_latents,
    latent_shape,
    squeeze,
    standard_prior,
    through,
    to_latents,
)
from jaxgen.nn.glow import GlowConv, GlowNet, GlowPriorNet, ZeroConv
from jaxgen.nn.jet import JetCoupling, JetNet, spatial_order
from jaxgen.nn.spline_coupling import SplineCoupling, knots, spline

KEY = jax.random.key(5)
X = jax.random.normal(KEY, (2, 4, 2, 4))
TOKENS = jax.random.normal(jax.random.key(6), (2, 4, 4))
LABEL = jnp.array([2, 0])
CONTEXT = FlowContext(jax.nn.one_hot(LABEL, 3))


class SmallNet(nn.Module):
    """A network of a coupling that mixes all values of an image, and the class, by one layer."""

    outputs: int
    halves: bool = False

    @nn.compact
    def __call__(self, x, context):
        flat = jnp.concatenate([x.reshape(len(x), -1), context.classes], axis=-1)
        shape = (*x.shape[1:-1], self.outputs)
        out = 0.5 * jnp.sin(nn.Dense(math.prod(shape))(flat)).reshape(len(x), *shape)
        return tuple(jnp.split(out, 2, axis=-1)) if self.halves else out


def net(outputs):
    return SmallNet(outputs)


LAYERS = {
    "actnorm": (ActNorm(), X),
    "actnorm of the port": (ActNorm(linear=True), X),
    "1x1 convolution": (InvertibleConv(), X),
    "1x1 convolution by LU": (InvertibleConv(lu=True), X),
    "affine coupling": (AffineCoupling(net(4)), X),
    "checkerboard": (MaskedCoupling(net(8), "checkerboard", 0), X),
    "channels": (MaskedCoupling(net(8), "channels", 1), X),
    "spline coupling": (SplineCoupling(net(2 * 11), 4, 1.5), X),
    "values of patches": (JetCoupling(SmallNet(4, halves=True), (2, 0, 3, 1), channels=True), TOKENS),
    "patches": (JetCoupling(SmallNet(8, halves=True), (3, 0, 1, 2), channels=False), TOKENS),
}


@pytest.fixture(scope="module")
def found():
    """What every layer computes at random weights, in one program; and one prior, of given channels."""
    moves = [jax.random.key(100 + i) for i in range(len(LAYERS))]

    @jax.jit
    def compute():
        out = {}
        for i, (name, (layer, x)) in enumerate(LAYERS.items()):
            variables = shaken(layer.init(jax.random.key(i), x, CONTEXT), moves[i])

            def apply(x, number, v=variables, own=layer, **options):
                return own.apply(v, x, FlowContext(CONTEXT.classes[number]), **options)

            out[name] = measured(apply, lambda z, n, f=apply: f(z, n, inverse=True)[0], x)
            out[name]["back_log_det"] = apply(out[name]["latents"], jnp.arange(len(x)), inverse=True)[1]
        prior, given = ConditionalPrior(GlowPriorNet(8), zeros=4), 2.0 * X + 1.0
        variables = shaken(prior.init(KEY, X, given, CONTEXT), KEY)
        for name, own in (("prior", given), ("last prior", None)):

            def standardize(x, number, v=variables, own=own, **options):
                own = None if own is None else own[number]
                return prior.apply(v, x, own, FlowContext(CONTEXT.classes[number]), **options)

            out[name] = measured(standardize, lambda z, n, f=standardize: f(z, n, inverse=True)[0], X)
            out[name]["back_log_det"] = standardize(out[name]["latents"], jnp.arange(2), inverse=True)[1]
        return out

    return compute()


@pytest.mark.parametrize("name", [*LAYERS, "prior", "last prior"])
def test_inverse_and_log_determinant(found, name):
    x = LAYERS[name][1] if name in LAYERS else X
    assert_exact(found[name], x)
    np.testing.assert_allclose(found[name]["back_log_det"], -found[name]["log_det"], atol=1e-4)


def test_the_dequantizer_is_a_density_and_starts_uniform():
    """Its noise, and log q of it, against the Jacobian of the map from standard normal noise."""
    module, images = Dequantizer(4, 2), jnp.tanh(X)
    start = jax.jit(module.init)(KEY, X, images)

    @jax.jit
    def compute(variables, images):
        noise, log_q = module.apply(variables, X, images)
        jacobian = jax.jacfwd(lambda eps: module.apply(variables, eps, images[:1])[0].reshape(-1))(X[:1])
        return noise, log_q, jnp.linalg.slogdet(jacobian.reshape(X[0].size, -1))[1]

    noise, log_q, _ = compute(start, images)
    np.testing.assert_allclose(noise, jax.scipy.stats.norm.cdf(X), atol=1e-6)
    np.testing.assert_allclose(log_q, 0.0, atol=1e-4)
    variables = shaken(start, KEY, size=0.2)
    noise, log_q, log_det = compute(variables, images)
    other, *_ = compute(variables, -images)
    log_normal = jnp.sum(jax.scipy.stats.norm.logpdf(X[0]))
    np.testing.assert_allclose(log_q[0], log_normal - log_det, atol=1e-4)
    assert abs(log_q[0]) > 0.1
    assert (noise > 0.0).all()
    assert (noise < 1.0).all()
    assert np.abs(noise - other).max() > 1e-2  # it sees the image


def test_actnorm_starts_from_its_batch():
    """Mean 0 and variance 1 of each channel; shift and scale are given by the batch's moments."""
    x = jnp.array([1.0, 2.0, -0.5, 4.0])[None, None, None] * X + jnp.array([5.0, 0.0, -3.0, 1.0])[None, None, None]
    for linear, divisor in ((False, 16), (True, 15)):
        layer = ActNorm(linear)
        params = layer.init(KEY, x)["params"]
        y, log_det = layer.apply({"params": params}, x)
        flat = np.asarray(x, np.float64).reshape(-1, 4)
        std = np.sqrt(np.square(flat - flat.mean(0)).sum(0) / divisor)
        np.testing.assert_allclose(params["shift"], -flat.mean(0), rtol=1e-5, atol=1e-6)
        expected = 1.0 / std if linear else -np.log(std) / 3.0
        np.testing.assert_allclose(params["scale" if linear else "log_scale"], expected, rtol=1e-4)
        np.testing.assert_allclose(log_det, -8 * np.log(std).sum(), rtol=1e-4)
        np.testing.assert_allclose(np.asarray(y).reshape(-1, 4).mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(np.square(np.asarray(y)).reshape(-1, 4).mean(0), divisor / 16, rtol=1e-4)
    scale = jnp.array([-2.0, 0.5, 1.0, 3.0])
    y, log_det = ActNorm(linear=True).apply({"params": {"shift": scale, "scale": scale}}, X)
    np.testing.assert_allclose(y, scale[None, None, None] * (X + scale[None, None, None]), rtol=1e-5)
    np.testing.assert_allclose(log_det, 8 * np.log(3.0), rtol=1e-5)


def test_a_1x1_convolution_starts_as_a_rotation():
    for lu in (False, True):
        layer = InvertibleConv(lu)
        variables = layer.init(KEY, X)
        y, log_det = layer.apply(variables, X)
        np.testing.assert_allclose(log_det, 0.0, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(X, axis=-1), rtol=1e-4)
        assert np.abs(y - X).max() > 0.1
    own, buffers = variables["params"], variables["buffers"]
    lower = np.tril(own["lower"], -1) + np.eye(4)
    upper = np.triu(own["upper"], 1) + np.diag(buffers["sign"] * np.exp(own["log_diagonal"]))
    matrix = np.eye(4)[buffers["permutation"]] @ lower @ upper
    np.testing.assert_allclose(y, X @ matrix.T, atol=1e-5)
    changed = {"params": {**own, "lower": own["lower"] + np.triu(np.ones((4, 4)))}, "buffers": buffers}
    np.testing.assert_allclose(layer.apply(changed, X)[0], y, atol=1e-6)  # what lies above is not used


class Formula(CouplingNet):
    """The output h = 2 x - 1, and the shift x + 3."""

    def __call__(self, x, context):
        return jnp.concatenate([2.0 * x - 1.0, x + 3.0], axis=-1)


def test_couplings_by_hand():
    y, log_det = AffineCoupling(Formula(4, 1, 1)).apply({}, X, CONTEXT)
    a, b = np.split(np.asarray(X, np.float64), 2, axis=-1)
    scale = 1.0 / (1.0 + np.exp(-(2.0 * a - 1.0 + 2.0)))
    np.testing.assert_allclose(y, np.concatenate([a, (b + a + 3.0) * scale], axis=-1), rtol=1e-5)
    np.testing.assert_allclose(log_det, np.log(scale).sum(axis=(1, 2, 3)), rtol=1e-5)
    x, factor = np.asarray(X, np.float64), np.array([0.5, 1.0, -2.0, 0.1])
    for mask, kept in (("checkerboard", checkerboard(4, 2, 1)), ("channels", channel_mask(4, 1))):
        layer = MaskedCoupling(Formula(8, 1, 1), mask, 1)
        y, log_det = layer.apply({"params": {"log_scale_factor": jnp.float32(factor)}}, X, CONTEXT)
        log_scale = (1 - kept) * factor * np.tanh(2.0 * x * kept - 1.0)
        np.testing.assert_allclose(y, x * np.exp(log_scale) + (1 - kept) * (x * kept + 3.0), rtol=1e-4)
        np.testing.assert_allclose(log_det, log_scale.sum(axis=(1, 2, 3)), rtol=1e-4)
    y, log_det = affine(X, 2.0 + X, -X, shift_first=True, inverse=False)
    np.testing.assert_allclose(y, (2.0 * x + 2.0) * np.exp(-x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, -x.sum(axis=(1, 2, 3)), rtol=1e-4)


def test_masks_and_orders():
    np.testing.assert_array_equal(checkerboard(2, 3, 0)[0, :, :, 0], [[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(checkerboard(2, 3, 1)[0, :, :, 0], [[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(channel_mask(4, 0).ravel(), [1, 1, 0, 0])
    np.testing.assert_array_equal(channel_mask(4, 1).ravel(), [0, 0, 1, 1])
    np.testing.assert_array_equal(spatial_order((2, 2), "checkerboard", parity=0), [0, 3, 1, 2])
    np.testing.assert_array_equal(spatial_order((2, 2), "checkerboard", parity=1), [1, 2, 0, 3])
    np.testing.assert_array_equal(spatial_order((2, 2), "columns", parity=0), [0, 2, 1, 3])
    np.testing.assert_array_equal(spatial_order((2, 2), "rows", parity=1), [2, 3, 0, 1])


def test_squeezing_keeps_the_order_of_the_official_code():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)  # value 4 row + 2 column + channel
    y, log_det = squeeze(x)
    np.testing.assert_array_equal(y.ravel(), [0, 2, 4, 6, 1, 3, 5, 7])
    np.testing.assert_array_equal(log_det, [0.0])
    np.testing.assert_array_equal(squeeze(squeeze(X)[0], inverse=True)[0], X)


def test_levels_give_away_the_second_half_and_standardize_it_by_the_first():
    def prior(z, given, context, *, inverse=False):
        shift = 0.0 if given is None else 10.0 * given
        return (z - shift if inverse else z + shift), jnp.full(len(z), -1.0 if inverse else 1.0)

    def double(x, context, *, inverse=False):
        return (x / 2.0 if inverse else 2.0 * x), jnp.full(len(x), 3.0)

    shapes = [latent_shape((4, 2, 4), i, last=i == 1, squeezed=i == 0) for i in range(2)]
    assert shapes == [(2, 1, 8), (2, 1, 8)]
    levels = [FlowLevel([squeeze, double], prior, shapes[0]), FlowLevel([double], standard_prior, shapes[1])]
    latents, log_det = to_latents(levels, X, CONTEXT)
    squeezed = 2.0 * squeeze(X)[0]
    kept, given = squeezed[..., :8], squeezed[..., 8:]
    expected = np.concatenate([(given + 10.0 * kept).reshape(2, -1), 2.0 * kept.reshape(2, -1)], axis=1)
    np.testing.assert_allclose(latents, expected, rtol=1e-6)
    np.testing.assert_allclose(log_det, 3.0 + 1.0 + 3.0)
    np.testing.assert_allclose(from_latents(levels, latents, CONTEXT), X, atol=1e-5)
    assert latent_shape((8, 8, 3), 0, last=False) == (4, 4, 6)
    assert latent_shape((8, 8, 3), 1, last=True) == (2, 2, 24)
    order = []
    layers = [lambda x, c, *, inverse, i=i: (order.append(i), (x, jnp.float32([i] * len(x))))[1] for i in range(3)]
    assert through(layers, X, CONTEXT)[1][0] == 3.0
    through(layers, X, CONTEXT, inverse=True)
    assert order == [0, 1, 2, 2, 1, 0]


def test_the_edge_channel_and_padding_with_ones():
    """Kernels of ones over zeros: what is left is the padding, seen by the pixels at the edges."""
    zeros = jnp.zeros((1, 3, 3, 1))
    conv = {"kernel": jnp.ones((3, 3, 2, 1)), "bias": jnp.zeros(1)}
    edges = np.array([[5, 3, 5], [3, 0, 3], [5, 3, 5]])
    out = ZeroConv(1).apply({"params": {"conv": conv, "log_scale": jnp.full(1, 0.5)}}, zeros)
    np.testing.assert_allclose(out[0, ..., 0], edges * np.exp(1.5), rtol=1e-5)
    conv = {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.full(1, 0.25)}
    out = ZeroConv(1, plain=True).apply({"params": {"conv": conv, "log_scale": jnp.zeros(1)}}, zeros)
    np.testing.assert_allclose(out[0, ..., 0], edges + 0.25)
    out = GlowConv(1, 3, plain=True).apply({"params": {"conv": conv}}, zeros)
    np.testing.assert_allclose(out, 0.25)  # hidden layers of the port pad with zeros
    norm = {"shift": jnp.full(1, 1.0), "log_scale": jnp.zeros(1)}
    out = GlowConv(1, 3).apply({"params": {"conv": {"kernel": jnp.ones((3, 3, 2, 1))}, "norm": norm}}, zeros)
    np.testing.assert_allclose(out[0, ..., 0], edges + 1.0)
    own = jax.eval_shape(lambda: GlowConv(2, 1).init(KEY, zeros))["params"]
    assert own["conv"]["kernel"].shape == (1, 1, 1, 2)  # without padding there is no channel for it


def test_weight_normalization_by_hand():
    module = WeightNormConv(2, 1)
    kernel, length = jnp.array([[[[3.0, 1.0], [4.0, 0.0]]]]), jnp.array([10.0, 2.0])
    params = {"kernel": kernel, "length": length, "bias": jnp.array([0.5, -1.0])}
    out = module.apply({"params": params}, jnp.array([1.0, 2.0]).reshape(1, 1, 1, 2))
    np.testing.assert_allclose(out.ravel(), [6.0 + 2.0 * 8.0 + 0.5, 2.0 - 1.0], rtol=1e-5)


def test_networks_of_couplings_start_at_zero_and_see_class_features_and_dropout():
    context = FlowContext(CONTEXT.classes, features=X)
    others = {
        "dropout": context._replace(dropout_keys=jax.random.split(KEY, 2)),
        "class": context._replace(classes=context.classes[::-1]),
        "features": context._replace(features=-X),
    }
    for module, seen in ((CouplingNet(3, 8, 1, dropout=0.5), set(others)), (GlowNet(8, 3, dropout=0.5), {"dropout"})):

        @jax.jit
        def compute(own=module):
            start = own.init(KEY, X, context)
            variables = shaken(start, KEY)
            outputs = {name: own.apply(variables, X, other) for name, other in others.items()}
            return own.apply(start, X, context), own.apply(variables, X, context), outputs

        first, out, outputs = compute()
        np.testing.assert_array_equal(first, 0.0)
        assert {name for name, other in outputs.items() if np.abs(out - other).max() > 1e-3} == seen


class FormulaTokens(nn.Module):
    """The shift x + 3 and the raw scale 2 x - 1."""

    def __call__(self, x, context):
        return x + 3.0, 2.0 * x - 1.0


def test_couplings_of_patches_by_hand():
    """(x + shift) * 2 sigmoid(h), of the values, or patches, that are not kept."""
    x = np.asarray(TOKENS, np.float64)
    for channels, axis in ((True, 2), (False, 1)):
        y, log_det = JetCoupling(FormulaTokens(), (2, 0, 3, 1), channels).apply({}, TOKENS, CONTEXT)
        kept, moved = np.split(np.take(x, (2, 0, 3, 1), axis=axis), 2, axis=axis)
        scale = 2.0 / (1.0 + np.exp(1.0 - 2.0 * kept))
        expected = np.concatenate([kept, (moved + kept + 3.0) * scale], axis=axis)
        np.testing.assert_allclose(np.take(y, (2, 0, 3, 1), axis=axis), expected, rtol=1e-5)
        np.testing.assert_allclose(log_det, np.log(scale).sum((1, 2)), rtol=1e-5)


def test_couplings_of_patches_start_as_the_identity_and_see_all_patches_that_are_kept():
    coupling = JetCoupling(JetNet(8, 1, 2), (2, 0, 3, 1), channels=False)
    init = functools.partial(coupling.init, KEY, TOKENS, CONTEXT)
    zeros = jax.jit(lambda: init()["params"]["net"]["out"])()  # of the shift and the raw scale
    assert not any(leaf.any() for leaf in zeros.values())
    variables = random_params(init)

    @jax.jit
    def compute(classes):
        def moved(x, classes):
            return jnp.sum(coupling.apply(variables, x, FlowContext(classes))[0][:, 3])

        return jax.grad(moved, argnums=(0, 1))(TOKENS, classes)

    slopes, of_class = compute(CONTEXT.classes)
    np.testing.assert_array_equal(np.abs(slopes).max((0, 2)) > 1e-4, [True, False, True, True])  # patch 1 is moved, too
    assert np.abs(of_class).min() > 1e-4


def test_the_residual_network_of_couplings_by_hand():
    """Class and features are added to the first layer; each convolution of a block follows a ReLU."""
    module, context = CouplingNet(3, 4, 2), FlowContext(CONTEXT.classes, features=2.0 * X)
    variables = random_params(functools.partial(module.init, KEY, X, context))

    @jax.jit
    def both(own):
        def conv(name, x):
            return WeightNormConv(4).apply({"params": own[name]}, x)

        h = conv("in", jnp.concatenate([X, 2.0 * X], axis=-1)) + own["class"]["kernel"][LABEL][:, None, None]
        for i in range(2):
            h = h + conv(f"block_{i}_conv_1", jax.nn.relu(conv(f"block_{i}_conv_0", jax.nn.relu(h))))
        out = jax.nn.relu(h) @ own["out"]["kernel"][0, 0] + own["out"]["bias"].reshape(1, 1, 1, 3)
        return module.apply({"params": own}, X, context), out

    found, expected = both(variables["params"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_class_in_a_prior_of_glow_by_hand():
    """Its part is scaled by the exponential of three times a learned number, and added to the convolution's."""
    conv = {"conv": {"kernel": jnp.full((3, 3, 5, 2), 0.1), "bias": jnp.ones(2)}, "log_scale": jnp.full(2, 0.1)}
    kernel, bias, log_scale = jnp.arange(6.0).reshape(3, 2), jnp.array([0.5, -1.0]), jnp.array([0.2, -0.3])
    own = {"class": {"kernel": kernel, "bias": bias}, "log_scale": log_scale}
    of_class = (np.asarray(kernel)[LABEL] + np.asarray(bias)) * np.exp(3.0 * np.asarray(log_scale))
    of_conv = ZeroConv(2).apply({"params": conv}, X)
    for convolution, params, rest in ((False, own, 0.0), (True, {**own, "conv": conv}, of_conv)):
        found = GlowPriorNet(2, convolution).apply({"params": params}, X, CONTEXT)
        np.testing.assert_allclose(found - rest, np.broadcast_to(of_class[:, None, None], found.shape), rtol=1e-4)


def test_splines_are_the_identity_at_zero_and_outside_and_go_through_their_knots():
    apply = jax.jit(spline, static_argnames=("bound", "inverse"))
    x = jnp.linspace(-3.0, 3.0, 25)
    at = knots(jnp.zeros((25, 11)), 2.0)
    y, log_slope = apply(x, at, 2.0)
    np.testing.assert_allclose(y, x, atol=1e-5)
    np.testing.assert_allclose(log_slope, 0.0, atol=1e-5)
    raw = jax.random.normal(KEY, (11,))
    one = knots(raw, 2.0)
    assert one.x.shape == (5,)
    widths = 1e-3 + (1.0 - 4e-3) * np.exp(raw[:4]) / np.exp(raw[:4]).sum()
    np.testing.assert_allclose(np.diff(one.x), 4.0 * widths, rtol=1e-4)
    np.testing.assert_allclose([one.x[0], one.x[-1], one.y[0], one.y[-1]], [-2, 2, -2, 2])
    at = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, 5)), one)
    inner = one.x[1:4]
    y, log_slope = apply(inner, at, 2.0)
    np.testing.assert_allclose(y, one.y[1:4], atol=1e-5)
    np.testing.assert_allclose(np.exp(log_slope), one.slope[1:4], rtol=1e-4)
    back, log_back = apply(y, at, 2.0, inverse=True)
    np.testing.assert_allclose(back, inner, atol=1e-5)
    np.testing.assert_allclose(log_back, -log_slope, atol=1e-4)
    outside = jnp.array([-2.5, 2.0, 7.0])
    y, log_slope = apply(outside, at, 2.0)
    np.testing.assert_array_equal(y, outside)
    np.testing.assert_array_equal(log_slope, 0.0)
    middle = float(0.5 * (one.x[1] + one.x[2]))  # eq. 4 in the middle of a bin, where the share is a half
    height, width = one.y[2] - one.y[1], one.x[2] - one.x[1]
    s, d0, d1 = height / width, one.slope[1], one.slope[2]
    expected = one.y[1] + height * (s / 4 + d0 / 4) / (s + (d1 + d0 - 2 * s) / 4)
    np.testing.assert_allclose(apply(jnp.full(3, middle), at, 2.0)[0], expected, rtol=1e-4)
