"""Adaptive discriminator augmentation (ADA)."""

from jaxgen.adversarial.augmentation.augment_pipe import augment
from jaxgen.adversarial.augmentation.controller import Controller, State
from jaxgen.adversarial.augmentation.piece import Augmentation, Images, Keys, Step, alike
from jaxgen.adversarial.augmentation.transformations import NO_RANGES, RangeSettings, Strengths, make_pipe


def ada(
    *,
    image_shape: tuple[int, int, int],
    transforms: Strengths = "bgc",
    ranges: RangeSettings = NO_RANGES,
    target: float = 0.6,
    every_steps: int = 4,
    ramp_examples: int = 500_000,
    initial: float = 0.0,
) -> Augmentation:
    """Transformations whose probability adapts (Karras et al. 2020, "Training GANs with limited data", section 3).

    Args:
      image_shape: height, width and channels of the images.
      transforms: an official pipe such as "bgc", or multipliers; see `transformations.make_pipe`.
      ranges: fields of `transformations.Ranges` that are not the official ones.
      target: the mean sign of the discriminator's outputs on real images at which the probability stays.
      every_steps: the number of steps between changes of the probability.
      ramp_examples: the number of real images in which the probability goes from 0 to 1; officially 100,000 where
        training starts from trained networks.
      initial: the first probability.

    Raises:
      ValueError: if a setting is unknown, out of range or without effect, or the images cannot be transformed so.
    """
    transformations = make_pipe(transforms, ranges, image_shape)
    controller = Controller(target, every_steps, ramp_examples, initial).checked("gan.augment=ada")

    def transform(state: State, keys: Keys, images: Images, step: Step) -> Images:
        return augment(keys, images, controller.probability(state, step), transformations)

    return alike(transform, controller.metrics)._replace(init=controller.init, update=controller.update)
