"""Paths between latents or styles: straight lines, and arcs of great circles."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def linear(start: Float[Array, "*d"], end: Float[Array, "*d"], t: Float[Array, " n"]) -> Float[Array, "n *d"]:
    """Returns the points of a straight line, 0 being its start and 1 its end; the one for styles."""
    weights = t.reshape(-1, *(1,) * start.ndim)
    return (1.0 - weights) * start[None] + weights * end[None]


def spherical(start: Float[Array, "*d"], end: Float[Array, "*d"], t: Float[Array, " n"]) -> Float[Array, "n *d"]:
    """Returns the points of an arc of a great circle (White 2016, "Sampling generative networks", section 2).

    Norms of points of a line between normal latents are too small for them; along an arc, directions move at a constant
    angle and norms go from one to the other. The arc of parallel latents is the line.
    """
    lengths = jnp.linalg.norm(start), jnp.linalg.norm(end)
    cos = jnp.sum(start * end) / jnp.maximum(lengths[0] * lengths[1], 1e-12)
    angle = jnp.arccos(jnp.clip(cos, -1.0, 1.0))
    sin = jnp.sin(angle)
    flat = sin < 1e-4
    weights = t.reshape(-1, *(1,) * start.ndim)
    safe = jnp.where(flat, 1.0, sin)
    first = jnp.where(flat, 1.0 - weights, jnp.sin((1.0 - weights) * angle) / safe)
    second = jnp.where(flat, weights, jnp.sin(weights * angle) / safe)
    return first * start[None] + second * end[None]


def path(points: Float[Array, "k *d"], steps: int, *, arcs: bool = False, closed: bool = False) -> Float[Array, "n *d"]:
    """Returns a path through points: `steps` frames from each to the next, and the last one, unless it is closed.

    Args:
      points: latents or styles, at least 2.
      steps: frames from one point to the next.
      arcs: whether to follow great circles rather than lines.
      closed: whether the path returns to its start, for an animation that repeats itself.

    Raises:
      ValueError: if there are fewer than 2 points, or no frames.
    """
    if len(points) < 2 or steps < 1:
        raise ValueError(f"A path has at least 2 points and 1 step between them, not {len(points)} and {steps}.")
    between = spherical if arcs else linear
    t = jnp.arange(steps) / steps
    ends = [*points[1:], points[0]] if closed else [*points[1:]]
    pieces = [between(start, end, t) for start, end in zip(points, ends, strict=False)]
    return jnp.concatenate(pieces if closed else [*pieces, points[-1:]])
