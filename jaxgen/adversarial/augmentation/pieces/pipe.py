"""The transformations of adaptive augmentation with a probability that does not adapt."""

from jaxtyping import PyTree

from jaxgen.adversarial.augmentation.augment_pipe import augment
from jaxgen.adversarial.augmentation.piece import Augmentation, Images, Keys, Scalar, Step, alike
from jaxgen.adversarial.augmentation.transformations import NO_RANGES, RangeSettings, Strengths, make_pipe
from jaxgen.core.schedules import Curve


def pipe(
    *,
    image_shape: tuple[int, int, int],
    p: float | str,
    transforms: Strengths = "bgc",
    ranges: RangeSettings = NO_RANGES,
) -> Augmentation:
    """Transformations with a probability that is constant, or a schedule.

    R3GAN (Huang et al. 2024) has p="cosine(start=0.0, end=0.3, steps=...)" and
    transforms={"blit": 1.0, "geom": 1.0, "color": 0.5, "cutout": 1.0}.

    Args:
      image_shape: height, width and channels of the images.
      p: the probability, a number or a schedule of `core.schedules`.
      transforms: as those of `ada`.
      ranges: as those of `ada`.

    Raises:
      ValueError: if a setting is unknown, out of range or without effect, or the images cannot be transformed so.
    """
    transformations = make_pipe(transforms, ranges, image_shape)
    probability = Curve.of(p, where="gan.augment=pipe: p", low=0.0, high=1.0)

    def transform(state: PyTree, keys: Keys, images: Images, step: Step) -> Images:
        del state
        return augment(keys, images, probability(step), transformations)

    def metrics(state: PyTree, step: Step) -> dict[str, Scalar]:
        del state
        return {"p": probability(step)}

    return alike(transform, metrics)
