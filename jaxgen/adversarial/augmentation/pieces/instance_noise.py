"""Instance noise."""

from jaxtyping import PyTree

from jaxgen.adversarial.augmentation.piece import Augmentation, Images, Keys, Scalar, Step, alike
from jaxgen.core.keys import normal
from jaxgen.core.schedules import Curve


def instance_noise(*, image_shape: tuple[int, int, int], std: float | str) -> Augmentation:
    """Normal noise on all images (Sønderby et al. 2017; Arjovsky and Bottou 2017, section 3).

    It makes the supports of real and generated images overlap; the deviation usually falls to 0 in training.

    Args:
      image_shape: height, width and channels of the images; any.
      std: the standard deviation, a number or a schedule of `core.schedules` such as
        linear(start=0.1, end=0.0, steps=10_000).

    Raises:
      ValueError: if the deviation is negative at some step, or 0 at all.
    """
    del image_shape
    deviation = Curve.of(std, where="gan.augment=instance_noise: std", low=0.0)
    if deviation.high == 0.0:
        raise ValueError("gan.augment=instance_noise: std is 0, which has no effect: leave instance_noise out.")

    def transform(state: PyTree, keys: Keys, images: Images, step: Step) -> Images:
        del state
        return images + deviation(step) * normal(keys, images.shape[1:])

    def metrics(state: PyTree, step: Step) -> dict[str, Scalar]:
        del state
        return {"std": deviation(step)}

    return alike(transform, metrics)
