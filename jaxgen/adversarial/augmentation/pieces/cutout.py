"""Cutout."""

from jaxgen.adversarial.augmentation.piece import Augmentation
from jaxgen.adversarial.augmentation.pieces.pipe import pipe


def cutout(*, image_shape: tuple[int, int, int], p: float | str = 1.0, size: float = 0.5) -> Augmentation:
    """A rectangle of each image replaced by 0, centered anywhere in it (DeVries and Taylor 2017).

    Args:
      image_shape: height, width and channels of the images.
      p: the probability, a number or a schedule of `core.schedules`.
      size: the sides of the rectangle, relative to those of the image.

    Raises:
      ValueError: if a number is out of range.
    """
    if not 0.0 < size <= 2.0:
        raise ValueError(f"gan.augment=cutout: size is {size}, but must be positive, and at most 2, which hides all.")
    return pipe(image_shape=image_shape, p=p, transforms="cutout", ranges={"cutout_size": size})
