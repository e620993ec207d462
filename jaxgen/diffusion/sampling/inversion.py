"""The path of deterministic DDIM, between images and the noise that they come from."""

import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgen.core.contract import Conditioning, Decode, Denoise, Encode, Variables
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Scalar, estimate, first_order, scan_levels


def ddim_inversion(denoise: Denoiser, x0: Images, sigmas: Sigmas) -> Images:
    """Runs the path of DDIM backwards (Song et al. 2021, section 4.3), by Euler's method.

    Args:
      denoise: the denoiser.
      x0: clean images.
      sigmas: the noise levels of the sampler, descending, the last 0; visited here from the end.

    Returns:
      The x at noise level `sigmas[0]` that `ddim_generation` takes to nearly `x0`.
    """
    ascending = jnp.asarray(sigmas)[::-1]
    # At level 0 the path's derivative is 0 and at the first level (x - estimate) / sigma: half of it, a trapezoid.
    x = x0 + 0.5 * (x0 - estimate(denoise, x0, ascending[1]))
    return _along_path(denoise, x, ascending[1:])


def ddim_generation(denoise: Denoiser, x: Images, sigmas: Sigmas) -> Images:
    """Runs the path of DDIM forwards: the images of `ddim` at eta 0, which needs no keys.

    Args:
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
    """
    return _along_path(denoise, x, jnp.asarray(sigmas))


def encode_and_decode(denoise: Denoise, sigmas: Sigmas, std: float) -> tuple[Encode, Decode]:
    """Returns a model's `encode` and `decode`, which follow the path between images and noise of unit variance.

    Args:
      denoise: the model's denoiser, which is not guided here.
      sigmas: noise levels, descending; the last is 0.
      std: standard deviation of x at noise level `sigmas[0]`.
    """

    def unguided(variables: Variables, cond: Conditioning) -> Denoiser:
        return lambda x, sigma: denoise(variables, x, sigma, cond)

    def encode(
        sample_keys: Key[Array, " n"], variables: Variables, images: Images, cond: Conditioning = None
    ) -> Images:
        del sample_keys
        return ddim_inversion(unguided(variables, cond), images, sigmas) / std

    def decode(variables: Variables, latents: Images, cond: Conditioning = None) -> Images:
        return ddim_generation(unguided(variables, cond), std * latents, sigmas)

    return encode, decode


def _along_path(denoise: Denoiser, x: Images, sigmas: Sigmas) -> Images:
    def step(x: Images, t: Scalar, s: Scalar) -> Images:
        return first_order(x, estimate(denoise, x, t), t, s)

    return scan_levels(step, x, jnp.asarray(sigmas))
