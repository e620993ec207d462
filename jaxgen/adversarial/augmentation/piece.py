"""The interface of augmentations, and how `gan.augment` names them.

Both what is real and what is generated is augmented before the discriminator sees it, with one law, so that the
generator learns the distribution of the images without augmentation (Karras et al. 2020, section 2).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core.config import call_text
from jaxgen.core.keys import fold_each

Keys = Key[Array, " b"]
Images = Float[Array, "b h w c"]
Step = Int[Array, ""]
Scalar = Float[Array, ""]

PIECES = "jaxgen.adversarial.augmentation.pieces"


@runtime_checkable
class FirstState(Protocol):
    """Returns the state of an augmentation."""

    def __call__(self) -> PyTree:
        """Returns arrays that do not depend on the data; () where there are none."""
        ...


@runtime_checkable
class AugmentReal(Protocol):
    """Augments real images."""

    def __call__(self, state: PyTree, keys: Keys, real: Images, fake: Images, step: Step) -> Images:
        """Returns what the discriminator sees for real images.

        Args:
          state: of the augmentation.
          keys: one an image; not those that `fake` gets for its images.
          real: real images, in [-1, 1].
          fake: as many generated ones, which some augmentations pass off as real; no gradient flows to them.
          step: the number of steps of the run before this one.
        """
        ...


@runtime_checkable
class AugmentFake(Protocol):
    """Augments generated images."""

    def __call__(self, state: PyTree, keys: Keys, images: Images, step: Step) -> Images:
        """Returns what the discriminator sees for generated images; differentiable, with arguments as `AugmentReal`."""
        ...


@runtime_checkable
class AdaptState(Protocol):
    """Adapts the state of an augmentation to the discriminator."""

    def __call__(
        self, state: PyTree, real_logits: Float[Array, " b"], *, step: Step, axis_name: str | None, batch_size: int
    ) -> PyTree:
        """Returns the new state, after one minibatch of the discriminator.

        Args:
          state: of the augmentation.
          real_logits: the discriminator's outputs on what `real` returned, here or on this device.
          step: the number of steps of the run before this one; several minibatches may have the same.
          axis_name: the mapped axis over which the minibatch is spread, if there is one.
          batch_size: the number of real images in the whole minibatch.
        """
        ...


@runtime_checkable
class DescribeState(Protocol):
    """Describes the state of an augmentation."""

    def __call__(self, state: PyTree, step: Step) -> dict[str, Scalar]:
        """Returns numbers by name."""
        ...


class Augmentation(NamedTuple):
    """An augmentation of what a discriminator sees, drawn for each example.

    Attributes:
      init: returns its state, which is kept in `model_state`.
      real: augments real images.
      fake: augments generated images.
      update: adapts the state.
      metrics: describes the state.
    """

    init: FirstState
    real: AugmentReal
    fake: AugmentFake
    update: AdaptState
    metrics: DescribeState


def alike(transform: AugmentFake, metrics: DescribeState = lambda state, step: {}) -> Augmentation:
    """Returns the augmentation that transforms real images as generated ones, and has no state."""

    def real(state: PyTree, keys: Keys, real: Images, fake: Images, step: Step) -> Images:
        del fake
        return transform(state, keys, real, step)

    def update(state: PyTree, real_logits: Float[Array, " b"], **moment: Any) -> PyTree:
        del real_logits, moment
        return state

    return Augmentation(init=lambda: (), real=real, fake=transform, update=update, metrics=metrics)


def chain(pieces: Mapping[str, Augmentation]) -> Augmentation:
    """Returns the augmentation that applies others in their order; the identity if there are none.

    Each piece draws from a stream of its name, and its state is an entry of that name. Metrics are called
    `augment/NAME/METRIC`. What a piece may pass off as real has been through the pieces before it.
    """

    def real(state: PyTree, keys: Keys, real: Images, fake: Images, step: Step) -> Images:
        for name, piece in pieces.items():
            own = fold_each(keys, name)
            real = piece.real(state[name], own, real, fake, step)
            fake = piece.fake(state[name], own, fake, step)
        return real

    def fake(state: PyTree, keys: Keys, images: Images, step: Step) -> Images:
        for name, piece in pieces.items():
            images = piece.fake(state[name], fold_each(keys, name), images, step)
        return images

    def update(state: PyTree, real_logits: Float[Array, " b"], **moment: Any) -> PyTree:
        return {name: piece.update(state[name], real_logits, **moment) for name, piece in pieces.items()}

    def metrics(state: PyTree, step: Step) -> dict[str, Scalar]:
        return {
            f"augment/{name}/{metric}": value
            for name, piece in pieces.items()
            for metric, value in piece.metrics(state[name], step).items()
        }

    init = lambda: {name: piece.init() for name, piece in pieces.items()}  # noqa: E731
    return Augmentation(init=init, real=real, fake=fake, update=update, metrics=metrics)


def make_augmentation(
    settings: str | tuple[str, ...], *, image_shape: tuple[int, int, int], where: str = "gan.augment"
) -> Augmentation:
    """Builds the augmentation that a setting names.

    Args:
      settings: a function `f` of a module `f` in `augmentation.pieces`, or a call such as `ada(target=0.5)`; or several
        of them, which are applied in their order (`chain`); () for none.
      image_shape: height, width and channels of the images.
      where: the setting's path in the config, for error messages.

    Raises:
      ValueError: if there is no such augmentation, it is named twice, its arguments are wrong, or it cannot take the
        images.
    """
    pieces: dict[str, Augmentation] = {}
    for text in (settings,) if isinstance(settings, str) else settings:
        name = text.partition("(")[0].strip()
        if name in pieces:
            raise ValueError(f"{where} has {name} twice, but must have each augmentation once: join their options.")
        pieces[name] = call_text(PIECES, text, where=where, image_shape=image_shape)
    return chain(pieces)
