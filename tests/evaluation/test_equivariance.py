"""Equivariance on generators of known behavior: waves that move with their coordinates, and others that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.evaluation import equivariance as eq
from jaxgen.nn.stylegan2_generator import Generator as StyleGAN2
from jaxgen.nn.stylegan3_generator import Generator as StyleGAN3

SIDE = 32
FREQUENCIES = jnp.array([[1.7, -0.6], [0.4, 2.3], [-2.0, 1.1]])
KEYS = jax.random.split(jax.random.key(3), 3)


def coordinates():
    x = (jnp.arange(SIDE) + 0.5 - SIDE / 2) / SIDE
    return jnp.stack([*jnp.meshgrid(x, x), jnp.ones((SIDE, SIDE))])


def waves(transforms):
    """A slow wave in each channel, whose coordinates are transformed."""
    points = jnp.einsum("bij,jhw->bihw", transforms, coordinates())[:, :2]
    return jnp.sin(2.0 * jnp.pi * jnp.einsum("ci,bihw->bhwc", FREQUENCIES, points) + 0.3)


def at(angle=0.0, shift=(0.0, 0.0)):
    """The wave, rotated and then moved by pixels."""
    matrix = jnp.eye(3).at[:2, :2].set(eq.rotation_matrix(jnp.asarray(-angle)))
    return waves((matrix @ jnp.eye(3).at[:2, 2].set(-jnp.asarray(shift) / SIDE))[None])[0]


def error_inside(image, expected, mask):
    return np.abs(np.asarray((image - expected) * mask[..., None])).max()


def test_translation_by_whole_pixels_moves_x_to_the_right_and_y_down():
    image = at()
    moved, mask = eq.translate_whole(image, jnp.array([3.0, -2.0]))
    np.testing.assert_allclose(moved[:-2, 3:], image[2:, :-3], atol=1e-6)
    expected = np.zeros((SIDE, SIDE))
    expected[:-2, 3:] = 1.0
    np.testing.assert_array_equal(mask, expected)


def test_translation_by_fractions_of_pixels_keeps_slow_waves():
    image, shift = at(), jnp.array([2.3, -1.6])
    moved, mask = jax.jit(eq.translate)(image, shift)
    assert error_inside(moved, at(shift=shift), mask) < 0.02
    assert float(jnp.abs(moved - image).max()) > 0.5
    rows, columns = np.flatnonzero(mask.max(1)), np.flatnonzero(mask.max(0))
    # Lanczos windows of 3 pixels: from floor(shift) + 3 on, up to the side + floor(shift) - 2.
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (5, SIDE - 1, 1, SIDE - 5)
    np.testing.assert_allclose(
        eq.translate(jnp.ones((SIDE, SIDE, 1)), shift)[0] * mask[..., None], mask[..., None], atol=1e-5
    )


@pytest.mark.parametrize("angle", [0.5, -2.0])
def test_rotation_turns_waves_and_its_pseudo_rotation_leaves_them(angle):
    image = at()
    rotated, mask = jax.jit(eq.rotate)(image, jnp.asarray(angle))
    assert error_inside(rotated, at(angle), mask) < 0.03
    assert float((jnp.abs(rotated - image) * mask[..., None]).max()) > 0.5
    same, inside = jax.jit(eq.pseudo_rotate)(image, jnp.asarray(angle))
    assert error_inside(same, image, inside) < 0.03
    np.testing.assert_array_equal(inside[5:-5, 5:-5], np.ones((SIDE - 10, SIDE - 10)))
    assert inside.sum() == (SIDE - 10) ** 2
    radius = jnp.linalg.norm(SIDE * coordinates()[:2], axis=0)
    assert mask[radius < SIDE / 2 - 7].min() == 1.0
    assert mask.sum() < (SIDE - 10) ** 2


def test_pixels_inside_of_a_square_of_the_turned_image_are_compared():
    """They lie 6 pixels from its border, as far as the filter reaches."""
    mask = jax.jit(eq.rotate)(at(), jnp.zeros(()))[1]
    expected = np.zeros((SIDE, SIDE))
    expected[6:-6, 6:-6] = 1.0
    np.testing.assert_array_equal(mask, expected)


def test_a_wave_passes_that_is_a_fine_one_on_both_grids_and_not_its_mirror_image():
    """The first has at most 0.44 periods a pixel along each axis of both grids, the second 0.52 along one."""
    angle = jnp.asarray(0.5)
    x, y = SIDE * coordinates()[:2]
    fine, mirrored = (jnp.cos(2 * jnp.pi * (0.45 * x + sign * 0.25 * y))[..., None] for sign in (-1, 1))

    def strength(image, mask):
        return float(jnp.sqrt(jnp.sum(image[..., 0] ** 2 * mask) / jnp.sum(mask)))

    rotate = jax.jit(eq.rotate)
    assert strength(*rotate(fine, angle)) > 1.3 * strength(*rotate(mirrored, angle))


def test_a_pseudo_rotation_filters_by_the_way_back():
    """An image that is turned already: its impulse becomes the filter of the opposite rotation."""
    angle = jnp.asarray(0.5)
    impulse = jnp.zeros((SIDE, SIDE, 1)).at[16, 16].set(1.0)
    filtered = jax.jit(eq.pseudo_rotate)(impulse, angle)[0][11:22, 11:22, 0]
    back = jax.jit(eq.affine_lowpass, static_argnames="up")(eq.rotation_matrix(-angle), up=1)
    np.testing.assert_allclose(filtered, back, atol=1e-6)
    assert np.abs(filtered - back[::-1]).max() > 0.01  # which the other way would be


def test_a_bandlimit_of_no_rotation_is_that_of_both_grids():
    """Without rotation, phases of the filter sum to a constant, and it passes waves below the Nyquist frequency."""
    taps = jax.jit(eq.affine_lowpass, static_argnames="up")(jnp.eye(2), up=4)
    assert taps.shape == (47, 47)
    np.testing.assert_allclose(taps, taps.T, atol=1e-6)
    padded = np.pad(np.asarray(taps), ((0, 1), (0, 1))).reshape(12, 4, 12, 4)
    np.testing.assert_allclose(padded.sum((0, 2)), np.full((4, 4), 1 / 16), rtol=1e-5)
    turned = jax.jit(eq.affine_lowpass, static_argnames="up")(eq.rotation_matrix(jnp.asarray(0.6)), up=1)
    assert turned.shape == (11, 11)
    assert float(turned.sum()) == pytest.approx(1.0, abs=1e-5)
    # At a corner of the frequency plane, no rotated grid can follow: the response is near zero there alone.
    signs = (-1.0) ** np.arange(11)
    assert abs(float(jnp.sum(turned * np.outer(signs, signs)))) < 0.05
    assert float(jax.jit(eq.affine_lowpass, static_argnames="up")(jnp.eye(2), up=1)[5, 5]) > 0.5


def test_a_generator_that_moves_with_its_coordinates_scores_high_and_another_one_low():
    moving = eq.equivariance(jax.jit(lambda: eq.squared_errors(KEYS, waves))())
    still = eq.equivariance(jax.jit(lambda: eq.squared_errors(KEYS, lambda t: waves(jnp.eye(3)[None].repeat(3, 0))))())
    assert moving.translation > 100.0
    assert moving.fractional_translation > 45.0
    assert moving.rotation > 40.0
    assert max(still) < 20.0


def test_translations_and_rotations_are_spread_evenly_over_all_that_are_measured():
    """At most an eighth of the width, by whole pixels and by others; by any angle, whose inverse is asked for."""

    def transformations(keys):
        def record(transforms):
            seen.append(transforms)
            return jnp.zeros((len(transforms), SIDE, SIDE, 1))

        seen = []
        eq.squared_errors(keys, record)
        return seen

    first, turned, whole, parts = jax.jit(transformations)(jax.random.split(jax.random.key(4), 400))
    np.testing.assert_array_equal(first, np.tile(np.eye(3), (400, 1, 1)))
    pixels, fractions = -SIDE * np.asarray(whole[:, :2, 2]), -SIDE * np.asarray(parts[:, :2, 2])
    np.testing.assert_array_equal(pixels, np.round(pixels))
    assert (pixels.min(), pixels.max()) == (-SIDE / 8, SIDE / 8)
    assert np.abs(fractions - np.round(fractions)).max() > 0.4
    angles = np.arctan2(turned[:, 1, 0], turned[:, 0, 0])
    for values, largest in ((fractions[:, 0], SIDE / 8), (fractions[:, 1], SIDE / 8), (angles, np.pi)):
        assert 0.97 * largest < np.abs(values).max() <= largest
        shares = np.histogram(values, 4, (-largest, largest))[0] / 400
        np.testing.assert_allclose(shares, 0.25, atol=0.08)
    draws = np.stack([*pixels.T, *fractions.T, angles])
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(5), atol=0.2)


def test_the_ratio_is_of_the_range_of_two_and_errors_of_batches_add_up():
    """An image that is off by 0.02 everywhere: 20 log10(2 / 0.02) = 40 dB."""

    def off(transforms):
        moved = jnp.any(transforms != jnp.eye(3)[None], axis=(1, 2))
        return jnp.where(moved[:, None, None, None], 0.02, 0.0) * jnp.ones((len(transforms), SIDE, SIDE, 2))

    one, other = (jax.jit(lambda keys: eq.squared_errors(keys, off))(keys) for keys in (KEYS[:2], KEYS[2:]))
    both = jax.jit(lambda keys: eq.squared_errors(keys, off))(KEYS)
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a + b, c, rtol=1e-4), one, other, both)
    np.testing.assert_allclose(eq.equivariance(both), 40.0, atol=0.02)


def stylegan2():
    """StyleGAN2 with random weights; its constant input, of 4x4 pixels, is moved and rotated as the image is."""
    network = StyleGAN2((SIDE, SIDE, 3), latent_dim=8, w_dim=8, channel_base=128, channel_max=8, num_mapping_layers=1)
    variables = jax.jit(lambda: network.init(jax.random.key(1), jnp.zeros((1, 8)), train=False))()
    params = variables["params"]
    x = (jnp.arange(4) + 0.5 - 2.0) / 4.0
    grid = jnp.stack([*jnp.meshgrid(x, x), jnp.ones((4, 4))])

    def moved(const, transform):
        where = jnp.einsum("ij,jhw->ihw", transform, grid)[1::-1] * 4.0 + 1.5
        return jnp.stack([jax.scipy.ndimage.map_coordinates(c, where, order=1, mode="nearest") for c in const.T], -1)

    def image_at(transform, z):
        first = params["synthesis"]["b4"]
        b4 = {**first, "const": moved(first["const"].swapaxes(0, 1), transform)}
        other = {**params, "synthesis": {**params["synthesis"], "b4": b4}}
        return network.apply({**variables, "params": other}, z[None], train=False)[0]

    return lambda transforms, z: jax.vmap(image_at)(transforms, z)


def stylegan3_r():
    options = {"kernel_size": 1, "radial_filters": True, "num_layers": 4, "margin": 6}
    network = StyleGAN3((SIDE, SIDE, 3), latent_dim=8, w_dim=8, channel_base=512, channel_max=16, **options)
    variables = jax.jit(lambda: network.init(jax.random.key(1), jnp.zeros((1, 8)), train=False))()

    def images_at(transforms, z):
        ws = network.apply(variables, z, method="styles")
        return network.apply(variables, ws, transform=transforms, method="synthesize")

    return images_at


@pytest.mark.soak
def test_stylegan3_r_is_more_equivariant_than_stylegan2_with_random_weights():
    z = jax.random.normal(jax.random.key(2), (len(KEYS), 8))
    scores = []
    for make in (stylegan2, stylegan3_r):
        generator = jax.jit(make())
        amplitude = generator(jnp.tile(jnp.eye(3)[None], (len(KEYS), 1, 1)), z).std()
        errors = eq.squared_errors(KEYS, lambda t, g=generator, a=amplitude: g(t, z) / a)
        scores.append(eq.equivariance(errors))
    for worse, better in zip(*scores, strict=True):
        assert better > max(worse + 10.0, 30.0)
