"""Guidance: denoisers made from denoisers, steered towards a condition."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.diffusion.samplers import Denoiser, Images

ConditionalDenoiser = Callable[[Images, Float[Array, " n"], Int[Array, " n"]], Images]
"""(x, sigma, label) -> an estimate of the clean images of those classes from x = clean + sigma * noise."""


def classifier_free(
    denoise: ConditionalDenoiser, label: Int[Array, " n"], *, null_label: int, scale: float = 1.0
) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6, with scale = 1 + w), in terms of the clean image.

    Both estimates come from one call on a batch of twice the size. At scale 1 the guided model is the conditional one,
    and the null estimate is not computed.

    Args:
      denoise: the conditional denoiser.
      label: the class of each image.
      null_label: the label that the denoiser takes for "no class".
      scale: 0 ignores the classes, 1 samples from them, more sharpens them; a Python number, static under `jit`.
    """
    if scale == 1.0:
        return lambda x, sigma: denoise(x, sigma, label)

    def guided(x: Images, sigma: Float[Array, " n"]) -> Images:
        labels = jnp.concatenate([label, jnp.full_like(label, null_label)])
        both = denoise(jnp.concatenate([x, x]), jnp.concatenate([sigma, sigma]), labels)
        conditional, unconditional = jnp.split(both, 2)
        return unconditional + scale * (conditional - unconditional)

    return guided
