"""Langevin dynamics: noisy gradient descent on an energy, whose stationary density is proportional to exp(-energy)."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import keys

Images: TypeAlias = Float[Array, "n h w c"]

Gradient: TypeAlias = Callable[[Images], Images]
"""The gradient of the energy of each image with respect to its pixels."""


class Dynamics(NamedTuple):
    """The section `langevin`: the dynamics of the chains in training, and of sampling.

    A step is x <- x - step_size g + sqrt(2 step_size temperature) z, for the gradient g of the energy and standard
    normal z (Welling and Teh 2011, eq. 4); its stationary density is exp(-energy / temperature), up to an error of the
    order of the step size. The step size of Du and Mordatch 2019, eq. 1, is half of their lambda.

    Attributes:
      step_size: positive; at noise levels, relative to the square of the level.
      temperature: of the noise, at least 0; 0 for gradient descent.
      max_gradient: the largest magnitude that an element of the gradient keeps; None for no limit.
      clip: whether images are kept in [-1, 1] at every step; not for images with noise added, which do not lie there.
    """

    step_size: float = 0.01
    temperature: float = 1.0
    max_gradient: float | None = None
    clip: bool = False

    def check(self, where: str) -> None:
        """Refuses numbers out of range.

        Raises:
          ValueError: names the setting, its value and what is allowed.
        """
        if not self.step_size > 0.0:
            raise ValueError(f"{where}.step_size is {self.step_size}, but must be positive.")
        if not self.temperature >= 0.0:
            raise ValueError(f"{where}.temperature is {self.temperature}, but must be at least 0.")
        if self.max_gradient is not None and not self.max_gradient > 0.0:
            raise ValueError(
                f"{where}.max_gradient is {self.max_gradient}, but must be positive, or None for no limit."
            )


def run(
    chain_keys: Key[Array, " n"],
    gradient: Gradient,
    images: Images,
    sigmas: Float[Array, " steps"],
    dynamics: Dynamics,
) -> Images:
    """Returns images after one step of the dynamics for each of some noise levels.

    At level sigma the energy is E(x) / sigma and the step size is step_size sigma^2, as in annealed Langevin dynamics
    (Song and Ermon 2019, algorithm 1; 2020, technique 3 for the division). Of an energy without noise levels, all
    sigmas are 1.

    Args:
      chain_keys: one key an image, of its noise.
      gradient: of E.
      images: at the start.
      sigmas: noise level of each step.
      dynamics: the settings.
    """

    def step(x: Images, turn: tuple[Int[Array, ""], Float[Array, ""]]) -> tuple[Images, tuple[()]]:
        number, sigma = turn
        g = gradient(x)
        if dynamics.max_gradient is not None:
            g = jnp.clip(g, -dynamics.max_gradient, dynamics.max_gradient)
        z = keys.normal(keys.fold_each(chain_keys, number), x.shape[1:])
        # step_size sigma^2 times the gradient of E / sigma.
        x = x - dynamics.step_size * sigma * g + math.sqrt(2.0 * dynamics.step_size * dynamics.temperature) * sigma * z
        return (jnp.clip(x, -1.0, 1.0) if dynamics.clip else x), ()

    images, _ = jax.lax.scan(step, images, (jnp.arange(len(sigmas)), sigmas))
    return images


def gradient_of(energies: Callable[[Images], Float[Array, " n"]]) -> Gradient:
    """Returns the gradient of each image's energy, which depends on that image alone."""
    return jax.grad(lambda images: jnp.sum(energies(images)))
