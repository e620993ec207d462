"""Augmentations as `gan.augment` names them: each in closed form, what they have in common, and chains of them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.adversarial.augmentation import augment_pipe
from jaxgen.adversarial.augmentation.controller import Controller
from jaxgen.adversarial.augmentation.piece import make_augmentation
from jaxgen.adversarial.augmentation.pieces.ada import ada
from jaxgen.adversarial.augmentation.pieces.apa import apa
from jaxgen.adversarial.augmentation.transformations import make_pipe
from jaxgen.core.keys import fold_each

SHAPE = (8, 12, 3)
N = 300
KEYS = jax.random.split(jax.random.key(0), N)
REAL, FAKE = jax.random.normal(jax.random.key(1), (2, N, *SHAPE))
STEP = jnp.int32(5)
ADA_SETTINGS = "target=0.5, every_steps=2, ramp_examples=100"


def make(settings, shape=SHAPE):
    return make_augmentation(settings, image_shape=shape)


def with_p(name, p):
    """The state of an adaptive augmentation at a probability."""
    return {name: make(name).init()[name] | {"p": jnp.float32(p)}}


def real(piece, state=None, step=STEP, n=N):
    state = piece.init() if state is None else state
    return np.asarray(jax.jit(piece.real)(state, KEYS[:n], REAL[:n], FAKE[:n], step))


def fake(piece, state=None, step=STEP, n=N):
    state = piece.init() if state is None else state
    return np.asarray(jax.jit(piece.fake)(state, KEYS[:n], FAKE[:n], step))


def transformed(name, images, p, pipe):
    """Images that the pipe transforms, drawn from the stream of a piece."""
    call = jax.jit(lambda keys, images, p: augment_pipe.augment(fold_each(keys, name), images, p, pipe))
    return call(KEYS[: len(images)], images, jnp.float32(p))


ALL = [
    "ada(initial=0.7, transforms='color')",
    "apa(initial=0.5)",
    "blur(sigma=1.5)",
    "cutout(p=0.8)",
    "diffaugment",
    "instance_noise(std=0.3)",
    "pipe(p=0.7, transforms='color')",
]


@pytest.mark.parametrize("text", ALL)
def test_images_do_not_depend_on_their_batch_and_gradients_flow_to_generated_ones(text):
    piece = make(text)
    state = piece.init()
    part = jnp.array([4, 1, 1, 5, 2, 4])
    g = REAL[10:16]

    @jax.jit
    def both(keys, real, fake):
        def loss(fake):
            augmented = piece.fake(state, keys, fake, STEP)
            return jnp.sum(g * augmented), augmented

        gradient, augmented = jax.grad(loss, has_aux=True)(fake)
        through_real = jax.grad(lambda fake: jnp.sum(piece.real(state, keys, real, fake, STEP)))(fake)
        moved = piece.fake(state, keys, fake + g, STEP) - augmented
        return piece.real(state, keys, real, fake, STEP), augmented, gradient, moved, through_real

    real_, fake_, gradient, moved, through_real = both(KEYS[:6], REAL[:6], FAKE[:6])
    real_part, fake_part, *_ = both(KEYS[part], REAL[part], FAKE[part])
    np.testing.assert_allclose(real_part, real_[part], atol=1e-5)
    np.testing.assert_allclose(fake_part, fake_[part], atol=1e-5)
    np.testing.assert_allclose(jnp.sum(gradient * g), jnp.sum(g * moved), rtol=1e-3)  # all are affine in the image
    assert (jnp.abs(gradient).max(axis=(1, 2, 3)) > 0.0).all()
    assert (through_real == 0.0).all()


def test_ada_is_the_pipe_at_the_probability_of_its_controller():
    text = f"ada(transforms={{'color': 1.0}}, ranges={{'contrast_std': 0.9}}, {ADA_SETTINGS})"
    piece = make(text)
    assert piece.metrics(piece.init(), STEP) == {"augment/ada/p": 0.0, "augment/ada/sign": 0.0}
    np.testing.assert_allclose(fake(piece, n=4), FAKE[:4], atol=1e-5)
    state = piece.init()
    for step in (3, 4):  # one of two steps of an interval, one of the next
        state = piece.update(state, jnp.ones(60), step=jnp.int32(step), axis_name=None, batch_size=60)
    np.testing.assert_allclose(piece.metrics(state, jnp.int32(5))["augment/ada/p"], 0.6, rtol=1e-6)
    np.testing.assert_allclose(piece.metrics(state, jnp.int32(6))["augment/ada/p"], 1.2, rtol=1e-6)
    pipe = make_pipe({"color": 1.0}, {"contrast_std": 0.9}, SHAPE)
    expected = transformed("ada", FAKE[:4], 0.6, pipe)
    np.testing.assert_allclose(fake(piece, state, n=4), expected, atol=1e-5)
    as_real = jax.jit(piece.real)(state, KEYS[:4], FAKE[:4], REAL[:4], STEP)
    np.testing.assert_allclose(as_real, expected, atol=1e-5)


def test_ada_begins_at_the_initial_probability_with_the_official_pipe():
    piece = make("ada(initial=0.4)")
    assert piece.init()["ada"]["p"] == jnp.float32(0.4)
    expected = transformed("ada", FAKE[:3], 0.4, make_pipe("bgc", {}, SHAPE))
    np.testing.assert_allclose(fake(piece, n=3), expected, atol=1e-5)


def test_pipe_has_the_probability_of_its_schedule():
    schedule = "linear(start=0.0, end=0.8, steps=10)"
    piece = make(f'pipe(p="{schedule}", transforms={{"color": 0.5}}, ranges={{"hue_max": 0.5}})')
    np.testing.assert_allclose(piece.metrics(piece.init(), jnp.int32(5))["augment/pipe/p"], 0.4, rtol=1e-6)
    pipe = make_pipe({"color": 0.5}, {"hue_max": 0.5}, SHAPE)
    expected = transformed("pipe", FAKE[:4], 0.4, pipe)
    np.testing.assert_allclose(fake(piece, n=4), expected, atol=1e-5)
    np.testing.assert_allclose(fake(piece, step=jnp.int32(0), n=4), FAKE[:4], atol=1e-5)
    assert piece.update(piece.init(), REAL[0, 0, 0], step=STEP, axis_name=None, batch_size=3) == {"pipe": ()}


def test_apa_passes_generated_images_off_as_real_with_its_probability():
    piece = make("apa")
    for p in (0.0, 0.3, 1.0):
        mixed = real(piece, with_p("apa", p))
        passed_off = (mixed == np.asarray(FAKE)).all(axis=(1, 2, 3))
        np.testing.assert_allclose(passed_off.mean(), p, atol=0.08)
        np.testing.assert_array_equal(mixed[~passed_off], REAL[~passed_off])
    np.testing.assert_array_equal(fake(piece, with_p("apa", 1.0)), FAKE)
    state = make(f"apa({ADA_SETTINGS})").update(piece.init(), jnp.ones(6), step=STEP, axis_name=None, batch_size=60)
    metrics = make(f"apa({ADA_SETTINGS})").metrics(state, STEP + 2)
    np.testing.assert_allclose((metrics["augment/apa/p"], metrics["augment/apa/sign"]), (0.6, 1.0), rtol=1e-6)


def test_apa_may_transform_all_images_with_the_same_probability():
    piece, state = make("apa(transforms={'hue': 1.0}, ranges={'hue_max': 0.2})"), with_p("apa", 0.6)
    pipe = make_pipe({"hue": 1.0}, {"hue_max": 0.2}, SHAPE)
    np.testing.assert_allclose(fake(piece, state), transformed("apa", FAKE, 0.6, pipe), atol=1e-5)
    mixed = jnp.asarray(real(make("apa"), state))
    np.testing.assert_allclose(real(piece, state), transformed("apa", mixed, 0.6, pipe), atol=1e-5)


def test_cutout_hides_a_part_of_each_image_with_its_probability():
    ones = jnp.ones_like(FAKE)
    piece = make('cutout(p="linear(start=0.0, end=1.0, steps=10)", size=0.25)')
    hidden = np.asarray(jax.jit(piece.fake)(piece.init(), KEYS, ones, STEP)) == 0.0
    shares = hidden.mean(axis=(1, 2, 3))
    np.testing.assert_allclose((shares > 0.0).mean(), 0.5, atol=0.08)
    np.testing.assert_allclose(shares.max(), 0.0625)
    default = make("cutout")
    assert (fake(default) == 0.0).any(axis=(1, 2, 3)).all()
    np.testing.assert_allclose((fake(default) == 0.0).mean(axis=(1, 2, 3)).max(), 0.25)


def test_diffaugment_changes_brightness_saturation_and_contrast_within_the_official_bounds():
    augmented = fake(make("diffaugment(policy='color')"))
    image = np.asarray(FAKE)
    gray, mean = image.mean(axis=-1, keepdims=True), image.mean(axis=(1, 2, 3), keepdims=True)
    brightness = augmented.mean(axis=(1, 2, 3)) - mean.ravel()
    new_gray, new_mean = augmented.mean(axis=-1, keepdims=True), augmented.mean(axis=(1, 2, 3), keepdims=True)
    contrast = ((new_gray - new_mean) / (gray - mean)).reshape(N, -1)
    product = ((augmented - new_gray) / (image - gray)).reshape(N, -1)
    for values, spread in ((contrast, 1e-2), (product, 1e-2)):
        assert (np.abs(values - np.median(values, axis=1, keepdims=True)) < spread * (1 + np.abs(values))).mean() > 0.99
    contrast = np.median(contrast, axis=1)
    saturation = np.median(product, axis=1) / contrast
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        np.testing.assert_allclose((values.min(), values.max()), (low, high), atol=0.03 * (high - low))
        np.testing.assert_allclose(values.mean(), (low + high) / 2.0, atol=0.06 * (high - low))
    np.testing.assert_allclose(np.corrcoef([brightness, contrast, saturation]), np.eye(3), atol=0.15)


def test_diffaugment_moves_by_whole_pixels_with_nothing_beyond_the_borders():
    y, x = np.meshgrid(np.arange(8.0), np.arange(12.0), indexing="ij")
    image = jnp.broadcast_to(jnp.asarray(1.0 + y + 100.0 * x)[..., None], FAKE.shape)
    piece = make("diffaugment(policy='translation', translation_ratio=0.25)")
    moved = np.asarray(jax.jit(piece.fake)(piece.init(), KEYS, image, STEP))[..., 0]
    center = moved[:, 4, 6] - 1.0
    dy, dx = center % 100.0 - 4.0, center // 100.0 - 6.0
    assert set(dy) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert set(dx) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    assert abs(np.corrcoef(dy, dx)[0, 1]) < 0.15
    from_y, from_x = y + dy[:, None, None], x + dx[:, None, None]
    inside = (from_y >= 0) & (from_y < 8) & (from_x >= 0) & (from_x < 12)
    np.testing.assert_array_equal(moved, np.where(inside, 1.0 + from_y + 100.0 * from_x, 0.0))


def test_diffaugment_rounds_its_moves_to_pixels():
    piece = make("diffaugment(policy='translation')")  # 1 of 8 pixels, 1.5 of 12
    moved = fake(piece)
    assert {int(k) for k in np.unique((moved == 0.0).all(axis=(2, 3)).sum(axis=1))} == {0, 1}
    assert {int(k) for k in np.unique((moved == 0.0).all(axis=(1, 3)).sum(axis=1))} == {0, 1, 2}


@pytest.mark.parametrize("ratio", [0.5, 0.375])  # of even and odd sizes in pixels: 4 and 6, 3 and 5
def test_diffaugment_hides_a_rectangle_centered_at_any_pixel(ratio):
    hidden = fake(make(f"diffaugment(policy='cutout', cutout_ratio={ratio})"))[..., 0] == 0.0
    for n, lines in ((8, hidden.any(axis=2)), (12, hidden.any(axis=1))):
        size = int(n * ratio + 0.5)
        starts = np.arange(n + 1 - size % 2) - size // 2
        expected = {tuple(((np.arange(n) >= s) & (np.arange(n) < s + size)).tolist()) for s in starts}
        assert {tuple(line) for line in lines.tolist()} == expected
    np.testing.assert_array_equal(hidden, hidden.any(axis=2)[:, :, None] & hidden.any(axis=1)[:, None, :])


def test_diffaugment_applies_its_policy_in_order():
    everything = make("diffaugment")
    assert ((fake(everything) == 0.0).mean(axis=(1, 2, 3)) >= 1.0 / 16.0).all()  # color before cutout
    turned = fake(make("diffaugment(policy='cutout, color')"))
    assert (turned == 0.0).mean() < 0.01
    np.testing.assert_array_equal(
        fake(make("diffaugment(policy='color,translation,cutout')"), n=3), fake(everything, n=3)
    )


def test_instance_noise_has_the_deviation_of_its_schedule():
    piece = make('instance_noise(std="linear(start=1.0, end=0.0, steps=10)")')
    noise = fake(piece) - np.asarray(FAKE)
    np.testing.assert_allclose((noise.mean(), noise.std()), (0.0, 0.5), atol=0.01)
    np.testing.assert_allclose(np.corrcoef(noise.reshape(N, -1)[:5]), np.eye(5), atol=0.2)
    np.testing.assert_allclose(real(piece) - np.asarray(REAL), noise, atol=1e-5)  # of the same keys
    assert piece.metrics(piece.init(), STEP) == {"augment/instance_noise/std": 0.5}
    np.testing.assert_array_equal(fake(piece, step=jnp.int32(10)), FAKE)


@pytest.mark.parametrize("sigma", [0.9, 1.7, 4.0])
def test_blur_has_the_official_filter(sigma):
    size = int(3.0 * sigma)
    taps = 2.0 ** -np.square(np.arange(-size, size + 1) / sigma)
    expected = np.asarray(FAKE[:2])
    for axis in (1, 2):
        n = expected.shape[axis]
        full = np.apply_along_axis(lambda line: np.convolve(line, taps / taps.sum()), axis, expected)
        expected = np.take(full, np.arange(size, size + n), axis)  # zeros beyond the borders
    np.testing.assert_allclose(fake(make(f"blur(sigma={sigma})"), n=2), expected, atol=1e-5)


def test_blur_fades_out():
    piece = make('blur(sigma="linear(start=3.0, end=0.0, steps=10)")')
    np.testing.assert_allclose(fake(piece, n=2), fake(make("blur(sigma=1.5)"), n=2), atol=1e-6)
    np.testing.assert_array_equal(fake(piece, step=jnp.int32(10), n=2), FAKE[:2])
    np.testing.assert_array_equal(fake(piece, step=jnp.int32(9), n=2), FAKE[:2])  # sigma is below a third of a pixel
    assert piece.metrics(piece.init(), STEP) == {"augment/blur/sigma": 1.5}


def test_a_chain_applies_its_pieces_in_order_with_the_states_and_streams_of_their_names():
    chain = make(("blur(sigma=2.0)", "apa(initial=1.0)", "instance_noise(std=0.5)"))
    alone = {name: make(text) for name, text in (("blur", "blur(sigma=2.0)"), ("noise", "instance_noise(std=0.5)"))}
    blurred = fake(alone["blur"])
    expected = jax.jit(alone["noise"].fake)(alone["noise"].init(), KEYS, blurred, STEP)
    np.testing.assert_allclose(fake(chain), expected, atol=1e-5)
    np.testing.assert_allclose(real(chain), expected, atol=1e-5)  # blurred generated images are passed off as real
    assert set(chain.init()) == {"blur", "apa", "instance_noise"}
    state = chain.update(chain.init(), jnp.ones(6), step=STEP, axis_name=None, batch_size=6)
    assert state["apa"]["images"] == 6
    assert state["blur"] == ()
    assert set(chain.metrics(state, STEP)) == {
        "augment/blur/sigma", "augment/apa/p", "augment/apa/sign", "augment/instance_noise/std",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ada", "apa"])
def test_the_controller_has_the_official_settings_by_default(name):
    settings = {
        key: value.default for key, value in inspect.signature({"ada": ada, "apa": apa}[name]).parameters.items()
    }
    assert {key: settings[key] for key in Controller._fields} == Controller()._asdict()


def test_diffaugment_takes_ratios_that_are_pixels_of_one_side_alone():
    moved = fake(make("diffaugment(policy='translation', translation_ratio=0.05)"), n=30)  # 0.4 of 8, 0.6 of 12 pixels
    assert {int(k) for k in (moved == 0.0).all(axis=(2, 3)).sum(axis=1)} == {0}
    assert {int(k) for k in (moved == 0.0).all(axis=(1, 3)).sum(axis=1)} == {0, 1}


def test_no_augmentation_is_the_identity():
    piece = make(())
    np.testing.assert_array_equal(real(piece, n=3), REAL[:3])
    np.testing.assert_array_equal(fake(piece, n=3), FAKE[:3])
    assert (piece.init(), piece.metrics({}, STEP)) == ({}, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("adda", "gan.augment is 'adda', but must be one of ada, apa.*Did you mean ada"),
        ("ada(goal=0.5)", "gan.augment=ada.goal is not a setting"),
        ("ada(target=2.0)", r"gan.augment=ada.target is 2.0"),
        ("ada(transforms=3)", "gan.augment=ada.transforms is 3, but must be of type"),
        ("ada(transforms='bgx')", "transforms is 'bgx'"),
        ("apa(target=2.0)", r"gan.augment=apa.target is 2.0"),
        ("apa(ranges={'hue_max': 0.5})", "ranges is set, but has no effect without transforms"),
        ("pipe", "gan.augment=pipe lacks p"),
        ("pipe(p=1.5)", "gan.augment=pipe: p is 1.5, but must be at least 0 and at most 1"),
        ("cutout(size=0.0)", "size is 0.0, but must be positive"),
        ("cutout(size=2.5)", "size is 2.5, but must be positive, and at most 2"),
        ("cutout(p=-0.5)", "p is -0.5"),
        ("instance_noise(std=-0.5)", "std is -0.5, but must be at least 0"),
        ("instance_noise(std=0.0)", "std is 0, which has no effect"),
        ("blur(sigma=-1.0)", "sigma is -1.0, but must be at least 0"),
        ("blur(sigma=0.3)", "sigma is 0.3, below the third of a pixel"),
        ("diffaugment(policy='colour')", "policy is 'colour', but must be one of color.*Did you mean color"),
        ("diffaugment(policy='color,color')", "must have each name once"),
        ("diffaugment(policy='color', cutout_ratio=0.4)", "cutout_ratio has no effect without cutout"),
        ("diffaugment(policy='color', translation_ratio=0.4)", "translation_ratio has no effect without translation"),
        ("diffaugment(translation_ratio=0.0)", "translation_ratio is 0.0, but must be at most 1"),
        ("diffaugment(cutout_ratio=1.1)", "cutout_ratio is 1.1, but must be at most 1"),
        ("diffaugment(translation_ratio=0.04)", "translation_ratio is 0.04, but must be .* at least half a pixel"),
        (("cutout", "ada", "cutout(p=0.5)"), "gan.augment has cutout twice"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(settings)
