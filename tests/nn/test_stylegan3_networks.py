"""StyleGAN3's generator: official counts, Fourier features by their definition, running means, transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.stylegan3_generator import Generator
from jaxgen.nn.stylegan3_layers import Band, FourierInput, bands

KEY = jax.random.key(0)
SMALL = {"channel_base": 32, "channel_max": 6, "num_layers": 3, "num_critical": 1, "margin": 2, "num_mapping_layers": 1}
GENERATOR = Generator((8, 8, 2), latent_dim=4, w_dim=5, num_classes=3, w_avg_decay=0.9, magnitude_decay=0.8, **SMALL)
Z = jax.random.normal(KEY, (4, 4))
LABEL = jnp.array([0, 2, 1, 1])
R = {"kernel_size": 1, "radial_filters": True, "channel_max": 1024}


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda: GENERATOR.init(KEY, Z, LABEL, train=False))()


@pytest.mark.parametrize(
    ("side", "channel_base", "options", "expected"),
    [
        (256, 32768, {}, 28_472_133),
        (512, 32768, {}, 24_873_519),
        (1024, 32768, {}, 22_313_167),
        (256, 16384, {}, 23_320_443),
        (256, 65536, R, 18_816_387),
        (512, 65536, R, 16_665_594),
        (1024, 65536, R, 15_093_151),
        (256, 32768, R, 15_779_565),
    ],
)
def test_official_parameter_counts(side, channel_base, options, expected):
    network = Generator((side, side, 3), channel_base=channel_base, **options)
    shapes = jax.eval_shape(lambda: network.init(KEY, jnp.zeros((1, 512)), train=False))
    assert trees.count(shapes["params"]) == expected
    assert network.num_ws == 16


def test_training_updates_running_means_and_nothing_else_does(variables):
    """w_avg and the mean squares move by a part of the batch's own mean, and the new ones are used at once."""

    @jax.jit
    def both(variables):
        ws = GENERATOR.apply(variables, Z, LABEL, method="styles")
        features = FourierInput(bands(8, colors=2, **{k: v for k, v in SMALL.items() if "map" not in k})[0]).apply(
            {name: variables[name]["synthesis"]["input"] for name in ("params", "buffers")}, ws[:, 0]
        )
        trained = GENERATOR.apply(variables, Z, LABEL, train=True, mutable=["buffers"])
        _, buffers = trained[1], GENERATOR.apply(variables, Z, LABEL, train=False, mutable=["buffers"])[1]["buffers"]
        again = GENERATOR.apply({**variables, **trained[1]}, Z, LABEL, train=False)
        return ws, features, trained, buffers, again

    ws, features, (images, trained), untouched, again = both(variables)
    buffers = trained["buffers"]
    jax.tree.map(np.testing.assert_array_equal, untouched, variables["buffers"])
    np.testing.assert_allclose(buffers["w_avg"], 0.1 * ws[:, 0].mean(0), rtol=1e-5)
    first = buffers["synthesis"]["L0_12_6"]["magnitude_ema"]
    np.testing.assert_allclose(first, 0.8 + 0.2 * jnp.mean(features**2), rtol=1e-5)
    changed = {name for name, leaf in trees.named_leaves(buffers).items() if jnp.any(leaf != own(variables, name))}
    assert changed == {"w_avg", *(name for name in trees.named_leaves(buffers) if name.endswith("magnitude_ema"))}
    np.testing.assert_allclose(images, again, atol=1e-5)


def own(variables, name):
    return trees.named_leaves(variables["buffers"])[name]


def test_running_means_are_of_the_whole_batch_on_a_mapped_axis(variables):
    network = GENERATOR.clone(axis_name="shards")

    def update(z, label):
        return network.apply(variables, z, label, train=True, mutable=["buffers"])[1]["buffers"]

    shards = (Z.reshape(2, 2, 4), LABEL.reshape(2, 2))
    spread = jax.jit(jax.vmap(update, axis_name="shards"))(*shards)
    options = {"train": True, "mutable": ["buffers"]}
    whole = jax.jit(lambda: GENERATOR.apply(variables, Z, LABEL, **options)[1]["buffers"])()
    for row in (0, 1):
        jax.tree.map(lambda a, b, row=row: np.testing.assert_allclose(a[row], b, rtol=1e-4), spread, whole)


def test_fourier_features_are_waves_that_a_style_rotates_and_moves():
    """Appendix F, in floating point of NumPy: features at a point p are those of R (p - t) in the plain image."""
    band = Band(features=3, size=6, sampling_rate=4, cutoff=1.5, half_width=0.5)
    module = FourierInput(band)
    w = jnp.array([[1.0, 0.5]])
    variables = jax.jit(module.init)(KEY, w)
    params, buffers = variables["params"], variables["buffers"]
    assert jnp.linalg.norm(buffers["freqs"], axis=1).max() <= 1.5
    np.testing.assert_array_equal(params["affine"]["kernel"], np.zeros((2, 4)))
    np.testing.assert_array_equal(params["affine"]["bias"], [1.0, 0.0, 0.0, 0.0])
    params = {**params, "affine": {"kernel": params["affine"]["kernel"], "bias": jnp.array([1.2, 0.9, 0.3, -0.2])}}
    turned = jax.jit(module.apply)({"params": params, "buffers": buffers}, w)
    cos, sin = 0.8, 0.6
    x = (np.arange(6) + 0.5 - 3.0) / 4.0
    points = np.stack(np.meshgrid(x, x), axis=-1) - np.array([0.3, -0.2]) / 1.5  # divided by the norm of (1.2, 0.9)
    points = points @ np.array([[cos, -sin], [sin, cos]]).T
    waves = np.sin(2 * np.pi * (points @ np.asarray(buffers["freqs"]).T + np.asarray(buffers["phases"])))
    expected = waves @ np.asarray(params["kernel"]) / np.sqrt(3.0)
    np.testing.assert_allclose(turned[0], expected, atol=1e-5)


def test_frequencies_fill_the_disc_and_favor_its_edge():
    """Radii are cutoff * exp(-r^2 / 4) of normal numbers, whose mean is two thirds; phases are uniform turns."""
    band = Band(features=800, size=4, sampling_rate=4, cutoff=1.5, half_width=0.5)
    buffers = jax.jit(FourierInput(band).init)(KEY, jnp.ones((1, 2)))["buffers"]
    freqs, phases = np.asarray(buffers["freqs"]), np.asarray(buffers["phases"])
    np.testing.assert_allclose(np.linalg.norm(freqs, axis=1).mean(), 1.0, rtol=0.05)
    angles = np.arctan2(freqs[:, 1], freqs[:, 0])
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.5, 0.75]), [-np.pi / 2, 0.0, np.pi / 2], atol=0.25)
    np.testing.assert_allclose(np.quantile(phases, [0.0, 0.25, 0.75, 1.0]), [-0.5, -0.25, 0.25, 0.5], atol=0.06)


def test_the_given_transformation_replaces_that_of_the_buffer_and_fades_what_it_moves_out_of_band():
    band = Band(features=3, size=6, sampling_rate=4, cutoff=1.5, half_width=0.5)
    module = FourierInput(band)
    w = jnp.ones((1, 2))
    variables = jax.jit(module.init)(KEY, w)
    freqs = jnp.array([[1.0, 0.0], [0.0, 0.4], [0.0, 1.3]])
    params = {**variables["params"], "kernel": np.sqrt(3.0) * jnp.eye(3)}
    moved = jnp.array([[1.0, 0.0, 0.25], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    buffers = {"freqs": freqs, "phases": jnp.zeros(3), "transform": moved}
    x = (np.arange(6) + 0.5 - 3.0) / 4.0
    np.testing.assert_allclose(
        module.apply({"params": params, "buffers": buffers}, w)[0, 1, :, 0], np.sin(2 * np.pi * (x + 0.25)), atol=1e-6
    )
    doubled = jnp.diag(jnp.array([1.5, 1.5, 1.0]))
    features = jax.jit(module.apply)({"params": params, "buffers": buffers}, w, doubled[None])
    # Frequencies of 1.5, 0.6 and 1.95 in a band from 1.5 to 2: whole, whole, and a tenth.
    for i, (size, axis) in enumerate([(1.0, 1), (1.0, 0), (0.1, 0)]):
        wave = size * np.sin(2 * np.pi * 1.5 * float(freqs[i].sum()) * x)
        expected = np.broadcast_to(wave[None] if axis else wave[:, None], (6, 6))
        np.testing.assert_allclose(features[0, :, :, i], expected, atol=1e-5)


def test_images_depend_on_their_own_style_in_every_layer_and_are_scaled_and_clamped(variables):
    ws = GENERATOR.apply(variables, Z, LABEL, method="styles")
    assert ws.shape == (4, GENERATOR.num_ws, 5)

    @jax.jit
    def outputs(ws):
        gradient = jax.grad(lambda ws: jnp.sum(GENERATOR.apply(variables, ws, method="synthesize")[0] ** 2))(ws)
        others = {"output_scale": 0.5}, {"clamp": 0.01}, {"dtype": "bfloat16"}
        networks = (GENERATOR, *(GENERATOR.clone(**options) for options in others))
        images = [network.apply(variables, ws, method="synthesize") for network in networks]
        synthesis = variables["params"]["synthesis"]
        bright = {**synthesis, "L3_8_2": {**synthesis["L3_8_2"], "bias": jnp.ones(2)}}
        bright = {**variables, "params": {**variables["params"], "synthesis": bright}}
        return gradient, images, GENERATOR.clone(clamp=0.01).apply(bright, ws, method="synthesize")

    gradient, (images, doubled, clamped, rough), cut = outputs(ws)
    # The style of the Fourier features has no effect before training: its weights start at zero.
    np.testing.assert_array_equal(jnp.abs(gradient[0]).max(-1) > 0, [False] + [True] * 4)
    np.testing.assert_array_equal(gradient[1:], jnp.zeros_like(gradient[1:]))
    np.testing.assert_allclose(doubled, 2.0 * images, rtol=1e-5)
    assert 0 < jnp.abs(clamped).max() < 0.25 * 0.01 < jnp.abs(images).max()  # since all layers before are clamped
    np.testing.assert_allclose(cut, np.full(cut.shape, 0.25 * 0.01), rtol=1e-5)
    assert rough.dtype == jnp.float32
    assert 0 < jnp.std(images - rough) < 0.05 * jnp.std(images)


def test_bands_are_geometric_progressions_up_to_the_critical_layers():
    """The official T at 256x256, from its names of layers."""
    layers = bands(256, num_layers=14, num_critical=2, margin=10, channel_base=32768, channel_max=512, colors=3)
    assert [band.size for band in layers] == [36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256]
    assert [band.features for band in layers] == [512] * 9 + [362, 256, 181, 128, 128, 3]
    np.testing.assert_allclose([band.cutoff for band in layers], 2.0 ** np.minimum(1.0 + np.arange(15) / 2.0, 7.0))
    stopbands = [band.cutoff + band.half_width for band in layers]
    assert stopbands[0] == 8.0  # more than the minimum of 2^2.1, since the sampling rate allows it
    assert stopbands[-1] == pytest.approx(128.0 * 2.0**0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (8, 16, 3)}, "square images, not 8x16: set data.image_size"),
        ({"image_shape": (12, 12, 3)}, "power of two and at least 8, not 12"),
        ({"image_shape": (4, 4, 3)}, "power of two and at least 8, not 4"),
        ({"num_critical": 3}, r"num_critical is 3, but must be in \[0, num_layers\), which is 3"),
        ({"margin": -1}, "margin is -1, but must not be negative"),
        ({"kernel_size": 2}, "kernel_size is 2, but must be 3"),
        ({"style_mixing": 1.5}, "style_mixing is 1.5, but must lie in"),
        ({"w_avg_decay": -0.5}, "w_avg_decay is -0.5, but must lie in"),
        ({"magnitude_decay": 2.0}, "magnitude_decay is 2.0, but must lie in"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    network = GENERATOR.clone(**options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(KEY, Z, LABEL, train=False))


def test_a_label_is_needed_where_there_are_classes():
    with pytest.raises(ValueError, match="needs a label"):
        jax.eval_shape(lambda: GENERATOR.init(KEY, Z, train=False))
