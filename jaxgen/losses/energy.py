"""Losses of energy-based models, by which exp(-energy) becomes the density of the data, up to a constant."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def contrastive_divergence(data: Float[Array, " b"], chains: Float[Array, " b"]) -> Float[Array, " b"]:
    """Returns E(x+) - E(x-) of the energies of data x+ and samples x- of the model.

    Its gradient is that of the negative log-likelihood where the samples are exact (Hinton 2002; Du and Mordatch 2019,
    eq. 2).
    """
    return data - chains


def squared_energies(data: Float[Array, " b"], chains: Float[Array, " b"]) -> Float[Array, " b"]:
    """Returns E(x+)^2 + E(x-)^2, which keeps energies near 0 (Du and Mordatch 2019, section 3.3)."""
    return jnp.square(data) + jnp.square(chains)


def denoising_score_matching(gradient: Float[Array, "b *dims"], noise: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Returns the mean squared error of the gradient of E, at x + sigma z, as a prediction of the noise z.

    With the energy E / sigma at noise level sigma the score is -gradient / sigma, and that of the noised image given
    the image is -z / sigma (Vincent 2011, eq. 9): this is sigma^2 times the squared distance of the two, the weight of
    Song and Ermon 2019, eq. 6, over dimensions.
    """
    return jnp.mean(jnp.square(gradient - noise), axis=tuple(range(1, noise.ndim)))
