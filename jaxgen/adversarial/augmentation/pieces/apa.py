"""Adaptive pseudo augmentation (APA)."""

import jax
import jax.numpy as jnp

from jaxgen.adversarial.augmentation.augment_pipe import augment
from jaxgen.adversarial.augmentation.controller import Controller, State
from jaxgen.adversarial.augmentation.piece import Augmentation, Images, Keys, Step, alike
from jaxgen.adversarial.augmentation.transformations import NO_RANGES, RangeSettings, Strengths, make_pipe
from jaxgen.core.keys import bernoulli, fold_each


def apa(
    *,
    image_shape: tuple[int, int, int],
    transforms: Strengths | None = None,
    ranges: RangeSettings = NO_RANGES,
    target: float = 0.6,
    every_steps: int = 4,
    ramp_examples: int = 500_000,
    initial: float = 0.0,
) -> Augmentation:
    """Generated images passed off as real with a probability that adapts (Jiang et al. 2021, section 3).

    Args:
      image_shape: height, width and channels of the images.
      transforms: transformations of all images, with the same probability, as those of `ada`; None for none.
      ranges: as those of `ada`.
      target: as that of `ada`, here for the outputs on what is passed off as real, too.
      every_steps: as that of `ada`.
      ramp_examples: as that of `ada`.
      initial: the first probability.

    Raises:
      ValueError: if a setting is unknown, out of range or without effect, or the images cannot be transformed so.
    """
    if transforms is None and ranges:
        raise ValueError("gan.augment=apa: ranges is set, but has no effect without transforms: leave it out.")
    transformations = None if transforms is None else make_pipe(transforms, ranges, image_shape)
    controller = Controller(target, every_steps, ramp_examples, initial).checked("gan.augment=apa")

    def transform(state: State, keys: Keys, images: Images, step: Step) -> Images:
        if transformations is None:
            return images
        return augment(keys, images, controller.probability(state, step), transformations)

    def real(state: State, keys: Keys, real: Images, fake: Images, step: Step) -> Images:
        passed_off = bernoulli(fold_each(keys, "pseudo"), controller.probability(state, step))
        mixed = jnp.where(passed_off[:, None, None, None], jax.lax.stop_gradient(fake), real)
        return transform(state, keys, mixed, step)

    own = alike(transform, controller.metrics)
    return own._replace(init=controller.init, real=real, update=controller.update)
