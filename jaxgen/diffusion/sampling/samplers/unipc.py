"""UniPC."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import (
    Callback,
    PerStep,
    Result,
    Scalar,
    before,
    first_order,
    log_steps,
    one_estimate,
    over_levels,
    step_ratios,
)


def unipc(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """UniPC-2 with B_2(h) = exp(h) - 1, predicting x_0 (Zhao et al. 2023, algorithms 1 and 2).

    The predictor is `dpmpp_2m`'s. The estimate at the predicted point also serves to correct that point, to third
    order, before the next prediction begins there: one estimate a step. Pixels that the callback has changed are not
    corrected.

    Args:
      keys: one key an image, for the callback alone.
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.
    """

    def step(
        state: tuple[Images, ...],
        x0: Images,
        k: Int[Array, ""],
        t: Scalar,
        s: Scalar,
        extrapolate: Scalar,
        last_t: Scalar,
        new: Scalar,
        old: Scalar,
    ) -> tuple[tuple[Images, ...], Images]:
        del k
        predicted, last, x0_1, x0_2, *before_callback = state
        x = first_order(last, x0_1, last_t, t) + new * (x0 - x0_1) + old * (x0_1 - x0_2)
        for unchanged in before_callback:
            x = jnp.where(predicted == unchanged, x, predicted)
        predicted = first_order(x, x0 + extrapolate * (x0 - x0_1), t, s)
        return (predicted, x, x0, x0_1, *[predicted for _ in before_callback]), x0

    sigmas = jnp.asarray(sigmas)
    last_sigmas = jnp.append(sigmas[0], sigmas[:-2])  # nothing precedes the first step, which corrects from t to t
    coefficients = (0.5 / step_ratios(sigmas), last_sigmas, *_corrector(log_steps(sigmas)))
    state = (x, x, jnp.zeros_like(x), jnp.zeros_like(x), *([] if callback is None else [x]))
    return over_levels(
        *one_estimate(step, denoise, state), sigmas, *coefficients, keys=keys, callback=callback, trajectory=trajectory
    )


def _corrector(h: PerStep) -> tuple[PerStep, PerStep]:
    """Weights, in each step, of the last two changes of the estimate in the correction of the point at which it begins.

    The rhos of the paper's theorem 3.1 solve rho_0 + rho_1 = b_1 and r rho_0 + rho_1 = b_2, r = -h' / h; for a first
    step, of order 1, rho_1 = 1/2. Step k corrects with those of step k - 1.
    """
    contraction = -jnp.expm1(-h)
    phi_2 = 1.0 - contraction / h
    b_1 = phi_2 / contraction
    b_2 = 2.0 * (phi_2 / h - 0.5) / -contraction
    ratio = before(h) / h
    rho_0 = jnp.where(jnp.isfinite(ratio), (b_1 - b_2) / (1.0 + ratio), 0.0)
    rho_1 = jnp.where(jnp.isfinite(ratio), b_1 - rho_0, 0.5)
    new, old = contraction * rho_1, contraction * rho_0 / ratio
    return jnp.append(0.0, new[:-1]), jnp.append(0.0, old[:-1])
