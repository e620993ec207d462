"""Flow networks: exact in both directions, conditioned on classes, with dropout; their starts, names and refusals."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flow_exactness import assert_exact, measured, random_params, shaken

from jaxgen.nn import jet
from jaxgen.nn.flow_layers import ActNorm, ConditionalPrior, InvertibleConv, MaskedCoupling, context_of, squeeze
from jaxgen.nn.flow_network import FlowNetwork, GuidedFlowNetwork, make_flow_network
from jaxgen.nn.glow import Glow
from jaxgen.nn.jet import Jet
from jaxgen.nn.layers import Dropout
from jaxgen.nn.realnvp import RealNVP
from jaxgen.nn.spline_coupling import SplineCoupling
from jaxgen.nn.spline_flow import SplineFlow
from jaxgen.nn.tarflow import TarFlow, TarFlowBlock, class_weights, from_tokens, to_tokens

KEY, CLASSES = jax.random.key(2), 3
LABEL = jnp.array([1, 2, CLASSES])
NETWORKS = {
    "glow": Glow((4, 4, 1), CLASSES, levels=2, steps=1, width=4, dropout=0.5),
    "realnvp": RealNVP((2, 4, 1), CLASSES, levels=2, couplings=1, width=2, blocks=1, dropout=0.5),
    "spline_flow": SplineFlow((4, 4, 1), CLASSES, levels=2, steps=1, width=3, blocks=1, bins=3, bound=1.0, dropout=0.5),
    "tarflow": TarFlow((4, 4, 2), CLASSES, patch_size=2, width=8, depths=(1, 1), head_dim=4, dropout=0.5),
    "jet": Jet((4, 4, 1), CLASSES, 2, couplings=2, channel_couplings=1, width=8, depth=1, num_heads=2, dropout=0.5),
}


def image_of(network):
    """The same image three times, for three conditions."""
    return jnp.tile(jax.random.normal(jax.random.key(3), (1, *network.image_shape)), (3, 1, 1, 1))


@pytest.fixture(scope="module", params=NETWORKS)
def found(request):
    network = NETWORKS[request.param]
    x = image_of(network)

    def start():
        if isinstance(network, Jet | TarFlow):  # nothing in them starts from images
            return random_params(lambda: network.init(KEY, x, LABEL), size=0.3)
        return shaken(network.init(KEY, x + jax.random.normal(KEY, x.shape), LABEL), KEY, size=0.05)

    @jax.jit
    def compute():
        variables = start()

        def forward(x, number):
            return network.apply(variables, x, LABEL[number])

        def inverse(latents, number):
            return network.apply(variables, latents, LABEL[number], method="inverse")

        return measured(forward, inverse, x)

    return network, x, compute()


def test_both_directions_log_determinant_and_class(found):
    network, x, out = found
    assert_exact(out, x)
    latents = np.asarray(out["latents"])
    assert latents.shape == (3, np.prod(network.image_shape))
    for other in (latents[1], latents[2]):
        assert np.abs(latents[0] - other).max() > 1e-3
    assert isinstance(network, FlowNetwork)
    assert isinstance(network, GuidedFlowNetwork) == isinstance(network, TarFlow)


@pytest.mark.parametrize("name", [*NETWORKS, "scanned glow"])
def test_dropout_is_in_every_network_and_by_the_keys_given(name):
    network, seen = NETWORKS[name] if name in NETWORKS else NETWORKS["glow"].clone(scan_layers=True), []

    def record(call, args, kwargs, context):
        if isinstance(context.module, Dropout):
            seen.append((context.module.rate, args[1] is not None))
        return call(*args, **kwargs)

    x, keys = image_of(network), jax.random.split(KEY, 3)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda: network.init(KEY, x, LABEL, dropout_keys=keys))
    assert len(seen) > 1
    assert set(seen) == {(0.5, True)}


def test_no_label_and_the_null_label_are_one_condition():
    network, label = NETWORKS["glow"], jnp.array([CLASSES, 1])
    np.testing.assert_array_equal(context_of(network, label, None, 2).classes, [[0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(context_of(network, None, None, 2).classes, np.zeros((2, 3)))
    np.testing.assert_allclose(class_weights(label, 3, 2), [[1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(class_weights(None, 3, 2), np.full((2, 3), 1 / 3), rtol=1e-6)
    assert context_of(network.clone(num_classes=0), None, None, 2).classes is None
    assert class_weights(None, 0, 2) is None


def test_log_determinants_are_float32_and_parameters_too_where_networks_are_not():
    for network in NETWORKS.values():
        half = network.clone(dtype=jnp.bfloat16)
        variables = jax.eval_shape(lambda n=half: n.init(KEY, image_of(n), LABEL))
        assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype(jnp.float32)}
        for outputs in jax.eval_shape(half.apply, variables, image_of(half), LABEL):
            assert outputs.dtype == jnp.float32


def test_every_normalization_of_glow_starts_with_mean_zero_and_variance_one():
    """Those between the couplings, and those within their networks."""
    network = Glow((4, 4, 1), levels=2, steps=2, width=4)
    x = 3.0 * jax.random.normal(KEY, (8, 4, 4, 1)) + 1.0

    @jax.jit
    def compute():
        variables = network.init(KEY, x)
        return network.apply(variables, x, capture_intermediates=lambda module, _: isinstance(module, ActNorm))[1]

    outputs = [leaf for leaf in jax.tree.leaves(compute()["intermediates"]) if leaf.ndim == 4]
    assert len(outputs) == 2 * 2 * 3
    for y in outputs:
        np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0.0, atol=1e-4)
        np.testing.assert_allclose(y.var(axis=(0, 1, 2)), 1.0, rtol=1e-3)


def test_scanned_steps_compute_what_unrolled_ones_do():
    """From the same parameters: both directions and gradients; and each scanned step starts from its own input."""
    unrolled = Glow((4, 2, 1), CLASSES, levels=1, steps=2, width=3, lu=True, dropout=0.5)
    scanned = unrolled.clone(scan_layers=True, remat=True)
    x, label = jax.random.normal(KEY, (2, 4, 2, 1)), jnp.array([0, 2])

    @jax.jit
    def compute():
        variables = shaken(unrolled.init(KEY, x, label), KEY, size=0.05)
        stacked = {}
        for kind, tree in variables.items():
            steps = [tree[f"level_0_step_{i}"] for i in range(2)]
            stacked[kind] = {name: part for name, part in tree.items() if "step" not in name}
            stacked[kind]["level_0_steps"] = {"step": jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)}
        found = []
        for network, own in ((unrolled, variables), (scanned, stacked)):

            def total(x, network=network, own=own):
                latents, log_det = network.apply(own, x, label)
                return jnp.sum(jnp.sin(latents)) + jnp.sum(log_det), (latents, log_det)

            gradient, (latents, log_det) = jax.grad(total, has_aux=True)(x)
            found.append((gradient, latents, log_det, network.apply(own, latents, label, method="inverse")))
        return found, scanned.init(KEY, x, label)

    (one, other), start = compute()
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(other[-1], x, atol=1e-5)
    shift = start["params"]["level_0_steps"]["step"]["norm"]["shift"]
    np.testing.assert_allclose(shift[0], -squeeze(x)[0].mean(axis=(0, 1, 2)), atol=1e-5)
    assert np.abs(shift[0] - shift[1]).max() > 1e-3


def test_tokens_are_in_the_official_order():
    x = jnp.arange(32.0).reshape(1, 4, 4, 2)  # value 8 row + 2 column + channel
    tokens = to_tokens(x, 2)
    np.testing.assert_array_equal(tokens[0, 1], [4, 6, 12, 14, 5, 7, 13, 15])
    np.testing.assert_array_equal(from_tokens(tokens, 2, (4, 4, 2)), x)


@pytest.mark.parametrize("flip", [False, True])
def test_going_token_by_token_with_a_cache_inverts_the_whole_sequence(flip):
    """Without a cache, each token is solved for by two passes over the whole sequence, since its map is affine."""
    block = TarFlowBlock(4, 3, 2, 8, 2, 2, flip)
    z = jax.random.normal(KEY, (2, 4, 3))
    classes = jnp.array([[1.0, 0.0], [0.25, 0.75]])

    variables = random_params(lambda: block.init(KEY, z, classes), size=0.2)
    apply = jax.jit(block.apply)
    expected = np.zeros_like(z)
    order = range(3, -1, -1) if flip else range(4)
    for i in order:
        at_zero = np.asarray(apply(variables, jnp.asarray(expected), classes)[0])[:, i]
        moved = expected.copy()
        moved[:, i] = 1.0
        slope = np.asarray(apply(variables, jnp.asarray(moved), classes)[0])[:, i] - at_zero
        expected[:, i] = (z[:, i] - at_zero) / slope
    found = jax.jit(functools.partial(block.apply, method="inverse"))(variables, z, classes, None, None)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_the_variance_of_the_prior_standardizes_latents():
    network = TarFlow((2, 2, 1), patch_size=1, width=4, depths=(1,), head_dim=4)
    x = jax.random.normal(KEY, (2, 2, 2, 1))
    variables = random_params(lambda: network.init(KEY, x))
    latents, log_det = jax.jit(network.apply)(variables, x)
    variance = jnp.array([[0.5], [1.0], [2.0], [3.0]])
    other = {**variables, "buffers": {"prior_variance": variance}}
    scaled, scaled_log_det = jax.jit(network.apply)(other, x)
    np.testing.assert_allclose(scaled, latents / np.sqrt(variance.T), rtol=1e-5)
    np.testing.assert_allclose(scaled_log_det, log_det - 0.5 * np.log(3.0), rtol=1e-5)


def names_of(network):
    """The names of a network's modules and parameters at the top."""
    return set(jax.eval_shape(lambda: network.init(KEY, jnp.zeros((1, *network.image_shape))))["params"])


def test_priors_and_normalizations_can_be_left_out():
    flow = SplineFlow((4, 4, 1), levels=2, steps=1, width=3, blocks=1)
    assert names_of(flow) - names_of(flow.clone(split_prior=False)) == {"level_0_prior"}
    flow = Glow((2, 2, 1), levels=1, steps=1, width=2)
    assert names_of(flow) - names_of(flow.clone(learn_prior=False)) == {"level_0_prior"}
    flow = RealNVP((2, 2, 1), levels=1, width=2, blocks=1)
    norms = {f"level_0_checkerboard_{i}_norm" for i in range(4)}
    assert names_of(flow) - names_of(flow.clone(actnorm=False)) == norms


def test_the_order_of_couplings_of_jet():
    network = Jet((8, 8, 1), 0, 2, couplings=10, channel_couplings=4)
    couplings = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, jet.JetCoupling):
            couplings.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: network.init(KEY, jnp.zeros((1, 8, 8, 1))))
    assert [own.channels for own in couplings] == [True] * 4 + [False] + [True] * 4 + [False]
    first = [own.kept for own in couplings if own.channels]
    np.testing.assert_array_equal(first[1], np.random.default_rng(1).permutation(4))
    assert couplings[4].kept == tuple(jet.spatial_order((4, 4), "checkerboard", parity=0))
    assert couplings[9].kept == tuple(jet.spatial_order((4, 4), "checkerboard", parity=1))
    spatial = Jet((4, 4, 2), 0, 1, couplings=12, channel_couplings=1, width=2, depth=1, num_heads=1)
    splits = itertools.product(("checkerboard", "columns", "rows"), (0, 1))
    expected = [tuple(jet.spatial_order((4, 4), split, parity=parity)) for split, parity in splits]
    assert [own.kept for own in layers_of(spatial, jet.JetCoupling) if not own.channels] == expected


def layers_of(network, *kinds):
    """The layers of these classes, in the order in which an image goes through them."""
    found = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, kinds) and context.method_name == "__call__":
            found.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: network.init(KEY, jnp.zeros((1, *network.image_shape))))
    return found


def test_the_order_of_couplings_of_realnvp():
    """Dinh et al. 2017, section 3.6: three of either mask, which alternate, then four checkerboards; widths double."""
    network = RealNVP((4, 4, 1), levels=2, couplings=3, width=2, blocks=5, dropout=0.25)
    layers = layers_of(network, MaskedCoupling, ActNorm)
    assert all(isinstance(layer, ActNorm) and not layer.linear for layer in layers[1::2])
    found = [(own.mask, own.parity, own.net.outputs, own.net.width) for own in layers[::2]]
    first = [("checkerboard", 2, 2), ("channels", 8, 2)]
    expected = [(mask, j % 2, *sizes) for mask, *sizes in first for j in range(3)]
    assert found == expected + [("checkerboard", j % 2, 4, 4) for j in range(4)]
    assert {(own.net.blocks, own.net.dropout) for own in layers[::2]} == {(5, 0.25)}


def test_the_order_of_layers_of_spline_flows():
    network = SplineFlow((4, 4, 1), levels=2, steps=2, width=3, blocks=2, bins=3, bound=1.5, dropout=0.25)
    kinds = (ActNorm, InvertibleConv, SplineCoupling)
    layers = layers_of(network, *kinds, ConditionalPrior)
    prior = layers.pop(6)  # after the first level
    assert [type(layer) for layer in layers] == 4 * list(kinds)
    assert all(layer.lu for layer in layers[1::3])
    assert {(own.bins, own.bound) for own in layers[2::3]} == {(3, 1.5)}
    outputs = [2 * 8, 2 * 8, 4 * 8, 4 * 8]  # 3 bins have 8 numbers, of each channel of the second half
    nets = [own.net for own in (*layers[2::3], prior)]
    found = [(net.outputs, net.width, net.blocks, net.dropout) for net in nets]
    assert found == [(n, 3, 2, 0.25) for n in (*outputs, 4)]


FITS = {"image_shape": (8, 8, 1), "num_classes": 0, "dtype": jnp.float32}


def test_networks_are_found_by_name():
    section = {"name": "glow.Glow", "levels": 2, "steps": 3, "width": 5, "lu": True}
    assert make_flow_network(section, **FITS) == Glow((8, 8, 1), 0, 2, 3, 5, True)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"name": "glow.Glob"}, r"model\.name of glow is 'Glob', but must be one of Glow\. Did you mean Glow\?"),
        ({"name": "unet.UNet"}, r"model\.name of unet is 'UNet', but must be one of"),
        ({"name": "glows.Glow"}, r"model\.name \(module\.Class\) is 'glows', but must be one of"),
        ({"name": "glow.Glow", "depth": 2}, r"model\.depth is not a setting"),
        ({"name": "glow.Glow", "steps": 0}, r"model\.steps is 0, but must be at least 1"),
        ({"name": "glow.Glow", "levels": 4}, r"cannot be halved evenly 4 times: .* or use fewer model\.levels"),
        (
            {"name": "glow.Glow", "remat": True},
            r"model\.remat is True, but has no effect without",
        ),
        ({"name": "glow.Glow", "dropout": 1.0}, r"model\.dropout is 1\.0, but must lie in \[0, 1\)"),
        ({"name": "realnvp.RealNVP", "levels": 5}, r"cannot be halved evenly 4 times"),
        ({"name": "realnvp.RealNVP", "blocks": 0}, r"model\.blocks is 0, but must be at least 1"),
        ({"name": "spline_flow.SplineFlow", "bound": 0.0}, r"model\.bound is 0\.0, but must be positive"),
        ({"name": "spline_flow.SplineFlow", "bins": 0}, r"model\.bins is 0, but must be at least 1"),
        ({"name": "tarflow.TarFlow", "patch_size": 3}, r"cannot be cut into patches of 3x3"),
        ({"name": "tarflow.TarFlow", "patch_size": 0}, r"cannot be cut into patches of 0x0"),
        ({"name": "tarflow.TarFlow", "width": 96}, r"model\.width is 96, but must be a multiple of model\.head_dim=64"),
        ({"name": "tarflow.TarFlow", "depths": ()}, r"model\.depths is \(\), but must hold a number of layers"),
        ({"name": "tarflow.TarFlow", "depths": (2, 0)}, r"model\.depths is \(2, 0\), but must hold"),
        ({"name": "jet.Jet", "patch_size": 8}, r"have 1x1 patches of 8x8, but need an even number of rows"),
        ({"name": "jet.Jet", "patch_size": 1}, r"have 8x8 patches of 1x1, but need an even number"),
        ({"name": "jet.Jet", "num_heads": 7}, r"model\.width is 512, but must be a multiple of model\.num_heads=7"),
    ],
)
def test_refusals(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_flow_network(section, **FITS)


def test_labels_without_classes_are_refused():
    for network in (Glow((2, 2, 1), levels=1, steps=1, width=2), TarFlow((2, 2, 1), patch_size=1, depths=(1,))):
        with pytest.raises(ValueError, match="was given labels: set num_classes"):
            jax.eval_shape(lambda n=network: n.init(KEY, jnp.zeros((1, 2, 2, 1)), jnp.zeros(1, jnp.int32)))
