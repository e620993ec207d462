"""The uncertainty head of EDM2: the log-variance of a denoiser's error at each noise level, learned beside it."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.magnitude_preserving import MPDense, MPFourier


class Uncertainty(nn.Module):
    """The log-variance u(noise level) of a denoiser's error, for losses of the form error / exp(u) + u.

    It sees the noise label alone, so it can stand beside any network (Karras et al. 2024, eq. 21 and section 2.2).

    Attributes:
      channels: number of Fourier features.
    """

    channels: int = 128

    @nn.compact
    def __call__(self, noise_label: Float[Array, " b"]) -> Float[Array, " b"]:
        """Maps noise labels to log-variances, in float32."""
        features = MPFourier(self.channels, name="fourier")(noise_label)
        return jnp.squeeze(MPDense(1, name="linear")(features), axis=-1)
