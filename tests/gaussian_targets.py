"""Gaussian targets, whose ideal denoisers and probability-flow paths are known, and what tests of samplers share."""

import jax
import jax.numpy as jnp
import numpy as np

MU, TAU = 0.3, 0.4


def ideal_denoiser(mu: float = MU, tau: float = TAU):
    """The posterior mean of N(mu, tau^2) given x = clean + sigma * noise."""

    def denoise(x, sigma):
        sigma = sigma[:, None, None, None]
        return mu + tau**2 / (tau**2 + sigma**2) * (x - mu)

    return denoise


def ode_solution(x, t: float, s: float, mu: float = MU, tau: float = TAU):
    """Where the probability-flow ODE takes x from level t to s: standardized, it does not move."""
    return mu + np.sqrt((tau**2 + s**2) / (tau**2 + t**2)) * (x - mu)


def keys_of(n: int, seed: int = 0) -> jax.Array:
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(n))
