import math

import numpy as np
import pytest

from jaxgen.core.conditioning import check_values
from jaxgen.data import ENDLESS, read_arrays
from jaxgen.data.sources import shapes
from jaxgen.data.sources.shapes import (
    COLORS,
    CONDITIONING,
    SHAPES,
    VOCABULARY,
    Factors,
    captions,
    draw_factors,
    positions,
    render,
    to_text,
)

WHITE, BLACK = list(COLORS).index("white"), list(COLORS).index("black")
AREAS = {
    "circle": math.pi,
    "square": 2.0,
    "diamond": 2.0,
    "triangle": 0.75 * math.sqrt(3),
    "cross": 2 * 1.9 * 0.6 - 0.6**2,
    "ring": math.pi * (1 - 0.5**2),
}


def one(shape, *, radius=0.3, x=0.5, y=0.5, color=WHITE, background=BLACK):
    integers = [np.array([value]) for value in (list(SHAPES).index(shape), color, background)]
    return Factors(*integers, *(np.array([value]) for value in (radius, x, y)))


def coverage(factors, image_size):
    """How much of each pixel the shape covers, from the picture of a white shape on black."""
    white, black = COLORS["white"][0], COLORS["black"][0]
    return (render(factors, image_size=image_size)[0, ..., 0].astype(float) - black) / (white - black)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_area_is_that_of_the_shape(shape):
    area = coverage(one(shape), 128).mean()
    assert area == pytest.approx(AREAS[shape] * 0.3**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_touches_its_circle_and_stays_inside(shape):
    covered = coverage(one(shape, x=0.4, y=0.6), 128) > 0.5
    centers = (np.arange(128) + 0.5) / 128
    distance = np.hypot(centers[None, :] - 0.4, centers[:, None] - 0.6)[covered]
    assert distance.max() == pytest.approx(0.3, abs=0.01)


def test_edges_are_antialiased():
    levels = coverage(one("circle"), 32)
    assert ((levels > 0.1) & (levels < 0.9)).sum() > 20


def test_the_triangle_points_up():
    rows = coverage(one("triangle"), 64).sum(axis=1)
    assert rows[24] < rows[40]


def test_colors_are_those_of_the_factors():
    picture = render(one("square", color=0, background=2), image_size=32)[0]
    assert tuple(picture[16, 16]) == COLORS["red"]
    assert tuple(picture[0, 0]) == COLORS["blue"]


def test_factors_are_uniform_and_within_their_bounds():
    factors = draw_factors(np.arange(20_000, dtype=np.uint64), seed=0, split="train")
    for index, count in ((factors.shape, len(SHAPES)), (factors.color, len(COLORS)), (factors.background, len(COLORS))):
        np.testing.assert_allclose(np.bincount(index, minlength=count) / 20_000, 1 / count, atol=0.01)
    assert (factors.color != factors.background).all()
    assert (factors.radius.min(), factors.radius.max()) == pytest.approx((0.12, 0.36), abs=1e-3)
    for center in (factors.x, factors.y):
        assert (np.minimum(center, 1 - center) >= factors.radius).all()
    independent = np.corrcoef([factors.shape, factors.color, factors.radius, factors.x, factors.y])
    np.testing.assert_allclose(independent, np.eye(5), atol=0.03)


def test_captions_say_what_is_shown():
    assert captions(one("circle", radius=0.35, color=0, background=2)) == ["a large red circle on a blue background"]
    assert captions(one("ring", radius=0.12, color=1, background=5)) == ["a small green ring on an orange background"]


def test_conditions_are_the_factors():
    data = shapes.load("train", seed=4)
    factors = draw_factors(np.arange(64, dtype=np.uint64), seed=4, split="train")
    arrays = read_arrays(data, limit=64, conditions=data.conditioning)
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "image": ((64, 32, 32, 3), "uint8"),
        "label": ((64,), "int32"),
        "color": ((64,), "int32"),
        "background": ((64,), "int32"),
        "caption": ((64, 8), "int32"),
        "position": ((64, 3), "float32"),
    }
    np.testing.assert_array_equal(arrays["label"], factors.shape)
    np.testing.assert_array_equal(arrays["color"], factors.color)
    np.testing.assert_array_equal(arrays["background"], factors.background)
    np.testing.assert_array_equal(arrays["position"], positions(factors))
    assert [to_text(caption) for caption in arrays["caption"]] == captions(factors)
    assert [example["text"] for example in data.examples.__getitems__(range(64))] == captions(factors)


def test_every_value_is_one_that_the_conditions_name():
    factors = draw_factors(np.arange(20_000, dtype=np.uint64), seed=0, split="train")
    arrays = shapes.conditions(factors)
    assert arrays.keys() == CONDITIONING.keys()
    check_values(CONDITIONING, arrays)
    for name in ("label", "color", "background", "caption"):
        assert set(np.unique(arrays[name])) == set(range(CONDITIONING[name].size)), name  # no class or word is unused
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 21


def test_positions_go_from_the_smallest_to_the_largest_and_from_edge_to_edge():
    np.testing.assert_allclose(positions(one("cross", radius=0.12, x=0.25, y=0.5)), [[-1, -0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(positions(one("cross", radius=0.36, x=0.5, y=0.75)), [[1, 0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(positions(one("cross", radius=0.3, x=0.0, y=1.0)), [[0.5, -1, 1]], atol=1e-6)


def test_tokens_are_places_in_the_vocabulary():
    words = ["a", "large", "red", "circle", "on", "a", "blue", "background"]
    (tokens,) = shapes.caption_tokens(one("circle", radius=0.35, color=0, background=2))
    np.testing.assert_array_equal(tokens, [VOCABULARY.index(word) for word in words])


def test_a_size_that_no_picture_has_is_refused():
    with pytest.raises(ValueError, match=r"data\.image_size is 0, but must be at least 1"):
        shapes.load("train", image_size=0)


def test_an_example_depends_on_its_index_alone():
    examples = shapes.load("train").examples
    alone = examples[10**15]
    among = examples.__getitems__([5, 10**15, 7])[1]
    assert alone["text"] == among["text"]
    np.testing.assert_array_equal(alone["image"], among["image"])
    assert alone["label"] == list(SHAPES).index(alone["text"].split()[3])


def test_splits_and_seeds_hold_different_pictures():
    def first(split, seed):
        return tuple(example["text"] for example in shapes.load(split, seed=seed).examples.__getitems__(range(8)))

    assert len({first("train", 0), first("test", 0), first("train", 1), first("test", 1)}) == 4


def test_train_is_endless_and_test_is_not():
    assert len(shapes.load("train").examples) == ENDLESS
    test = shapes.load("test").examples
    assert len(test) == 10_000
    with pytest.raises(IndexError):
        test[10_000]


def test_a_fingerprint_tells_the_options_apart_and_stands_for_these_pictures():
    """Features of the pictures are kept by it: where the pictures change, its version must."""
    options = [(split, size, seed) for split in ("train", "test") for size in (16, 32) for seed in (0, 3)]
    prints = [shapes.load(split, image_size=size, seed=seed).fingerprint for split, size, seed in options]
    assert len(set(prints)) == 8
    assert shapes.load("train", image_size=16, seed=3).fingerprint == prints[1]
    examples = shapes.load("train", image_size=16, seed=3).examples.__getitems__(range(64))
    assert shapes._VERSION == 1
    assert [int(example["label"]) for example in examples[:12]] == [2, 4, 0, 5, 1, 5, 4, 0, 0, 3, 2, 2]
    assert [int(example["color"]) for example in examples[:12]] == [7, 2, 6, 1, 4, 0, 0, 5, 6, 2, 6, 7]
    assert np.mean([example["image"] for example in examples]) == pytest.approx(132.7862, rel=1e-4)
