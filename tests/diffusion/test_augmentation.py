"""Augmentation: the official pipe's images and labels for its own draws, the draws, oblong and gray images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import DIRECTORY

from jaxgen.diffusion.training import augment_recipes, augmentation
from jaxgen.diffusion.training.augment_recipes import Recipe

PAIRS = ("translate_int", "translate_frac")


def official_draws(file, setting):
    """The draws of a setting by our names: values [n] or [n, 2], uniforms [n]."""
    prefix = f"input/{setting}/"
    raw = {key.removeprefix(prefix).split("_", 2)[2]: file[key] for key in file.files if key.startswith(prefix)}

    def pair(name, value, uniform):
        value = raw[value].reshape(2, -1).T if name in PAIRS else raw[value].reshape(-1)
        return jnp.asarray(value), jnp.asarray(raw[uniform].reshape(-1))

    names = [key.removesuffix("_value") for key in raw if key.endswith("_value")]
    draws = {name: pair(name, f"{name}_value", f"{name}_apply") for name in names}
    return draws | {"aniso_rotation": pair("aniso_rotation", "aniso_rotation", "aniso_rotate_apply")}


@pytest.mark.parametrize("setting", ["official", "official_p0.12", "all"])
def test_images_and_labels_are_those_of_the_official_pipe(setting):
    with np.load(DIRECTORY / "edm_augment.npz") as file:
        multipliers = json.loads(file["meta"].item())["settings"][setting]
        p = multipliers.pop("p")
        recipe = Recipe(**{name: multiplier * p for name, multiplier in multipliers.items()})
        draws, images = official_draws(file, setting), np.moveaxis(file["input/images"], 1, -1)
        expected, labels = np.moveaxis(file[f"output/{setting}/images"], 1, -1), file[f"output/{setting}/labels"]
    named = augment_recipes.everything if setting == "all" else augment_recipes.edm
    assert named(probability=p).names == recipe.names
    ours, our_labels = jax.jit(lambda *inputs: augmentation.augment_with(*inputs, recipe))(draws, jnp.asarray(images))
    assert np.abs(ours - expected).max() <= 1e-3 * expected.std()
    np.testing.assert_allclose(our_labels, labels, atol=1e-5)


def test_recipes():
    edm, everything = augment_recipes.edm(probability=0.3), augment_recipes.everything(probability=0.3)
    assert edm == Recipe(1.0, 0.3, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert everything == Recipe(*[0.3] * 13)
    assert (edm.num_labels, everything.num_labels, Recipe(yflip=0.1, hue=0.2).num_labels) == (9, 19, 3)
    assert everything.names == Recipe._fields


KEYS = jax.random.split(jax.random.key(0), 3000)


def test_draws_have_their_distributions_and_are_independent():
    draws = jax.jit(jax.vmap(augmentation.draw))(KEYS)
    assert set(draws) == {*Recipe._fields, "aniso_rotation"}
    for name, choices in (("xflip", 2), ("yflip", 2), ("lumaflip", 2), ("rotate_int", 4)):
        values, counts = np.unique(draws[name][0], return_counts=True)
        np.testing.assert_array_equal(values, np.arange(choices))
        np.testing.assert_allclose(counts / 3000, 1 / choices, atol=0.04)
    uniforms = ["translate_int", "rotate_frac", "aniso_rotation", "hue"]
    normals = ["scale", "aniso", "translate_frac", "brightness", "contrast", "saturation"]
    for names, moments in ((uniforms, (0.5, 12**-0.5)), (normals, (0.0, 1.0))):
        for name in names:
            value = draws[name][0]
            assert value.shape == ((3000, 2) if name in PAIRS else (3000,))
            np.testing.assert_allclose((value.mean(), value.std()), moments, atol=0.05)
    columns = np.concatenate([np.reshape(leaf, (3000, -1)) for leaf in jax.tree.leaves(draws)], axis=1)
    assert columns.shape == (3000, 2 * 14 + 2)
    np.testing.assert_allclose(np.corrcoef(columns, rowvar=False), np.eye(30), atol=0.1)
    assert all(((uniform >= 0.0) & (uniform < 1.0)).all() for _, uniform in draws.values())


def test_each_transformation_is_applied_with_its_probability_to_an_image_whatever_its_batch():
    images = jax.random.normal(jax.random.key(1), (300, 4, 4, 1))
    recipe = Recipe(xflip=1.0, yflip=0.5, scale=0.4, aniso=0.8)
    call = jax.jit(lambda keys, images: augmentation.augment(keys, images, recipe))
    augmented, labels = call(KEYS[:300], images)
    np.testing.assert_allclose((labels != 0.0).mean(axis=0), [0.5, 0.25, 0.4, 0.8, 0.4], atol=0.08)
    unchanged = (labels == 0.0).all(axis=1)
    assert unchanged.sum() > 5
    np.testing.assert_allclose(augmented[unchanged], images[unchanged], atol=1e-5)
    assert np.abs(augmented - images)[~unchanged].max(axis=(1, 2, 3)).min() > 1e-3
    part, part_labels = call(KEYS[3:5], images[3:5])
    np.testing.assert_allclose(part, augmented[3:5], atol=1e-5)
    np.testing.assert_allclose(part_labels, labels[3:5], atol=1e-6)
    other, _ = call(jax.vmap(lambda key: jax.random.fold_in(key, 1))(KEYS[3:5]), images[3:5])
    assert np.abs(other - part).max() > 0.1


def one(image, recipe, **values):
    """One image with given values, all of them applied."""
    draws = {name: (jnp.asarray(value)[None], jnp.zeros(1)) for name, value in values.items()}
    images = jnp.asarray(image, jnp.float32)[None]
    images, labels = jax.jit(lambda *inputs: augmentation.augment_with(*inputs, recipe))(draws, images)
    return np.asarray(images[0]), np.asarray(labels[0])


OBLONG = np.random.default_rng(0).normal(size=(8, 16, 1))


def test_moves_by_whole_pixels_are_parts_of_each_side_and_mirror_the_border():
    moved, labels = one(OBLONG, Recipe(translate_int=1.0), translate_int=[0.8, 0.0])  # 1.2 of 2 pixels right, 1 down
    y, x = np.abs(np.arange(8) - 1), np.abs(np.arange(16) - 1)
    np.testing.assert_array_equal(moved, OBLONG[y][:, x].astype(np.float32))
    np.testing.assert_allclose(labels, [0.5, -1.0])


def test_fractional_moves_are_parts_of_each_side():
    y, x = np.meshgrid(np.arange(24.0), np.arange(40.0), indexing="ij")
    moved, labels = one(np.stack([x, y], axis=-1), Recipe(translate_frac=1.0), translate_frac=[1.0, -0.5])
    np.testing.assert_allclose(moved[12, 20], [20 - 0.125 * 40, 12 + 0.0625 * 24], atol=0.03)
    np.testing.assert_array_equal(labels, [1.0, -0.5])


def test_colors_of_a_gray_image_change_by_the_mean_over_colors():
    values = {"brightness": 0.7, "contrast": -0.6, "lumaflip": 1, "hue": 0.9, "saturation": 0.4}
    recipe = Recipe(brightness=1.0, contrast=1.0, lumaflip=1.0, hue=1.0, saturation=1.0)
    gray, labels = one(OBLONG, recipe, **values)
    rgb, rgb_labels = one(np.repeat(OBLONG, 3, axis=-1), recipe, **values)
    np.testing.assert_allclose(gray, rgb.mean(axis=-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(gray, -(2.0**-0.3) * (OBLONG + 0.14), atol=1e-5)
    angle = 0.8 * np.pi
    np.testing.assert_allclose(labels, [0.7, -0.6, 1.0, np.cos(angle) - 1.0, np.sin(angle), 0.4], atol=1e-6)
    np.testing.assert_array_equal(labels, rgb_labels)


def test_the_setting_names_a_recipe():
    assert augmentation.make_recipe("edm", 0.0, (8, 8, 5)) is None
    assert augmentation.make_recipe("edm", 1.0, (8, 6, 5)) == augment_recipes.edm(probability=1.0)
    assert augmentation.make_recipe("everything", 0.2, (2, 2, 1)) == augment_recipes.everything(probability=0.2)
    assert augmentation.make_recipe("everything", 0.2, (2, 2, 3)) == augment_recipes.everything(probability=0.2)


@pytest.mark.parametrize(
    ("text", "probability", "shape", "message"),
    [
        ("edn", 0.1, (8, 8, 3), r"diffusion\.augment.*everything"),
        ("edn", 0.0, (8, 8, 3), r"diffusion\.augment.*everything"),
        ("edm", 1.1, (8, 8, 3), r"augment_probability is 1\.1, but must lie in \[0, 1\]"),
        ("edm", -0.1, (8, 8, 3), r"augment_probability is -0\.1"),
        ("everything", 0.0, (8, 8, 3), "'everything', which needs a positive"),
        ("everything", 0.1, (8, 6, 3), "square images, not 8x6"),
        ("everything", 0.1, (8, 8, 2), "1 or 3 channels, not 2"),
        ("edm", 0.1, (1, 8, 3), "sides of 2 pixels, not 1x8"),
        ("edm", 0.1, (8, 1, 3), "sides of 2 pixels, not 8x1"),
    ],
)
def test_what_augmentation_cannot_do_is_refused(text, probability, shape, message):
    with pytest.raises(ValueError, match=message):
        augmentation.make_recipe(text, probability, shape)
