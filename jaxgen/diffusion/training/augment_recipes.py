"""Recipes of augmentation, which `diffusion.augment` names: the probability of each transformation."""

from typing import NamedTuple

TWO_LABELS = ("rotate_int", "translate_int", "rotate_frac", "aniso", "translate_frac", "hue")
GEOMETRY = ("scale", "rotate_frac", "aniso", "translate_frac")
COLORS = ("brightness", "contrast", "lumaflip", "hue", "saturation")


class Recipe(NamedTuple):
    """The probability with which each transformation is drawn, in the order in which they are applied and labeled.

    Attributes:
      xflip: left and right exchanged, in half of the draws.
      yflip: up and down exchanged, in half of the draws.
      rotate_int: 0, 1, 2 or 3 quarter turns.
      translate_int: a move by whole pixels, uniform up to 1/8 of the side either way.
      scale: both sides times 2^(0.2 w), w ~ N(0, 1).
      rotate_frac: a rotation by any angle.
      aniso: the sides times 2^(0.2 w) and 2^(-0.2 w), in half of the draws along axes turned by any angle.
      translate_frac: a move by w / 8 of each side, w ~ N(0, 1).
      brightness: 0.2 w added to all colors in [-1, 1], w ~ N(0, 1).
      contrast: colors times 2^(0.5 w), w ~ N(0, 1).
      lumaflip: the mean of the colors negated, in half of the draws.
      hue: colors turned by any angle about the gray axis.
      saturation: the distance from the gray axis times 2^w, w ~ N(0, 1).
    """

    xflip: float = 0.0
    yflip: float = 0.0
    rotate_int: float = 0.0
    translate_int: float = 0.0
    scale: float = 0.0
    rotate_frac: float = 0.0
    aniso: float = 0.0
    translate_frac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The transformations of positive probability."""
        return tuple(name for name, probability in self._asdict().items() if probability > 0.0)

    @property
    def num_labels(self) -> int:
        """The length of the vector of labels."""
        return sum(2 if name in TWO_LABELS else 1 for name in self.names)


def edm(*, probability: float) -> Recipe:
    """The recipe of EDM's training: geometry with 9 labels; a flip of left and right is always drawn."""
    p = probability
    return Recipe(xflip=1.0, yflip=p, scale=p, rotate_frac=p, aniso=p, translate_frac=p)


def everything(*, probability: float) -> Recipe:
    """Every transformation of the official code, 19 labels."""
    return Recipe(*[probability] * len(Recipe._fields))
