"""Procedural data: one plain shape a picture, of known factors, with a caption. Endless, and a function of the seed.

Beside the class of the shape, `label`, an example has the conditions `color` and `background` (indices into `COLORS`),
`caption` (indices into `VOCABULARY`), and `position` (radius and center, from -1 to 1).
"""

import dataclasses
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8, UInt64

from jaxgen.core.conditioning import Conditions, classes, tokens, vector
from jaxgen.data.dataset import ENDLESS, Dataset, Example, Facts

_VERSION = 1  # another number for other pictures of the same options
_NUM_TEST = 10_000
_RADII = (0.12, 0.36)
_SIZES = ("small", "medium", "large")

COLORS = {
    "red": (220, 40, 50),
    "green": (50, 170, 75),
    "blue": (40, 80, 220),
    "yellow": (250, 220, 50),
    "purple": (140, 40, 170),
    "orange": (245, 130, 40),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}


class Factors(NamedTuple):
    """The factors of variation of n pictures.

    Lengths are fractions of the side of a picture, with the origin at its upper left.

    Attributes:
      shape: index into `SHAPES`; this is the label.
      color: index into `COLORS`.
      background: index into `COLORS`, never that of the shape.
      radius: of the circle around the shape, 0.12 to 0.36.
      x: the shape's center, such that its circle lies inside the picture.
      y: likewise.
    """

    shape: Int[np.ndarray, " n"]
    color: Int[np.ndarray, " n"]
    background: Int[np.ndarray, " n"]
    radius: Float[np.ndarray, " n"]
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]


def load(split: str, *, image_size: int = 32, seed: int = 0) -> Dataset:
    """Opens the shapes: `image_size` squared, RGB, labeled by shape, with captions.

    Args:
      split: "train" is endless; "test" has 10,000 others.
      image_size: height and width.
      seed: another number gives other pictures.

    Raises:
      ValueError: if the size is not positive.
    """
    if image_size < 1:
        raise ValueError(f"data.image_size is {image_size}, but must be at least 1.")
    return Dataset(
        Shapes(split, seed, image_size),
        (image_size, image_size, 3),
        CONDITIONING,
        tuple(SHAPES),
        fingerprint=f"shapes, version {_VERSION}, {split}, seed {seed}, {image_size}x{image_size}",
    )


def facts(*, image_size: int = 32, seed: int = 0) -> Facts:
    """Returns shape and conditions of the pictures; the arguments are those of `load`."""
    return load("train", image_size=image_size, seed=seed).facts


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The examples of one split; they also carry the caption in words, `text`."""

    split: str
    seed: int
    image_size: int

    def __len__(self) -> int:
        return ENDLESS if self.split == "train" else _NUM_TEST

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        if not all(0 <= index < len(self) for index in indices):
            raise IndexError(f"There are {len(self)} shapes in this split.")
        factors = draw_factors(np.asarray(indices, np.uint64), seed=self.seed, split=self.split)
        own = conditions(factors)
        text = [to_text(caption) for caption in own["caption"]]
        arrays = {"image": render(factors, image_size=self.image_size), **own, "text": text}
        return [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]


def draw_factors(indices: UInt64[np.ndarray, " n"], *, seed: int, split: str) -> Factors:
    """Draws the factors of examples: each independent and uniform, given that the shape fits and can be seen."""

    def uniform(name: str) -> Float[np.ndarray, " n"]:
        return _hashed_uniform(indices, f"{seed}/{split}/{name}")

    color = (uniform("color") * len(COLORS)).astype(np.int32)
    other = 1 + (uniform("background") * (len(COLORS) - 1)).astype(np.int32)
    radius = _RADII[0] + (_RADII[1] - _RADII[0]) * uniform("radius")
    return Factors(
        shape=(uniform("shape") * len(SHAPES)).astype(np.int32),
        color=color,
        background=(color + other) % len(COLORS),
        radius=radius,
        x=radius + (1 - 2 * radius) * uniform("x"),
        y=radius + (1 - 2 * radius) * uniform("y"),
    )


def render(factors: Factors, *, image_size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """Draws the pictures, antialiased: a pixel is covered as far as the shape's edge is inside it, to first order."""
    centers = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    at_x, at_y, radius = (factor.astype(np.float32)[:, None, None] for factor in (factors.x, factors.y, factors.radius))
    x, y = np.broadcast_arrays((centers[None, None, :] - at_x) / radius, (centers[None, :, None] - at_y) / radius)
    distance = np.empty(x.shape, np.float32)
    for label, signed_distance in enumerate(SHAPES.values()):
        rows = factors.shape == label
        distance[rows] = signed_distance(x[rows], y[rows])
    coverage = np.clip(0.5 - distance * radius * image_size, 0.0, 1.0)[..., None]
    palette = np.array(list(COLORS.values()), np.float32)
    color, background = (palette[index][:, None, None, :] for index in (factors.color, factors.background))
    return np.rint(background + coverage * (color - background)).astype(np.uint8)


def conditions(factors: Factors) -> dict[str, np.ndarray]:
    """Returns the arrays of `CONDITIONING` for n pictures."""
    return {
        "label": factors.shape,
        "color": factors.color,
        "background": factors.background,
        "caption": caption_tokens(factors),
        "position": positions(factors),
    }


def positions(factors: Factors) -> Float32[np.ndarray, "n 3"]:
    """Returns radius, x and y, scaled to [-1, 1]: radii from the smallest to the largest, centers from edge to edge."""
    radius = 2 * (factors.radius - _RADII[0]) / (_RADII[1] - _RADII[0]) - 1
    return np.stack([radius, 2 * factors.x - 1, 2 * factors.y - 1], axis=-1).astype(np.float32)


def caption_tokens(factors: Factors) -> Int32[np.ndarray, "n words"]:
    """Returns what the pictures show, in words of `VOCABULARY`."""
    thirds = (factors.radius - _RADII[0]) / (_RADII[1] - _RADII[0]) * len(_SIZES)
    sizes = _words(_SIZES)[np.minimum(thirds.astype(int), len(_SIZES) - 1)]
    colors, articles = _words(tuple(COLORS)), _words(tuple(map(_article, COLORS)))
    a, on, background = (np.full(len(sizes), VOCABULARY.index(word)) for word in ("a", "on", "background"))
    color, shape = colors[factors.color], _words(tuple(SHAPES))[factors.shape]
    of_background = articles[factors.background], colors[factors.background]
    return np.stack([a, sizes, color, shape, on, *of_background, background], axis=-1).astype(np.int32)


def to_text(caption: Int[np.ndarray, " words"]) -> str:
    """Returns the words that a caption's tokens stand for, such as "a large red circle on a blue background"."""
    return " ".join(VOCABULARY[token] for token in caption)


def captions(factors: Factors) -> list[str]:
    """Returns what the pictures show, in words."""
    return [to_text(caption) for caption in caption_tokens(factors)]


def _words(words: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.array([VOCABULARY.index(word) for word in words])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _hashed_uniform(indices: UInt64[np.ndarray, " n"], stream: str) -> Float[np.ndarray, " n"]:
    """Element `index` of a named stream of uniform numbers, by SplitMix64 (Steele et al. 2014) in random access."""
    start = np.frombuffer(blake2b(stream.encode(), digest_size=8).digest(), np.uint64)
    bits: np.ndarray = start + indices * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


# Signed distances to shapes whose circumscribed circle is the unit circle; y points down.
_Plane = Float[np.ndarray, "m h w"]


def _circle(x: _Plane, y: _Plane) -> _Plane:
    return np.hypot(x, y) - 1


def _square(x: _Plane, y: _Plane) -> _Plane:
    return np.maximum(abs(x), abs(y)) - 0.5**0.5


def _diamond(x: _Plane, y: _Plane) -> _Plane:
    return (abs(x) + abs(y) - 1) * 0.5**0.5


def _triangle(x: _Plane, y: _Plane) -> _Plane:
    return np.maximum(y, 0.75**0.5 * abs(x) - 0.5 * y) - 0.5


def _cross(x: _Plane, y: _Plane) -> _Plane:
    across, along = np.maximum(abs(x) - 0.95, abs(y) - 0.3), np.maximum(abs(x) - 0.3, abs(y) - 0.95)
    return np.minimum(across, along)


def _ring(x: _Plane, y: _Plane) -> _Plane:
    return abs(np.hypot(x, y) - 0.75) - 0.25


SHAPES: dict[str, Callable[[_Plane, _Plane], _Plane]] = {
    "circle": _circle,
    "square": _square,
    "diamond": _diamond,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}

VOCABULARY = ("a", "an", "on", "background", *_SIZES, *COLORS, *SHAPES)
"""The words of captions; the index of a word is its token."""

CONDITIONING: Conditions = {
    "label": classes(len(SHAPES)),
    "color": classes(len(COLORS)),
    "background": classes(len(COLORS)),
    "caption": tokens(8, len(VOCABULARY)),
    "position": vector(3),
}
