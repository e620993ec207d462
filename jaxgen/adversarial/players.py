"""The two players of adversarial training, as pure functions."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.contract import Context, Microbatch
from jaxgen.nn.adversarial import Critique


@runtime_checkable
class Generate(Protocol):
    """Makes images."""

    def __call__(
        self,
        context: Context,
        params: PyTree,
        state: PyTree,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b h w c"], PyTree]:
        """Returns images, in [-1, 1] or near it, and the new state of the generator; of its own params and state."""
        ...


@runtime_checkable
class Discriminate(Protocol):
    """Tells real images from generated ones."""

    def __call__(
        self,
        context: Context,
        params: PyTree,
        state: PyTree,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Critique, PyTree]:
        """Returns a critique and the new state of the discriminator; of its own params and state."""
        ...


class Styled(NamedTuple):
    """The two halves of a generator of styles, for penalties on what lies between them.

    Attributes:
      styles: as `Generate`, but returns styles [b, n, w], one for each of n layers, in the place of images.
      synthesize: `(params, state, styles, example_keys) -> images`.
    """

    styles: Callable[..., tuple[Float[Array, "b n w"], PyTree]]
    synthesize: Callable[[PyTree, PyTree, Float[Array, "b n w"], Key[Array, " b"]], Float[Array, "b h w c"]]


class Players(NamedTuple):
    """A generator and a discriminator.

    Parameters and state of both are dicts with the keys `generator` and `discriminator`.

    Attributes:
      init: `(context, batch, label) -> (params, state)`, from the examples of the first gradient.
      generate: the generator in training.
      discriminate: the discriminator in training.
      latent_dim: length of a latent, standard normal.
      styled: the halves of a generator of styles; None of others.
    """

    init: Callable[[Context, Microbatch, Int[Array, " b"] | None], tuple[PyTree, PyTree]]
    generate: Generate
    discriminate: Discriminate
    latent_dim: int
    styled: Styled | None = None


def players_of(generator: nn.Module, discriminator: nn.Module) -> Players:
    """Returns two networks as players: the protocols are `nn.adversarial`'s, the state is all but the parameters."""

    def init(context: Context, batch: Microbatch, label: Int[Array, " b"] | None) -> tuple[PyTree, PyTree]:
        key, images = context.key, batch["image"]
        latents = jnp.zeros((len(images), generator.latent_dim))
        variables = {
            "generator": generator.init(keys.stream(key, "generator"), latents, label, train=False),
            "discriminator": discriminator.init(keys.stream(key, "discriminator"), images, label, train=False),
        }
        params = {name: tree["params"] for name, tree in variables.items()}
        return params, {name: state_of(tree) for name, tree in variables.items()}

    def generate(
        context: Context,
        params: PyTree,
        state: PyTree,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b h w c"], PyTree]:
        del context
        return apply(generator, params, state, latents, label, example_keys)

    return Players(init, generate, discriminate_with(discriminator), generator.latent_dim)


def draw_latents(example_keys: Key[Array, " b"], latent_dim: int) -> Float[Array, "b {latent_dim}"]:
    """Draws standard normal latents, the same in training and for samples."""
    return keys.normal(keys.fold_each(example_keys, "latent"), (latent_dim,))


def discriminate_with(network: nn.Module) -> Discriminate:
    """Returns a network as a discriminator in training."""

    def discriminate(
        context: Context,
        params: PyTree,
        state: PyTree,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Critique, PyTree]:
        del context
        return apply(network, params, state, images, label, example_keys)

    return discriminate


def apply(
    network: nn.Module,
    params: PyTree,
    state: PyTree,
    inputs: Array,
    label: Int[Array, " b"] | None,
    example_keys: Key[Array, " b"],
) -> tuple:
    """Applies a network in training; returns its output and the new state, of the same collections as the old one."""
    output, updated = network.apply(
        {"params": params, **state}, inputs, label, train=True, keys=example_keys, mutable=list(state)
    )
    return output, {**state, **updated}


def state_of(variables: PyTree) -> dict[str, PyTree]:
    """Returns the collections beside the parameters."""
    return {name: tree for name, tree in variables.items() if name != "params"}
