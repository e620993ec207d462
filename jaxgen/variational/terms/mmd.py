"""The maximum mean discrepancy between the latents of a batch and the prior N(0, 1)."""

import jax.numpy as jnp

from jaxgen.core import keys
from jaxgen.core.schedules import Curve
from jaxgen.losses import maximum_mean_discrepancy
from jaxgen.losses.maximum_mean_discrepancy import Kernel
from jaxgen.variational.inference import AddedLoss, Inference, Term


def mmd(*, weight: float | str = 10.0, kernel: Kernel = "inverse_multiquadric", scale: float = 1.0) -> Term:
    """Returns the weighted squared MMD of q(z) and N(0, 1), by as many draws of it as there are images.

    The objective of InfoVAE (Zhao et al. 2019, eq. 6) has a weight of alpha + lambda - 1 here, and a beta of 1 - alpha;
    a beta of 0 makes a Wasserstein autoencoder of random encoders (Tolstikhin et al. 2018).

    Args:
      weight: in nats; may be scheduled.
      kernel: `inverse_multiquadric` or `gaussian`.
      scale: of the squared distances in the kernel.

    Raises:
      ValueError: if the scale is not positive.
    """
    if not scale > 0.0:
        raise ValueError(f"vae.terms has mmd with scale={scale}, but it must be positive.")
    curve = Curve.of(weight, where="mmd's weight", low=0.0)

    def term(inference: Inference) -> AddedLoss:
        prior = keys.normal(keys.fold_each(inference.keys, "mmd"), inference.latents.shape[1:])
        latents, draws = inference.gather(inference.latents), inference.gather(prior)
        distance = maximum_mean_discrepancy.mmd(latents, draws, kernel=kernel, scale=scale)
        return AddedLoss(jnp.asarray(curve(inference.context.step)) * distance, {"loss/mmd": distance})

    return term
