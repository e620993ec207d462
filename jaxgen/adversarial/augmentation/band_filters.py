"""Amplification of bands of frequencies (Karras et al. 2020, "Training GANs with limited data", appendix B)."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The low-pass filter of the sym2 wavelet (Daubechies 1992).
SYM2 = np.array([-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025])

NUM_BANDS = 4
EXPECTED_POWER = np.array([10.0, 1.0, 1.0, 1.0]) / 13.0
"""Shares of the bands in the power of natural images, whose spectrum falls as 1/f."""


@functools.cache
def filter_bank() -> Float[np.ndarray, "bands taps"]:
    """Returns the band-pass filters of one axis, from the lowest octaves to the highest; they add up to a unit tap.

    Each step takes the upper half of the frequencies off the lowest band: the bank is dilated, so that all of its
    spectra are halved and repeated, and low-passed, which leaves room for a new highest band.
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2.0  # H(z) H(1/z) / 2
    high = low * (-1.0) ** (np.arange(len(low)) - len(low) // 2)  # the same of H(-z)
    bank = np.eye(NUM_BANDS, 1)
    for band in range(1, NUM_BANDS):
        dilated = np.zeros((NUM_BANDS, 2 * bank.shape[1] - 1))
        dilated[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in dilated])
        start = (bank.shape[1] - len(high)) // 2
        bank[band, start : start + len(high)] += high
    return bank


def amplify(image: Float[Array, "h w c"], log2_gains: Float[Array, " bands"]) -> Float[Array, "h w c"]:
    """Returns the image with its bands of frequencies times 2^log2_gains, along each axis, mirrored at the borders.

    After each band, all are divided by the root of the power that they would have in a natural image.
    """
    gains = jnp.ones(NUM_BANDS)
    for band in range(NUM_BANDS):
        own = jnp.ones(NUM_BANDS).at[band].set(2.0 ** log2_gains[band])
        gains = gains * own / jnp.sqrt(jnp.sum(EXPECTED_POWER * jnp.square(own)))
    rows, columns = (jnp.tensordot(gains, _operators(n), axes=1) for n in image.shape[:2])
    return jnp.einsum("yi,xj,ijc->yxc", rows, columns, image)


@functools.cache
def _operators(n: int) -> Float[np.ndarray, "bands n n"]:
    """Returns the matrices that filter n pixels, mirrored without repeating the borders as often as the taps need."""
    bank = filter_bank()
    taps = bank.shape[1]
    mirror = np.pad(np.eye(n), ((taps // 2, taps // 2), (0, 0)), mode="reflect")
    windows = np.stack([mirror[i : i + taps] for i in range(n)])
    return np.einsum("bt,ntm->bnm", bank, windows).astype(np.float32)
