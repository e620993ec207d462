"""The pipe of adaptive augmentation: official images for its own draws, probabilities, and each transformation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import DIRECTORY
from jax.scipy.special import erfinv

from jaxgen.adversarial.augmentation import augment_pipe, band_filters
from jaxgen.adversarial.augmentation.transformations import GROUPS, Multipliers, Pipe, Ranges, make_pipe
from jaxgen.core import warping

UNIFORM = {"xflip", "rotate90", "xint", "rotate_before", "rotate_after", "lumaflip", "hue", "cutout"}


@pytest.fixture(scope="module")
def golden():
    with np.load(DIRECTORY / "ada_augment.npz") as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(arrays.pop("meta").item())
    return {name: np.moveaxis(a, 1, -1) if a.ndim == 4 else a for name, a in arrays.items()}, meta


def at_percentile(q, pipe, images, noise):
    """The draws of the official code's debugging: every transformation applied, all parameters at one percentile."""
    n = len(images)
    normal = erfinv(2.0 * q - 1.0)
    draws = {}
    for name, (value, uniform, *_) in augment_pipe.draw(jax.random.key(0), pipe, images.shape[1:]).items():
        number = 0.5 if name == "rotate_after" else q if name in UNIFORM else erfinv(q) if name == "noise" else normal
        draws[name] = (jnp.full((n, *value.shape), number), jnp.zeros((n, *uniform.shape)))
    if noise is not None:
        draws["noise"] += (noise,)
    return draws


def assert_close(ours, expected):
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= 1e-3 * expected.std()


@pytest.mark.parametrize("name", [*GROUPS, "bgc"])
def test_images_at_percentiles_are_the_official_ones(golden, name):
    arrays, meta = golden
    pipe = make_pipe(name, {}, arrays["input/images"].shape[1:])
    images = jnp.asarray(arrays["input/images"] if name == "bgc" else arrays["input/images"][:1])
    noise = jnp.asarray(arrays["input/noise_image"]) if name == "noise" else None
    call = jax.jit(lambda draws: augment_pipe.augment_with(draws, images, jnp.ones(()), pipe))
    for q in meta["percentiles"]:
        assert_close(call(at_percentile(q, pipe, images, noise)), arrays[f"output/{name}/{q}"])


def given_draws(arrays, tag):
    """The official draws by our names."""
    prefix = f"input/{tag}/"
    n = len(arrays["input/images"])
    raw = {key.removeprefix(prefix).split("_", 2)[2]: a for key, a in arrays.items() if key.startswith(prefix)}
    flat = {name: jnp.asarray(a if name == "noise_image" else a.reshape(n, -1)) for name, a in raw.items()}
    draws = {}
    for name in (key.removesuffix("_value") for key in flat if key.endswith("_value")):
        value, uniform = flat[f"{name}_value"], flat[f"{name}_apply"][:, 0]
        draws[name] = (value if value.shape[1] == 2 else value[:, 0], uniform)
    bands = [draws.pop(f"filter{i}") for i in range(4) if f"filter{i}" in draws]
    if bands:
        draws["imgfilter"] = tuple(jnp.stack(numbers, axis=-1) for numbers in zip(*bands, strict=True))
        draws["noise"] = (*draws.pop("noise_sigma"), flat["noise_image"])
        draws["cutout"] = (flat["cutout_center"], flat["cutout_apply"][:, 0])
    return draws


@pytest.mark.parametrize(
    ("tag", "transforms"), [("random_bgc", "bgc"), ("random_fnc", {"filter": 1.0, "noise": 1.0, "cutout": 1.0})]
)
def test_images_of_given_draws_are_the_official_ones(golden, tag, transforms):
    arrays, meta = golden
    images = jnp.asarray(arrays["input/images"])
    pipe = make_pipe(transforms, {}, images.shape[1:])
    draws = given_draws(arrays, tag)
    assert set(draws) == augment_pipe._drawn(pipe)
    ours = jax.jit(lambda draws, p: augment_pipe.augment_with(draws, images, p, pipe))(draws, jnp.float32(meta["p"]))
    assert_close(ours, arrays[f"output/{tag}"])


def test_filters_are_the_official_ones(golden):
    arrays, _ = golden
    np.testing.assert_allclose(band_filters.filter_bank(), arrays["output/filter_bank"], atol=1e-7)
    np.testing.assert_allclose(band_filters.filter_bank().sum(axis=0), np.eye(1, 43, 21)[0], atol=1e-12)
    np.testing.assert_allclose(warping.SYM6 / warping.SYM6.sum(), arrays["output/geom_filter"], atol=1e-7)


def test_pipes_by_name_and_by_multipliers():
    def multipliers(transforms):
        return make_pipe(transforms, {}, (8, 8, 3)).multipliers

    def on(*groups):
        names = [name for group in groups for name in GROUPS[group]]
        return Multipliers(**dict.fromkeys(names, 1.0))

    assert {name: multipliers(name) for name in GROUPS} == {name: on(name) for name in GROUPS}
    assert multipliers("bg") == on("blit", "geom")
    assert multipliers("bgc") == on("blit", "geom", "color")
    assert multipliers("bgcf") == on("blit", "geom", "color", "filter")
    assert multipliers("bgcfn") == on("blit", "geom", "color", "filter", "noise")
    assert multipliers("bgcfnc") == Multipliers(*[1.0] * 15)
    r3gan = {"blit": 1.0, "geom": 1.0, "color": 0.5, "cutout": 1.0}
    assert multipliers(r3gan) == Multipliers(*[1.0] * 7, *[0.5] * 5, 0.0, 0.0, 1.0)
    single = Multipliers(brightness=0.5, contrast=0.5, lumaflip=0.5, saturation=0.5)
    assert multipliers({"hue": 0.0, "color": 0.5}) == multipliers({"color": 0.5, "hue": 0.0}) == single
    changed = make_pipe("bgcf", {"xint_max": 0.2, "imgfilter_bands": (1.0, 1.0, 0.0, 0.0)}, (8, 8, 3)).ranges
    assert changed == Ranges(xint_max=0.2, imgfilter_bands=(1.0, 1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("transforms", "ranges", "shape", "message"),
    [
        ("bgx", {}, (8, 8, 3), "transforms is 'bgx', but must be one of blit.*bgcfnc"),
        ({"blur": 1.0}, {}, (8, 8, 3), "a name in transforms is 'blur', but must be one of blit.*imgfilter"),
        ({"hue": -0.1}, {}, (8, 8, 3), "multiplier of hue is -0.1, but must be at least 0"),
        ({"hue": float("inf")}, {}, (8, 8, 3), "multiplier of hue is inf"),
        ({"hue": 0.0}, {}, (8, 8, 3), "must give one of them a positive multiplier"),
        ({}, {}, (8, 8, 3), "must give one of them a positive multiplier"),
        ("bgc", {"xint": 0.1}, (8, 8, 3), r"ranges\.xint is not a setting.*xint_max"),
        ("bgc", {"xint_max": (0.1, 0.2)}, (8, 8, 3), r"ranges\.xint_max .* must be of type float"),
        ("filter", {"imgfilter_bands": (1.0, 1.0)}, (8, 8, 3), r"ranges\.imgfilter_bands .* must be of type tuple"),
        ("bgc", {"scale_std": 0.0}, (8, 8, 3), "scale_std is 0.0, but must be positive"),
        ("bgc", {"scale_std": -0.1}, (8, 8, 3), "scale_std is -0.1, but must be positive"),
        ("bgc", {"noise_std": 0.2}, (8, 8, 3), "noise_std is set, but has no effect without noise"),
        ("bgc", {}, (8, 8, 4), "1 or 3 channels, not 4"),
        ("blit", {}, (8, 1, 3), "sides of 2 pixels, not 8x1"),
        ("filter", {}, (1, 8, 3), "sides of 2 pixels, not 1x8"),
        ("geom", {}, (8, 1, 3), "sides of 2 pixels, not 8x1"),
        ({"hue": 1.0}, {}, (8, 8, 1), "hue has no effect on images of one channel"),
        ({"saturation": 1.0}, {}, (8, 8, 1), "saturation has no effect on images of one channel"),
    ],
)
def test_pipes_that_cannot_be_are_refused(transforms, ranges, shape, message):
    with pytest.raises(ValueError, match=message):
        make_pipe(transforms, ranges, shape)


def test_pipes_take_what_they_need_and_no_more():
    """Colors of one channel by the name of their group; noise and cutout of any images."""
    assert make_pipe("color", {}, (8, 8, 1)).names >= {"brightness", "hue"}
    for name in ("noise", "cutout"):
        assert make_pipe(name, {}, (1, 1, 4)).names == {name}


KEYS = jax.random.split(jax.random.key(0), 4000)


def test_draws_have_their_distributions_and_are_independent():
    pipe = make_pipe("bgcfnc", {}, (2, 2, 1))
    draws = jax.device_get(jax.jit(jax.vmap(lambda key: augment_pipe.draw(key, pipe, (2, 2, 1))))(KEYS))
    rotations = {"rotate_before", "rotate_after"}
    assert set(draws) == {*Multipliers._fields} - {"rotate"} | rotations
    for name, (value, uniform, *_) in draws.items():
        assert value.shape == {"xint": (4000, 2), "xfrac": (4000, 2), "cutout": (4000, 2), "imgfilter": (4000, 4)}.get(
            name, (4000,)
        )
        assert uniform.shape == ((4000, 4) if name == "imgfilter" else (4000,))
        moments = (0.5, 12**-0.5) if name in UNIFORM else (0.0, 1.0)
        np.testing.assert_allclose((value.mean(), value.std()), moments, atol=0.05)
        np.testing.assert_allclose((uniform.mean(), uniform.std()), (0.5, 12**-0.5), atol=0.04)
    columns = np.concatenate([np.reshape(leaf, (4000, -1)) for leaf in jax.tree.leaves(draws)], axis=1)
    assert columns.shape == (4000, 2 * 12 + 3 * 3 + 8 + 4)
    np.testing.assert_allclose(np.corrcoef(columns, rowvar=False), np.eye(columns.shape[1]), atol=0.08)
    few = make_pipe({"hue": 1.0}, {}, (2, 1, 3))
    np.testing.assert_array_equal(augment_pipe.draw(KEYS[3], few, (2, 1, 3))["hue"], [x[3] for x in draws["hue"]])


FACTORS = Multipliers(
    xflip=0.5, rotate90=0.6, xint=0.7, scale=0.8, rotate=0.9, aniso=1.0, xfrac=0.55, brightness=0.65, contrast=0.75,
    lumaflip=0.85, hue=0.95, saturation=0.45, imgfilter=1.2, noise=0.4, cutout=0.35,
)  # fmt: skip
OTHER = Ranges(
    xint_max=0.3, scale_std=0.5, rotate_max=0.5, aniso_std=0.6, xfrac_std=0.7, brightness_std=0.8, contrast_std=0.9,
    hue_max=0.25, saturation_std=1.1, imgfilter_bands=(1.0, 0.8, 0.6, 0.4), imgfilter_std=1.3, noise_std=0.4,
    cutout_size=0.15,
)  # fmt: skip


@pytest.mark.parametrize("ranges", [Ranges(), OTHER])
def test_each_transformation_has_its_probability_and_range(ranges):
    pipe, p = Pipe(FACTORS, ranges), 0.8

    def parameters(key):
        return augment_pipe._parameters(augment_pipe.draw(key, pipe, (2, 2, 1)), jnp.float32(p), pipe)

    w = jax.device_get(jax.jit(jax.vmap(parameters))(KEYS))
    shares = {name: factor * p for name, factor in FACTORS._asdict().items()}
    shares |= dict.fromkeys(("rotate_before", "rotate_after"), 1.0 - np.sqrt(1.0 - shares.pop("rotate")))
    shares["xflip"], shares["lumaflip"], shares["rotate90"] = (
        shares["xflip"] / 2.0, shares["lumaflip"] / 2.0, shares["rotate90"] * 0.75,
    )  # fmt: skip
    shares["imgfilter"] = shares["imgfilter"] * np.array(ranges.imgfilter_bands)
    assert set(w) == set(shares)
    for name, value in w.items():
        applied = np.reshape(value, (4000, -1)) != 0.0
        expected = shares[name] if name == "imgfilter" else [shares[name]] * applied.shape[1]
        np.testing.assert_allclose(applied.mean(axis=0), expected, atol=0.03)
    reaches = {"xint": ranges.xint_max, "hue": np.pi * ranges.hue_max} | dict.fromkeys(
        ("rotate_before", "rotate_after"), np.pi * ranges.rotate_max
    )
    for name, reach in reaches.items():
        np.testing.assert_allclose((w[name].min(), w[name].max()), (-reach, reach), rtol=0.02)
    for name in ("scale", "aniso", "xfrac", "brightness", "contrast", "saturation", "imgfilter", "noise"):
        std = getattr(ranges, f"{name}_std")
        np.testing.assert_allclose(w[name][w[name] != 0.0].std(), std, rtol=0.06)
    for name, values in {
        "xflip": [0.0, 1.0],
        "lumaflip": [0.0, 1.0],
        "rotate90": np.pi * np.array([0.0, 0.5, 1.0, 1.5]),
        "cutout": [0.0, ranges.cutout_size],
    }.items():
        np.testing.assert_allclose(np.unique(w[name]), values, rtol=1e-6)


def test_a_probability_above_one_is_the_last_for_rotations():
    pipe = make_pipe({"rotate": 1.0}, {}, (8, 8, 3))
    assert augment_pipe._threshold("rotate_before", jnp.float32(1.5), pipe) == 1.0


def one(image, transforms, **values):
    """One image with given values, all of them applied; values of the noise are 1 everywhere."""
    image = jnp.asarray(image, jnp.float32)
    pipe = make_pipe(transforms, {}, image.shape)
    draws = {name: (jnp.asarray(value)[None], jnp.zeros(1)) for name, value in values.items()}
    if "noise" in draws:
        draws["noise"] += (jnp.ones((1, *image.shape)),)
    call = jax.jit(lambda draws: augment_pipe.augment_with(draws, image[None], jnp.ones(()), pipe)[0])
    return np.asarray(call(draws))


OBLONG = np.random.default_rng(0).normal(size=(8, 16, 2)).astype(np.float32)


def test_an_oblong_image_moves_by_parts_of_its_own_sides():
    moved = one(OBLONG, {"xint": 1.0}, xint=[0.999, 0.1])  # 0.12475 of 16 pixels to the right, -0.1 of 8 up
    y, x = np.abs(np.arange(8) + 1), np.abs(np.arange(16) - 2)
    y[-1] = 6  # mirrored
    np.testing.assert_allclose(moved, OBLONG[y][:, x], atol=1e-4)
    assert np.abs(one(OBLONG, {"xfrac": 1.0}, xfrac=[1.0, 0.0])[:, 2:] - OBLONG[:, :-2]).max() < 1e-4
    assert np.abs(one(OBLONG, {"xfrac": 1.0}, xfrac=[0.0, 1.0])[1:] - OBLONG[:-1]).max() < 1e-4


def test_a_cutout_is_a_rectangle_of_the_shape_of_the_image():
    hidden = one(np.ones((8, 16, 2)), {"cutout": 1.0}, cutout=[0.25, 0.75]) == 0.0
    expected = np.zeros((8, 16, 2), bool)
    expected[4:8, 0:8] = True
    np.testing.assert_array_equal(hidden, expected)


def test_noise_has_its_deviation_in_any_number_of_channels():
    np.testing.assert_allclose(one(OBLONG, "noise", noise=-1.5), OBLONG + 0.15, rtol=1e-5)


def test_filters_mirror_small_images_as_often_as_they_need():
    image, log2_gains = OBLONG[:2, :5], np.array([0.5, -1.0, 1.5, 0.25])
    gains = np.ones(4)
    for band in range(4):
        own = np.where(np.arange(4) == band, 2.0**log2_gains, 1.0)
        gains *= own / np.sqrt(np.sum([10 / 13, 1 / 13, 1 / 13, 1 / 13] * own**2))
    taps = gains @ band_filters.filter_bank()
    expected = image
    for axis in (0, 1):
        widths = [(21, 21) if i == axis else (0, 0) for i in range(3)]
        padded = np.pad(expected, widths, mode="reflect")
        expected = np.apply_along_axis(lambda line: np.convolve(line, taps, mode="valid"), axis, padded)
    np.testing.assert_allclose(band_filters.amplify(jnp.asarray(image), jnp.asarray(log2_gains)), expected, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch_and_stays_as_it_is_at_probability_zero():
    images = jax.random.normal(jax.random.key(1), (6, 6, 9, 3))
    pipe = make_pipe("bgcfnc", {}, (6, 9, 3))
    call = jax.jit(lambda keys, images, p: augment_pipe.augment(keys, images, p, pipe))
    augmented = call(KEYS[:6], images, jnp.float32(0.7))
    assert np.abs(augmented - images).max(axis=(1, 2, 3)).min() > 1e-2
    part = jnp.array([4, 1, 1, 5, 4, 4])
    np.testing.assert_allclose(call(KEYS[part], images[part], jnp.float32(0.7)), augmented[part], atol=1e-4)
    assert (
        np.abs(call(KEYS[part + 6], images[part], jnp.float32(0.7)) - augmented[part]).max(axis=(1, 2, 3)).min() > 0.1
    )
    np.testing.assert_allclose(call(KEYS[:6], images, jnp.float32(0.0)), images, atol=1e-4)


def test_gradients_flow_to_the_images_twice():
    x, v, u = jax.random.normal(jax.random.key(2), (3, 4, 8, 8, 1))
    pipe = make_pipe("bgcfnc", {}, (8, 8, 1))

    def transform(x):
        return augment_pipe.augment(KEYS[:4], x, jnp.float32(0.8), pipe)

    def penalty(x):
        """The squared gradient norm of a discriminator that is not linear, with respect to its images."""
        return jnp.sum(jnp.square(jax.grad(lambda x: jnp.sum(u * jnp.sin(transform(x))))(x)))

    @jax.jit
    def measured(x):
        gradient = jax.grad(lambda x: jnp.sum(u * transform(x)))(x)
        second = jax.grad(penalty)(x)
        h = 1e-2
        difference = (penalty(x + h * v) - penalty(x - h * v)) / (2.0 * h)
        return jnp.sum(u * (transform(x + v) - transform(x))), jnp.sum(gradient * v), difference, jnp.sum(second * v)

    affine, first, difference, second = measured(x)
    np.testing.assert_allclose(first, affine, rtol=1e-3)
    np.testing.assert_allclose(second, difference, rtol=1e-2)
