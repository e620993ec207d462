"""Layers of StyleGAN2 against their definitions: plain convolutions with modulated weights, unit norms, filters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import keys
from jaxgen.nn import stylegan2_layers as layers
from jaxgen.nn.resample import blur

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 4, 4, 3))
W = jax.random.normal(jax.random.key(1), (2, 6))


def conv(x, kernel, **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **options)


def fir():
    taps = np.outer(layers.TAPS, layers.TAPS) / 64.0
    return jnp.asarray(taps, jnp.float32)


def filtered(x, **options):
    """Each channel with the filter, by XLA's own convolution."""
    channels = x.shape[-1]
    kernel = jnp.broadcast_to(fir()[:, :, None, None], (4, 4, 1, channels))
    return conv(x, kernel, feature_group_count=channels, **options)


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_convolution_is_one_with_weights_of_unit_norm(up):
    module = layers.StyledConv(5, up=up)
    variables = module.init(KEY, X, W, None, "none")
    params = variables["params"]
    style = W @ params["affine"]["kernel"] / np.sqrt(6.0) + params["affine"]["bias"][None]
    expected = []
    for x, s in zip(X, style, strict=True):
        weights = params["kernel"] * s[None, None, :, None]
        weights /= jnp.sqrt(jnp.sum(weights**2, axis=(0, 1, 2), keepdims=True))
        scale = layers.demodulation(params["kernel"], s[None])[0][None, None, None]
        np.testing.assert_allclose(params["kernel"] * s[None, None, :, None] * scale, weights, atol=1e-6)
        if up:  # zeros in between, a true convolution, and the filter with a gain of 4
            options = {"window_strides": (1, 1), "lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))}
            y = conv(x[None], weights[::-1, ::-1], **options)
            y = 4.0 * filtered(y, window_strides=(1, 1), padding=((1, 1), (1, 1)))
        else:
            y = conv(x[None], weights, window_strides=(1, 1), padding="SAME")
        expected.append(np.sqrt(2.0) * jnp.where(y > 0, y, 0.2 * y)[0])
    np.testing.assert_allclose(module.apply(variables, X, W, None, "none"), jnp.stack(expected), atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_a_halving_convolution_filters_first(size):
    module = layers.EqualizedConv(5, size, down=True, use_bias=False)
    variables = module.init(KEY, X)
    pad = 1 if size == 1 else 2
    blurred = filtered(X, window_strides=(1, 1), padding=((pad, pad), (pad, pad)))
    kernel = variables["params"]["kernel"] / np.sqrt(size**2 * 3)
    expected = conv(blurred, kernel, window_strides=(2, 2), padding="VALID")
    np.testing.assert_allclose(module.apply(variables, X), expected, atol=1e-6)


def test_blur_is_a_filter_between_margins_of_zeros():
    expected = filtered(X, window_strides=(1, 1), padding=((2, 2), (2, 2)))
    np.testing.assert_allclose(blur(X, layers.TAPS, margin=2), expected, atol=1e-6)


def test_outputs_keep_the_magnitude_of_inputs_at_the_start():
    """Equalized learning rates scale weights to this end."""
    x = jax.random.normal(KEY, (2000, 64))
    dense = layers.EqualizedDense(32, lr_multiplier=0.01)
    y = dense.apply(dense.init(jax.random.key(1), x), x)
    np.testing.assert_allclose(jnp.std(y), 1.0, atol=0.05)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(layers.leaky_relu(x) ** 2)), 1.0, atol=0.05)
    image = jax.random.normal(KEY, (4, 8, 8, 64))
    conv1 = layers.EqualizedConv(32)
    y = conv1.apply(conv1.init(jax.random.key(1), image), image)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(jnp.std(y), 1.0, atol=0.1)


def test_a_slow_layer_moves_by_the_square_of_its_multiplier():
    """Under gradient descent; by the multiplier itself under Adam, which the layer is made for."""
    x = jnp.ones((1, 4))

    def slope(multiplier):
        dense = layers.EqualizedDense(2, lr_multiplier=multiplier)
        params = dense.init(KEY, x)["params"]
        return jax.grad(lambda p: dense.apply({"params": p}, x).sum())(params)

    full, slow = slope(1.0), slope(0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(0.1 * a, b, rtol=1e-5), full, slow)


def test_activations_are_cut_off_in_proportion_to_their_gain():
    x = jnp.array([-100.0, -1.0, 2.0, 100.0])
    expected = 0.5 * np.array([-3.0, -0.2 * np.sqrt(2.0), 2.0 * np.sqrt(2.0), 3.0])
    np.testing.assert_allclose(layers.leaky_relu(x, gain=0.5, clamp=3.0), expected, rtol=1e-6)


def test_noise_is_of_the_image_and_of_the_layer():
    module = layers.StyledConv(5)
    variables = module.init(KEY, X, W, None, "none")
    params = {**variables["params"], "noise_strength": jnp.array(0.5)}
    variables = {**variables, "params": params}
    x, w = jnp.zeros_like(X), W  # so that there is nothing but noise
    noise_keys = jax.random.split(KEY, 2)

    def noise(*arguments):
        y = module.apply(variables, x, w, *arguments)
        return np.asarray(jnp.where(y > 0, y, 5.0 * y) / (0.5 * np.sqrt(2.0)))

    const = variables["buffers"]["noise_const"]
    assert const.shape == (4, 4)
    expected = np.broadcast_to(np.asarray(const)[None, :, :, None], (2, 4, 4, 5))
    np.testing.assert_allclose(noise(None, "const"), expected, rtol=1e-5)
    np.testing.assert_array_equal(noise(None, "none"), np.zeros((2, 4, 4, 5)))
    drawn = noise(noise_keys, "random")
    swapped = noise(noise_keys[::-1], "random")
    np.testing.assert_array_equal(drawn, swapped[::-1])
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1
    with pytest.raises(ValueError, match="random needs noise_keys"):
        noise(None, "random")


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 64, 3), (4, 4, 1)])
def test_other_sides_than_powers_of_two_are_refused(shape):
    with pytest.raises(ValueError, match=f"these are {shape[0]}x{shape[1]}: set data.image_size"):
        layers.resolutions(shape)


class TwoLayers(nn.Module):
    """Two styled convolutions of the same map."""

    @nn.compact
    def __call__(self, x, w, noise_keys):
        return [layers.StyledConv(5, name=name)(x, w, noise_keys, "random") for name in ("first", "second")]


def test_each_layer_draws_its_own_normal_noise():
    module, noise_keys = TwoLayers(), jax.random.split(KEY, 2)
    variables = module.init(KEY, X, W, noise_keys)
    loud = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 0.5) if path[-1].key == "noise_strength" else leaf, variables
    )
    for name, y in zip(("first", "second"), module.apply(loud, jnp.zeros_like(X), W, noise_keys), strict=True):
        noise = 0.5 * keys.normal(keys.fold_each(noise_keys, name), (4, 4, 1))
        expected = np.sqrt(2.0) * jnp.where(noise > 0, noise, 0.2 * noise)
        np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), rtol=1e-5, atol=1e-6)


def test_layers_start_as_in_the_official_code():
    """Styles scale by 1 at first; noise has no strength; slow layers have large parameters, all others normal ones."""
    styled = layers.StyledConv(40).init(KEY, jnp.zeros((1, 8, 8, 30)), jnp.zeros((1, 30)), None, "const")
    colors = layers.ToRGB(40).init(KEY, jnp.zeros((1, 8, 8, 30)), jnp.zeros((1, 30)))
    for params in (styled["params"], colors["params"]):
        np.testing.assert_array_equal(params["affine"]["bias"], np.ones(30))
        np.testing.assert_array_equal(params["bias"], np.zeros(40))
        np.testing.assert_allclose([jnp.std(params["affine"]["kernel"]), jnp.std(params["kernel"])], 1.0, rtol=0.1)
    assert styled["params"]["noise_strength"] == 0.0
    np.testing.assert_allclose(jnp.std(styled["buffers"]["noise_const"]), 1.0, rtol=0.3)
    mapping = layers.Mapping(40, 2, 5).init(KEY, jnp.zeros((1, 30)), jnp.zeros(1, jnp.int32))["params"]
    assert {name for name in mapping if name.startswith("fc")} == {"fc0", "fc1"}
    np.testing.assert_allclose(jnp.std(mapping["fc1"]["kernel"]), 100.0, rtol=0.1)
    np.testing.assert_allclose(jnp.std(mapping["embed"]["kernel"]), 1.0, rtol=0.2)
    np.testing.assert_array_equal(mapping["fc1"]["bias"], np.zeros(40))


def test_colors_are_cut_off_at_the_clamp_itself():
    module = layers.ToRGB(2, clamp=0.75)
    params = {**module.init(KEY, X, W)["params"], "bias": jnp.array([9.0, -9.0])}
    np.testing.assert_array_equal(module.apply({"params": params}, X, W)[0, 0, 0], [0.75, -0.75])
