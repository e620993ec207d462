"""Orthogonal regularization of weights."""

import re
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core import trees

Players = Literal["generator", "discriminator", "both"]


def orthogonal(
    *, weight: float = 1e-4, players: Players = "generator", include: str = r".*kernel", diagonal: bool = False
) -> Term:
    """Returns the squared inner products of the filters of each layer (Brock et al. 2019, eq. 3).

    Args:
      weight: beta of the paper; its gradient there is that of half of it.
      players: whose weights.
      include: regular expression over the names of a player's parameters.
      diagonal: whether norms are to be 1, too (eq. 2).
    """

    def cost_of(name: str) -> Callable[[Turn], Cost]:
        def cost(turn: Turn) -> Cost:
            return Cost(weight * correlation(turn.params[name], include, diagonal=diagonal))

        return cost

    return Term(
        discriminator=None if players == "generator" else cost_of("discriminator"),
        generator=None if players == "discriminator" else cost_of("generator"),
    )


def correlation(params: PyTree, include: str, *, diagonal: bool = False) -> Float[Array, ""]:
    """Returns the sum over layers of ||W^T W||^2 without its diagonal or, with it, of ||W^T W - I||^2.

    Raises:
      ValueError: if no parameter of two or more axes has a name that matches.
    """
    kernels = {name: leaf for name, leaf in trees.named_leaves(params).items() if leaf.ndim > 1}
    chosen = [leaf for name, leaf in kernels.items() if re.fullmatch(include, name)]
    if not chosen:
        raise ValueError(
            f"gan.terms has orthogonal with include={include!r}, which matches no kernel; there are: "
            f"{', '.join(kernels)}."
        )
    total = jnp.zeros(())
    for kernel in chosen:
        columns = kernel.reshape(-1, kernel.shape[-1])
        products = columns.T @ columns
        identity = jnp.eye(len(products))
        total += jnp.sum((products - identity if diagonal else products * (1.0 - identity)) ** 2)
    return total
