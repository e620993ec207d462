"""The total correlation of latents, by the posteriors of a batch."""

from jaxgen.core.schedules import Curve
from jaxgen.losses import total_correlation as losses
from jaxgen.losses.total_correlation import Estimate
from jaxgen.variational.inference import AddedLoss, Inference, Term


def total_correlation(*, weight: float | str, dataset_size: int, estimate: Estimate = "weighted") -> Term:
    """Returns the weighted total correlation (Chen et al. 2018, eq. 4).

    With a beta of 1 the loss is beta-TCVAE's for a weight of its beta - 1: the divergence has one such term already.

    Args:
      weight: may be scheduled.
      dataset_size: number of training images, N of the paper; of endless data, a large number.
      estimate: `weighted` or `stratified`.

    Raises:
      ValueError: if the data set is smaller than a batch.
    """
    curve = Curve.of(weight, where="total_correlation's weight", low=0.0)

    def term(inference: Inference) -> AddedLoss:
        latents, mean, logvar = map(inference.gather, (inference.latents, inference.mean, inference.logvar))
        if dataset_size < len(latents):
            raise ValueError(
                f"vae.terms has total_correlation with dataset_size={dataset_size}, but a batch has {len(latents)} "
                "images: give the number of training images."
            )
        value = losses.total_correlation(latents, mean, logvar, dataset_size=dataset_size, estimate=estimate)
        return AddedLoss(curve(inference.context.step) * value, {"loss/total_correlation": value})

    return term
