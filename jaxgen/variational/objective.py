"""The loss of a variational autoencoder: reconstruction, the divergence at its price, and terms."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.config import call_text
from jaxgen.core.contract import Context, Metrics, Microbatch, Objective
from jaxgen.losses.divergence import kl_of_dimensions
from jaxgen.variational import inference as inferences
from jaxgen.variational.autoencoder import Autoencoder
from jaxgen.variational.inference import Inference, Term

_SMALLEST = 1e-6
"""Least mean squared error of an optimal Gaussian."""

_DECAY = 0.99
"""Of the running mean of the squared error, by the update."""


def make_terms(texts: tuple[str, ...]) -> dict[str, Term]:
    """Returns the terms that `vae.terms` names, by name.

    Raises:
      ValueError: if there is no such term, its arguments are wrong, or it is named twice.
    """
    named: dict[str, Term] = {}
    for text in texts:
        name = text.partition("(")[0].strip()
        if name in named:
            raise ValueError(f"vae.terms has {name} twice: name every term once.")
        named[name] = call_text("jaxgen.variational.terms", text, where="vae.terms")
    return named


def make_objective(autoencoder: Autoencoder, terms: Mapping[str, Term], axis_name: str | None) -> Objective:
    """Returns the negative bound, the evidence lower one (Kingma and Welling 2014, eq. 3) with the settings' changes.

    Args:
      autoencoder: networks and pieces.
      terms: what is added, by name.
      axis_name: the mapped axis of the pmap path; None for none.
    """
    if autoencoder.settings.importance_samples > 1:
        return _importance_weighted(autoencoder)

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys, images = keys.per_example(context.key, batch["index"]), batch["image"]
        cond = conditioning.of_batch(autoencoder.spec.conditioning, batch)
        inference = inferences.infer(autoencoder, context, example_keys, params, images, cond, axis_name)
        log_sigma, model_state = _log_sigma(autoencoder, params, model_state, images, inference)
        log_likelihood = autoencoder.score(autoencoder.likelihood.training, images, inference.outputs, log_sigma)
        divergence = jnp.mean(inferences.divergence(autoencoder, params, inference))
        metrics = {"loss/reconstruction": -jnp.mean(log_likelihood), "loss/kl": divergence}
        rate = _rate(autoencoder, inference, divergence)
        loss = metrics["loss/reconstruction"] + autoencoder.beta(context.step) * rate
        for term in terms.values():
            cost = term(inference)
            loss += cost.loss
            metrics |= cost.metrics
        return loss, (model_state, metrics)

    return objective


def _rate(autoencoder: Autoencoder, inference: Inference, divergence: Float[Array, ""]) -> Float[Array, ""]:
    """Returns what beta is the weight of; its mean over devices, and that of its gradient, are the whole batch's."""
    free, capacity = autoencoder.settings.free_bits, autoencoder.capacity
    rate = divergence
    if free > 0.0:
        by_dimension = jnp.mean(kl_of_dimensions(inference.mean, inference.logvar), axis=0)
        rate = jnp.sum(jnp.where(_whole_mean(by_dimension, inference) > free, by_dimension, free))
    if capacity is not None:
        distance = rate - capacity(inference.context.step)
        rate = jnp.where(_whole_mean(distance, inference) > 0.0, distance, -distance)
    return rate


def _log_sigma(
    autoencoder: Autoencoder, params: PyTree, model_state: PyTree, images: Array, inference: Inference
) -> tuple[Float[Array, ""], PyTree]:
    """Returns log sigma and the new model state; an optimal sigma minimizes the loss, so that it has no gradient."""
    if not autoencoder.likelihood.optimal:
        return autoencoder.log_sigma(params), model_state
    images = autoencoder.levels.nearest(images)  # those that are scored
    error = jnp.maximum(_whole_mean(jnp.mean(jnp.square(images - inference.outputs)), inference), _SMALLEST)
    running = _DECAY * model_state["squared_error"] + (1.0 - _DECAY) * error
    return 0.5 * jnp.log(error), {**model_state, "squared_error": running}


def _whole_mean(value: Array, inference: Inference) -> Array:
    """Returns the mean over devices, as a constant."""
    value = jax.lax.stop_gradient(value)
    return value if inference.axis_name is None else jax.lax.pmean(value, inference.axis_name)


def _importance_weighted(autoencoder: Autoencoder) -> Objective:
    """The negative bound of Burda et al. 2016, eq. 8."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        cond = conditioning.of_batch(autoencoder.spec.conditioning, batch)
        example_keys = keys.per_example(context.key, batch["index"])
        likelihood, count = autoencoder.likelihood.training, autoencoder.settings.importance_samples
        weighted = inferences.weigh(autoencoder, likelihood, example_keys, params, batch["image"], cond, count)
        metrics = {
            "loss/reconstruction": -jnp.mean(weighted.log_likelihood),
            "loss/kl": jnp.mean(weighted.divergence),
        }
        return -jnp.mean(weighted.bound()), (model_state, metrics)

    return objective
