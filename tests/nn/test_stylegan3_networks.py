"""StyleGAN3's generator: official counts, Fourier features by their definition, running means, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.stylegan3_generator import Generator
from jaxgen.nn.stylegan3_layers import Band, FourierInput, bands

SMALL = {"channel_base": 32, "channel_max": 6, "num_layers": 2, "num_critical": 1, "margin": 2, "num_mapping_layers": 1}
GENERATOR = Generator((8, 8, 2), latent_dim=4, w_dim=5, num_classes=3, w_avg_decay=0.9, magnitude_decay=0.8, **SMALL)
DRAWS = np.random.default_rng(0)
Z = jnp.asarray(DRAWS.standard_normal((4, 4)), jnp.float32)
LABEL = jnp.array([0, 2, 1, 1])
R = {"kernel_size": 1, "radial_filters": True, "channel_max": 1024}
BAND = Band(features=3, size=6, sampling_rate=4, cutoff=1.5, half_width=0.5)
PIXELS = (np.arange(6) + 0.5 - 3.0) / 4.0


def drawn(name, leaf):
    """A parameter as it might be after training: standard normal, but for the larger kernels of the mapping."""
    size = 100.0 if name.startswith("params/mapping") and name.endswith("kernel") else 1.0
    values = size * DRAWS.standard_normal(leaf.shape)
    return jnp.asarray(values + name.endswith("affine/bias"), jnp.float32)


@pytest.fixture(scope="module")
def variables():
    """Parameters of NumPy, which compile nothing, and buffers as they start."""
    init = functools.partial(GENERATOR.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), Z, LABEL)["params"]
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: drawn("params/" + "/".join(entry.key for entry in path), leaf), shapes
    )
    return {"params": params, "buffers": jax.jit(lambda: init(jax.random.key(0), Z, LABEL)["buffers"])()}


def with_colors(variables, size, bias):
    """These variables, but for the weights of the colors, which are so much larger, and their bias."""
    synthesis = variables["params"]["synthesis"]
    colors = {**synthesis["L2_8_2"], "kernel": size * synthesis["L2_8_2"]["kernel"], "bias": jnp.full(2, bias)}
    return {**variables, "params": {**variables["params"], "synthesis": {**synthesis, "L2_8_2": colors}}}


@pytest.fixture(scope="module")
def found(variables):
    """All that the tests of the whole generator look at, from one program."""
    training = {"train": True, "mutable": ["buffers"]}
    spread = GENERATOR.clone(axis_name="shards")
    first = bands(8, colors=2, **{k: v for k, v in SMALL.items() if "map" not in k})[0]

    @jax.jit
    def compute(variables):
        ws = GENERATOR.apply(variables, Z, LABEL, method="styles")
        inputs = {name: variables[name]["synthesis"]["input"] for name in ("params", "buffers")}
        trained_images, trained = GENERATOR.apply(variables, Z, LABEL, **training)
        shards = jax.vmap(lambda z, label: spread.apply(variables, z, label, **training)[1], axis_name="shards")

        def evaluate(buffers):
            def loss(ws):
                given = {**variables, "buffers": buffers}
                images, after = GENERATOR.apply(given, ws, method="synthesize", mutable=["buffers"])
                return jnp.sum(images[0] ** 2), (images, after["buffers"])

            return jax.grad(loss, has_aux=True)(ws)

        before_and_after = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables["buffers"], trained["buffers"])
        gradients, (images, kept) = jax.vmap(evaluate)(before_and_after)
        clamping = GENERATOR.clone(clamp=0.01, output_scale=0.5)
        clamped = jax.vmap(lambda *colors: clamping.apply(with_colors(variables, *colors), ws, method="synthesize"))
        return {
            "ws": ws,
            "features": FourierInput(first).apply(inputs, ws[:, 0]),
            "trained": trained["buffers"],
            "trained_images": trained_images,
            "spread": shards(Z.reshape(2, 2, 4), LABEL.reshape(2, 2))["buffers"],
            "kept": jax.tree.map(lambda leaf: leaf[0], kept),
            "gradient": gradients[0],
            "images": images,
            "rough": GENERATOR.clone(dtype="bfloat16").apply(variables, ws, method="synthesize"),
            "clamped": clamped(jnp.array([0.1, 1.0]), jnp.array([0.0, 100.0])),
        }

    return jax.device_get(compute(variables))


@pytest.mark.parametrize(
    ("side", "channel_base", "options", "expected"),
    [
        (256, 32768, {}, 28_472_133),
        (256, 32768, R, 15_779_565),
        # Those of the configs, which tests/test_parameter_counts.py has, too.
        pytest.param(512, 32768, {}, 24_873_519, marks=pytest.mark.soak),
        pytest.param(1024, 32768, {}, 22_313_167, marks=pytest.mark.soak),
        pytest.param(256, 16384, {}, 23_320_443, marks=pytest.mark.soak),
        pytest.param(256, 65536, R, 18_816_387, marks=pytest.mark.soak),
        pytest.param(512, 65536, R, 16_665_594, marks=pytest.mark.soak),
        pytest.param(1024, 65536, R, 15_093_151, marks=pytest.mark.soak),
    ],
)
def test_official_parameter_counts(side, channel_base, options, expected):
    network = Generator((side, side, 3), channel_base=channel_base, **options)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 512)), train=False))
    assert trees.count(shapes["params"]) == expected
    assert network.num_ws == 16


def test_training_updates_running_means_and_nothing_else_does(variables, found):
    """w_avg and the mean squares move by a part of the batch's own mean, and the new ones are used at once."""
    trained, ws = found["trained"], found["ws"]
    jax.tree.map(np.testing.assert_array_equal, found["kept"], variables["buffers"])
    np.testing.assert_allclose(trained["w_avg"], 0.1 * ws[:, 0].mean(0), rtol=1e-5)
    first = trained["synthesis"]["L0_12_6"]["magnitude_ema"]
    np.testing.assert_allclose(first, 0.8 + 0.2 * np.mean(found["features"] ** 2), rtol=1e-5)
    before, after = (trees.named_leaves(buffers) for buffers in (found["kept"], trained))
    changed = {name for name, leaf in after.items() if np.any(leaf != before[name])}
    assert changed == {"w_avg", *(name for name in after if name.endswith("magnitude_ema"))}
    np.testing.assert_allclose(found["trained_images"], found["images"][1], atol=1e-5)
    assert np.abs(found["images"][1] - found["images"][0]).max() > 1e-3


def test_running_means_are_of_the_whole_batch_on_a_mapped_axis(found):
    for row in (0, 1):
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_allclose(a[row], b, rtol=1e-4), found["spread"], found["trained"]
        )


@pytest.fixture(scope="module")
def waves():
    """Variables as they start, and the features of three frequencies, turned, moved, and out of band: one program."""
    few, many = FourierInput(BAND), FourierInput(BAND._replace(features=800, size=4))

    @jax.jit
    def compute():
        key, w = jax.random.key(0), jnp.array([[1.0, 0.5]])
        start = few.init(key, w)
        turning = {"kernel": start["params"]["affine"]["kernel"], "bias": jnp.array([1.2, 0.9, 0.3, -0.2])}
        turned = few.apply({**start, "params": {**start["params"], "affine": turning}}, w)
        params = {**start["params"], "kernel": np.sqrt(3.0) * jnp.eye(3)}
        kept = jnp.eye(3).at[0, 2].set(0.25)
        known = {"params": params, "buffers": {"freqs": jnp.asarray(FREQS), "phases": jnp.zeros(3), "transform": kept}}
        given = jnp.diag(jnp.array([1.5, 1.5, 1.0]))[None]
        features = {"turned": turned, "moved": few.apply(known, w), "faded": few.apply(known, w, given)}
        return {"start": start, "many": many.init(key, w)["buffers"], **features}

    return jax.device_get(compute())


FREQS = np.float32([[1.0, 0.0], [0.0, 0.4], [0.0, 1.3]])


def test_fourier_features_are_waves_that_a_style_rotates_and_moves(waves):
    """Appendix F, in floating point of NumPy: features at a point p are those of R (p - t) in the plain image."""
    params, buffers = waves["start"]["params"], waves["start"]["buffers"]
    assert np.linalg.norm(buffers["freqs"], axis=1).max() <= 1.5
    np.testing.assert_array_equal(params["affine"]["kernel"], np.zeros((2, 4)))
    np.testing.assert_array_equal(params["affine"]["bias"], [1.0, 0.0, 0.0, 0.0])
    cos, sin = 0.8, 0.6  # of (1.2, 0.9), whose norm is 1.5
    points = np.stack(np.meshgrid(PIXELS, PIXELS), axis=-1) - np.array([0.3, -0.2]) / 1.5
    points = points @ np.array([[cos, -sin], [sin, cos]]).T
    plain = np.sin(2 * np.pi * (points @ buffers["freqs"].T + buffers["phases"]))
    np.testing.assert_allclose(waves["turned"][0], plain @ params["kernel"] / np.sqrt(3.0), atol=1e-5)


def test_frequencies_fill_the_disc_and_favor_its_edge(waves):
    """Radii are cutoff * exp(-r^2 / 4) of normal numbers, whose mean is two thirds; phases are uniform turns."""
    freqs, phases = waves["many"]["freqs"], waves["many"]["phases"]
    np.testing.assert_allclose(np.linalg.norm(freqs, axis=1).mean(), 1.0, rtol=0.05)
    angles = np.arctan2(freqs[:, 1], freqs[:, 0])
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.5, 0.75]), [-np.pi / 2, 0.0, np.pi / 2], atol=0.25)
    np.testing.assert_allclose(np.quantile(phases, [0.0, 0.25, 0.75, 1.0]), [-0.5, -0.25, 0.25, 0.5], atol=0.06)


def test_the_given_transformation_replaces_that_of_the_buffer_and_fades_what_it_moves_out_of_band(waves):
    np.testing.assert_allclose(waves["moved"][0, 1, :, 0], np.sin(2 * np.pi * (PIXELS + 0.25)), atol=1e-6)
    # Frequencies of 1.5, 0.6 and 1.95 in a band from 1.5 to 2: whole, whole, and a tenth.
    for i, (size, axis) in enumerate([(1.0, 1), (1.0, 0), (0.1, 0)]):
        wave = size * np.sin(2 * np.pi * 1.5 * float(FREQS[i].sum()) * PIXELS)
        expected = np.broadcast_to(wave[None] if axis else wave[:, None], (6, 6))
        np.testing.assert_allclose(waves["faded"][0, :, :, i], expected, atol=1e-5)


def test_images_depend_on_their_own_style_in_every_layer_and_are_scaled_and_clamped(found):
    assert found["ws"].shape == (4, GENERATOR.num_ws, 5)
    gradient, images = found["gradient"], found["images"][0]
    assert (np.abs(gradient[0]).max(-1) > 0).all()
    np.testing.assert_array_equal(gradient[1:], np.zeros_like(gradient[1:]))
    clamped, cut = found["clamped"]
    assert 0 < np.abs(clamped).max() < 0.5 * 0.01 < 0.1 * np.abs(images).max()  # since all layers before are clamped
    np.testing.assert_allclose(cut, np.full(cut.shape, 0.5 * 0.01), rtol=1e-5)
    rough = found["rough"]
    assert rough.dtype == np.float32
    assert 0 < np.std(images - rough) < 0.05 * np.std(images)


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
        ({"num_critical": 2}, r"num_critical is 2, but must be in \[0, num_layers\), which is 2"),
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
        jax.eval_shape(lambda: network.init(jax.random.key(0), Z, LABEL, train=False))


def test_a_label_is_needed_where_there_are_classes():
    with pytest.raises(ValueError, match="needs a label"):
        jax.eval_shape(lambda: GENERATOR.init(jax.random.key(0), Z, train=False))
