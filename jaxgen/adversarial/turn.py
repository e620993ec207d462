"""A player's turn, and the terms that are added to its loss."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.adversarial.players import Styled
from jaxgen.core.contract import Context, Microbatch
from jaxgen.nn.adversarial import Critique

Images = Float[Array, "b h w c"]


class Turn(NamedTuple):
    """The networks and images in a turn of a player, for the terms of its loss; states of networks are not moved.

    Attributes:
      context: the moment; its key is this term's own.
      player: whose turn it is, `generator` or `discriminator`.
      params: of both players.
      keys: one an example, of this term.
      batch: the data.
      label: of real and of generated images.
      real: images of the data, before augmentation.
      fake: as many generated ones, before augmentation.
      latents: what these were made of.
      real_critique: the critique of the real images, augmented, as it is in the loss.
      fake_critique: the critique of the generated ones.
      discriminate_real: maps images to critiques, augmented by the draws of the real images.
      discriminate_fake: the same by the draws of the generated ones.
      discriminate: maps images to critiques, without augmentation.
      generate: maps latents to images, by the noise of the generated ones.
      styled: the halves of the generator; None for generators without styles.
      mean: of an array with one entry an example, over the whole batch, of which a device may hold a part.
      state: what the term keeps between updates.
      generator_state: what the generator keeps.
    """

    context: Context
    player: str
    params: PyTree
    keys: Key[Array, " b"]
    batch: Microbatch
    label: Int[Array, " b"] | None
    real: Images
    fake: Images
    latents: Float[Array, "b d"]
    real_critique: Critique
    fake_critique: Critique
    discriminate_real: Callable[[Images], Critique]
    discriminate_fake: Callable[[Images], Critique]
    discriminate: Callable[[Images], Critique]
    generate: Callable[[Float[Array, "b d"]], Images]
    styled: Styled | None
    mean: Callable[[Float[Array, "b *rest"]], Float[Array, "*rest"]]
    state: PyTree = ()
    generator_state: PyTree = ()


class Cost(NamedTuple):
    """The part of a term in the loss of a turn.

    Attributes:
      loss: what is added to the player's loss, weighted.
      state: what the term keeps now.
      metrics: for the log.
    """

    loss: Float[Array, ""]
    state: PyTree = ()
    metrics: Mapping[str, Float[Array, ""]] = MappingProxyType({})


class Term(NamedTuple):
    """A term of the losses.

    Attributes:
      discriminator: its cost in the discriminator's turn; None for none.
      generator: its cost in the generator's turn; None for none.
      init: from the parameters of both players to what the term keeps.
      check: raises a `ValueError` where the discriminator's critique, the labels or the generator lack what the term
        needs: `(critique, label, styled)`; it is traced, so that values are not known.
      every_steps: if above 1, the player does an update of its own on its terms, every so many steps, with a loss as
        many times as large (lazy regularization, Karras et al. 2020, section 3.1).
    """

    discriminator: Callable[[Turn], Cost] | None = None
    generator: Callable[[Turn], Cost] | None = None
    init: Callable[[PyTree], PyTree] = lambda params: ()
    check: Callable[[Critique, Int[Array, " b"] | None, Styled | None], object] | None = None
    every_steps: int = 1
