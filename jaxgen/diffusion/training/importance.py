"""Importance sampling of training times by the loss's second moment (Nichol and Dhariwal 2021, section 3.3, eq. 18).

The moments are kept in buckets of time, as moving averages instead of the paper's last ten values, so that the state
does not depend on the order of examples in a batch nor on the number of devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Moments = Float[Array, " buckets"]
Scalars = Float[Array, " n"]


def initial_moments(buckets: int) -> Moments:
    """Equal moments: times are uniform at first."""
    return jnp.ones(buckets)


def probabilities(moments: Moments, *, uniform_share: float = 0.001) -> Float[Array, " buckets"]:
    """The probability of each bucket, proportional to the root of its moment, and never zero."""
    roots = jnp.sqrt(moments)
    return (1.0 - uniform_share) * roots / roots.sum() + uniform_share / len(moments)


def draw(moments: Moments, u: Scalars) -> tuple[Scalars, Scalars]:
    """Times in [0, 1) from uniforms, and the weights that keep the expected loss that of uniform times."""
    p = probabilities(moments)
    ends = jnp.concatenate([jnp.zeros(1), jnp.cumsum(p)])
    bucket = jnp.clip(jnp.searchsorted(ends, u, side="right") - 1, 0, len(p) - 1)
    within = jnp.clip((u - ends[bucket]) / p[bucket], 0.0, 1.0 - 1e-6)
    return (bucket + within) / len(p), 1.0 / (p[bucket] * len(p))


def update(
    moments: Moments, time: Scalars, loss: Scalars, *, decay: float = 0.9, axis_name: str | None = None
) -> Moments:
    """Takes the losses seen at some times into the moving averages; `axis_name` is the mapped axis of the devices."""
    bucket = jnp.clip((time * len(moments)).astype(jnp.int32), 0, len(moments) - 1)
    count = jax.ops.segment_sum(jnp.ones_like(loss), bucket, len(moments))
    total = jax.ops.segment_sum(loss**2, bucket, len(moments))
    if axis_name is not None:
        count, total = jax.lax.psum((count, total), axis_name)
    kept = decay**count
    return kept * moments + (1.0 - kept) * total / jnp.maximum(count, 1.0)
