"""The transformations of the pipe of adaptive augmentation, by their official names, and how strong each of them is."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxgen.core import recoloring
from jaxgen.core.config import call, choose

GROUPS = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
"""Classes of transformations, each an official pipe of its own."""

COMBINED = {
    "bg": ("blit", "geom"),
    "bgc": ("blit", "geom", "color"),
    "bgcf": ("blit", "geom", "color", "filter"),
    "bgcfn": ("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": ("blit", "geom", "color", "filter", "noise", "cutout"),
}
"""The official pipes of several groups."""

BETWEEN_CHANNELS = ("hue", "saturation")
"""Transformations that do nothing to images of one channel."""

Strengths = str | Mapping[str, float]
RangeSettings = Mapping[str, float | tuple[float, ...]]
NO_RANGES: RangeSettings = MappingProxyType({})
"""For defaults of arguments: all ranges are the official ones."""


class Multipliers(NamedTuple):
    """Factors of the probability p with which each transformation is drawn; 0 leaves it out.

    Attributes:
      xflip: left and right exchanged, in half of the draws.
      rotate90: 0, 1, 2 or 3 quarter turns.
      xint: a move by whole pixels, uniform up to `xint_max` of each side either way.
      scale: both sides divided by 2^w, w ~ N(0, scale_std^2).
      rotate: a rotation by up to `rotate_max` half turns either way, before `aniso`, after it, or both; one of them has
        probability `rotate` * p.
      aniso: the sides divided by 2^w and 2^(-w), w ~ N(0, aniso_std^2).
      xfrac: a move by w of each side, w ~ N(0, xfrac_std^2).
      brightness: w added to all colors in [-1, 1], w ~ N(0, brightness_std^2).
      contrast: colors times 2^w, w ~ N(0, contrast_std^2).
      lumaflip: the mean of the colors negated, in half of the draws.
      hue: colors turned by up to `hue_max` half turns either way about the gray axis.
      saturation: the distance from the gray axis times 2^w, w ~ N(0, saturation_std^2).
      imgfilter: each of four bands of frequencies times 2^w, w ~ N(0, imgfilter_std^2), the power kept.
      noise: normal noise of standard deviation |w| on each value, w ~ N(0, noise_std^2).
      cutout: 0 within a rectangle of `cutout_size` of each side, centered anywhere in the image.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0


class Ranges(NamedTuple):
    """Reaches and standard deviations of the transformations, whose names they begin with; see `Multipliers`.

    The defaults are the official ones. `imgfilter_bands` has further factors of the probability, one for each band from
    the lowest frequencies to the highest.
    """

    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5


class Pipe(NamedTuple):
    """Transformations with their strengths; at an overall probability p, each has the probability p times its own."""

    multipliers: Multipliers
    ranges: Ranges = Ranges()

    @property
    def names(self) -> frozenset[str]:
        """The transformations that may be drawn."""
        return frozenset(name for name, factor in self.multipliers._asdict().items() if factor > 0.0)


def make_pipe(
    transforms: Strengths, ranges: RangeSettings, image_shape: tuple[int, int, int], *, where: str = "gan.augment"
) -> Pipe:
    """Reads the settings of a pipe.

    Args:
      transforms: an official name such as "bgc" (`GROUPS`, `COMBINED`), or multipliers of groups and of single
        transformations; the latter go before those of their groups: {"blit": 1.0, "color": 0.5, "hue": 0.0}.
      ranges: fields of `Ranges` and their values, where they are not the official ones.
      image_shape: height, width and channels of the images.
      where: the setting's path in the config, for error messages.

    Raises:
      ValueError: if a name is unknown, a number out of range, a setting without effect, or a transformation cannot take
        the images.
    """
    pipe = Pipe(_multipliers(transforms, where), _ranges(ranges, where))
    _check_effects(pipe, transforms, ranges, image_shape, where)
    return pipe


def _multipliers(transforms: Strengths, where: str) -> Multipliers:
    if isinstance(transforms, str):
        named = {name: (name,) for name in GROUPS} | COMBINED
        groups = choose(named, transforms, where=f"{where}: transforms")
        transforms = dict.fromkeys(groups, 1.0)
    factors: dict[str, float] = {}
    options = dict.fromkeys((*GROUPS, *Multipliers._fields))
    for name, factor in transforms.items():
        choose(options, name, where=f"{where}: a name in transforms")
        if not 0.0 <= factor < math.inf:
            raise ValueError(f"{where}: the multiplier of {name} is {factor}, but must be at least 0 and finite.")
        factors |= dict.fromkeys(GROUPS.get(name, ()), factor)
    factors |= {name: factor for name, factor in transforms.items() if name not in GROUPS}
    if not any(factors.values()):
        raise ValueError(f"{where}: transforms is {dict(transforms)}, but must give one of them a positive multiplier.")
    return Multipliers(**factors)


def _ranges(ranges: RangeSettings, where: str) -> Ranges:
    for name, value in ranges.items():
        values = value if isinstance(value, tuple) else (value,)
        if not all(0.0 <= number < math.inf for number in values) or not any(values):
            raise ValueError(f"{where}: {name} is {value}, but must be positive: leave the transformation out instead.")
    return call(Ranges, ranges, where=f"{where}: ranges")


def _check_effects(
    pipe: Pipe, transforms: Strengths, ranges: RangeSettings, image_shape: tuple[int, int, int], where: str
) -> None:
    height, width, channels = image_shape
    for name in ranges:
        if name.partition("_")[0] not in pipe.names:
            raise ValueError(
                f"{where}: {name} is set, but has no effect without {name.partition('_')[0]}: leave it out."
            )
    if pipe.names & {*GROUPS["blit"], *GROUPS["geom"], "imgfilter"} and min(height, width) < 2:
        raise ValueError(f"{where} mirrors borders, which needs sides of 2 pixels, not {height}x{width}.")
    if pipe.names & set(GROUPS["color"]) and channels not in recoloring.CHANNELS:
        raise ValueError(f"{where} changes colors, which needs 1 or 3 channels, not {channels}: leave color out.")
    if channels == 1 and not isinstance(transforms, str):
        for name in BETWEEN_CHANNELS:
            if transforms.get(name):
                raise ValueError(f"{where}: {name} has no effect on images of one channel: leave it out.")
