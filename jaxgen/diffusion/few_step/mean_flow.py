"""Average velocities (Geng et al. 2025, "Mean flows for one-step generative modeling").

On the line z_t = (1 - t) x_0 + t eps, u(z_t, r, t) is the mean over the times from r to t of the velocity along the
path through z_t, so that z_r = z_t - (t - r) u(z_t, r, t) is exact, however long the step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core import keys
from jaxgen.diffusion.process import schedules, uniforms
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.process.times import Times

Images = Float[Array, "n h w c"]
Scalars = Float[Array, " n"]
AverageVelocity = Callable[[Images, Scalars, Scalars], Images]
"""(z_t, r, t) -> u."""


def draw_interval(example_keys: Key[Array, " n"], times: Times, share: float) -> tuple[Scalars, Scalars]:
    """Draws r <= t: two ordered times for a share of the examples, and r = t for the others (section 4.3)."""
    flow = schedules.flow()

    def draw(stream: str) -> Array:
        sigma = times(flow, uniforms.independent(keys.fold_each(example_keys, stream)))
        return sigma / (1.0 + sigma)

    a, b = draw("one_end"), draw("other_end")
    t = jnp.maximum(a, b)
    wide = keys.bernoulli(keys.fold_each(example_keys, "interval"), share)
    return jnp.where(wide, jnp.minimum(a, b), t), t


def velocity_and_target(
    average: AverageVelocity, z: Images, r: Scalars, t: Scalars, velocity: Images
) -> tuple[Images, Images]:
    """Returns u and its target by the MeanFlow identity, v - (t - r) du/dt (eq. 9-11); no gradient enters the target.

    Args:
      average: u.
      z: points at times t.
      r: times at which the intervals end, in [0, t]; where r = t the target is the velocity itself.
      t: times at which they begin.
      velocity: that at z, of the one path or of the flow; du/dt is the derivative along it.
    """
    u, du_dt = jax.jvp(average, (z, r, t), (velocity, jnp.zeros_like(r), jnp.ones_like(t)))
    return u, jax.lax.stop_gradient(velocity - per_image(t - r) * du_dt)


def adaptive_loss(difference: Images, *, power: float = 1.0, floor: float = 1e-3) -> Scalars:
    """|d|^2 / sg(|d|^2 + floor)^power for each image (section 4.3); at power 1 all weigh alike.

    The floor is that of the paper and of the official code for CIFAR-10; the official code for ImageNet has 0.01.
    """
    squared = jnp.sum(difference**2, axis=(1, 2, 3))
    return squared / jax.lax.stop_gradient(squared + floor) ** power


def flow_map(average: AverageVelocity, z: Images, *, num_steps: int) -> Images:
    """Maps noise, z at time 1, to images at time 0 in equal steps (algorithm 2 is one step); an evaluation each."""

    def body(z: Images, interval: tuple[Array, Array]) -> tuple[Images, None]:
        t, r = (jnp.full(len(z), time) for time in interval)
        return z - per_image(t - r) * average(z, r, t), None

    times = jnp.linspace(1.0, 0.0, num_steps + 1)
    return jax.lax.scan(body, z, (times[:-1], times[1:]))[0]
