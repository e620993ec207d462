"""The levels of pixels that a likelihood is the probability of, from the setting `levels` of a method."""

from typing import NamedTuple

from jaxtyping import Array, Float

from jaxgen.core.contract import ModelSpec
from jaxgen.core.images import nearest_level


class LikelihoodLevels(NamedTuple):
    """The levels of a likelihood.

    Attributes:
      number: of levels, which [-1, 1] is evenly divided into.
      others: whether the data have others, whose images are rounded to the nearest.
    """

    number: int
    others: bool

    def nearest(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns images whose probability the likelihood is."""
        return nearest_level(images, self.number) if self.others else images


def likelihood_levels(setting: int | None, spec: ModelSpec, *, where: str) -> LikelihoodLevels:
    """Returns the levels that a method's setting `levels` names, or those of the data if it is None.

    Args:
      setting: the number of levels, at least 2, or None.
      spec: with the levels of the data.
      where: the section of the setting, for the error message.

    Raises:
      ValueError: if there are fewer than 2.
    """
    if setting is None:
        return LikelihoodLevels(spec.levels, others=False)
    if setting < 2:
        raise ValueError(f"{where}.levels is {setting}, but must be at least 2.")
    return LikelihoodLevels(setting, others=True)
