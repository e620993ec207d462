"""Monotonic rational-quadratic splines, and couplings by them (Durkan et al. 2019, "Neural spline flows")."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.gaussians import sum_per_example
from jaxgen.nn.flow_layers import FlowContext

_LEAST = 1e-3
"""The least width and height of a bin, relative to the interval, and the least derivative at a knot."""


class Knots(NamedTuple):
    """A spline on [-bound, bound], given by its knots.

    Attributes:
      x, y: coordinates of knots, ascending from -bound to bound.
      slope: derivatives at the knots, 1 at both ends.
    """

    x: Float[Array, "*b k1"]
    y: Float[Array, "*b k1"]
    slope: Float[Array, "*b k1"]


def knots(raw: Float[Array, "*b m"], bound: float) -> Knots:
    """Returns the spline of 3k - 1 numbers of any value: of k widths, of k heights, of k - 1 derivatives.

    Zeros make it the identity.
    """
    k = (raw.shape[-1] + 1) // 3
    # softplus is the inverse of this offset, but for the least derivative, so that the derivative of 0 is 1
    inner = _LEAST + jax.nn.softplus(raw[..., 2 * k :] + math.log(math.expm1(1.0 - _LEAST)))
    end = jnp.ones((*raw.shape[:-1], 1))
    slope = jnp.concatenate([end, inner, end], axis=-1)
    return Knots(_cumulated(raw[..., :k], bound), _cumulated(raw[..., k : 2 * k], bound), slope)


def _cumulated(raw: Float[Array, "*b k"], bound: float) -> Float[Array, "*b k1"]:
    """Returns coordinates from -bound to bound whose distances are a softmax, none of which is too small."""
    k = raw.shape[-1]
    shares = _LEAST + (1.0 - _LEAST * k) * jax.nn.softmax(raw, axis=-1)
    inside = 2.0 * bound * jnp.cumsum(shares[..., :-1], axis=-1) - bound
    end = jnp.full((*raw.shape[:-1], 1), bound)
    return jnp.concatenate([-end, inside, end], axis=-1)


def spline(
    x: Float[Array, "*b"], at: Knots, bound: float, *, inverse: bool = False
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Returns the spline of each number, or its inverse, and the logarithm of the derivative of this direction.

    Between two knots it is the quotient of two quadratic polynomials (section 3.1, eq. 4); outside of [-bound, bound]
    it is the identity.
    """
    inside = jnp.abs(x) < bound
    x_in = jnp.where(inside, x, 0.0)  # gradients of the branch that is not taken are finite, too
    edges = at.y if inverse else at.x
    index = jnp.sum(x_in[..., None] >= edges[..., 1:-1], axis=-1, dtype=jnp.int32)
    x0, y0, d0 = (_at(values, index) for values in at)
    x1, y1, d1 = (_at(values, index + 1) for values in at)
    width, height = x1 - x0, y1 - y0
    s = height / width
    total = d0 + d1 - 2.0 * s
    if inverse:
        # The root of a quadratic equation in the share of the bin, in the form without cancellation (eq. 6 to 8).
        a = height * (s - d0) + (x_in - y0) * total
        b = height * d0 - (x_in - y0) * total
        c = -s * (x_in - y0)
        share = 2.0 * c / (-b - jnp.sqrt(jnp.maximum(jnp.square(b) - 4.0 * a * c, 0.0)))
        y = x0 + share * width
    else:
        share = (x_in - x0) / width
        y = y0 + height * (s * jnp.square(share) + d0 * share * (1.0 - share)) / (s + total * share * (1.0 - share))
    rest = share * (1.0 - share)
    slope = d1 * jnp.square(share) + 2.0 * s * rest + d0 * jnp.square(1.0 - share)  # eq. 5
    log_slope = 2.0 * jnp.log(s) + jnp.log(slope) - 2.0 * jnp.log(s + total * rest)
    log_slope = -log_slope if inverse else log_slope
    return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0.0)


def _at(values: Float[Array, "*b k"], index: Int[Array, "*b"]) -> Float[Array, "*b"]:
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


class SplineCoupling(nn.Module):
    """A coupling whose first half of the channels makes the splines of the second one.

    Attributes:
      net: from half of the channels to 3 `bins` - 1 numbers for each of the other half.
      bins: number of bins k.
      bound: the interval [-bound, bound] outside of which the coupling is the identity.
    """

    net: nn.Module
    bins: int
    bound: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: FlowContext, *, inverse: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
        """Transforms the second half of the channels."""
        first, second = jnp.split(x, 2, axis=-1)
        raw = self.net(first, context).astype(jnp.float32).reshape(*second.shape, 3 * self.bins - 1)
        second, log_slope = spline(second, knots(raw, self.bound), self.bound, inverse=inverse)
        return jnp.concatenate([first, second], axis=-1), sum_per_example(log_slope)
