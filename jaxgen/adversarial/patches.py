"""The adversarial part of the loss of an autoencoder, against a discriminator of patches (Esser et al. 2021, eq. 5-7).

Its discriminator also gives the features that images and their reconstructions are compared by.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgen.core import keys
from jaxgen.core.builders import InitVariables
from jaxgen.core.config import Need
from jaxgen.core.contract import Context, Metrics, Microbatch, Objective
from jaxgen.losses.adversarial import hinge
from jaxgen.losses.perceptual import feature_distance
from jaxgen.nn.patch_discriminator import PatchDiscriminator

_HINGE = hinge()
LAST_LAYER = ("decoder", "conv_out", "kernel")
"""The path, in the parameters of an autoencoder's networks, of the decoder's last kernel: its outputs are the image."""

_MAX_BALANCE = 1e4  # as in the official code


class PatchSettings(NamedTuple):
    """The section `gan` of an autoencoder.

    Attributes:
      weight: of the adversarial loss, beside the autoencoder's own; 0 for no discriminator.
      feature_weight: of the distance between the discriminator's features of an image and of its reconstruction.
      start_steps: updates before both begin, by when reconstructions should resemble their images.
      adaptive: whether the adversarial loss is also multiplied by the ratio of the norms of the gradients, with respect
        to the decoder's last kernel, of reconstruction and of it (Esser et al. 2021, eq. 7), at most 10,000.
    """

    weight: float = 0.0
    feature_weight: float = 0.0
    start_steps: int = 0
    adaptive: bool = False


_GAN = Need("a gan.weight above 0", lambda gan: gan.weight > 0.0)
PATCH_NEEDS = {"feature_weight": _GAN, "start_steps": _GAN, "adaptive": _GAN}
"""Settings of the section `gan` without an effect, unless others are as said."""


class Reconstruction(NamedTuple):
    """Reconstructed images and the autoencoder's own loss of them.

    Attributes:
      images: the reconstructions.
      loss: all of the autoencoder's own loss.
      metrics: its terms.
      of_images: the part of the loss that is a function of reconstructions, for the adaptive weight.
      decode: returns the reconstructions as a function of the networks' parameters, of the decoder alone.
      params: the networks' parameters, of which `LAST_LAYER` is the decoder's last kernel.
    """

    images: Float[Array, "b h w c"]
    loss: Float[Array, ""]
    metrics: Metrics
    of_images: Callable[[Float[Array, "b h w c"]], Float[Array, ""]]
    decode: Callable[[PyTree], Float[Array, "b h w c"]]
    params: PyTree


Reconstruct = Callable[[Context, PyTree, PyTree, Microbatch], tuple[Reconstruction, PyTree]]
"""`(context, generator's params, model_state, microbatch) -> (reconstruction, new model_state)`."""


def init_players(init_generator: InitVariables, discriminator: PatchDiscriminator) -> InitVariables:
    """Returns the initialization of an autoencoder, as the player `generator`, and of the discriminator."""

    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        generator, model_state = init_generator(context, batch)
        own = discriminator.init(keys.stream(context.key, "discriminator"), batch["image"])["params"]
        return {"generator": generator, "discriminator": own}, model_state

    return init_variables


def generator_objective(
    reconstruct: Reconstruct, discriminator: PatchDiscriminator, settings: PatchSettings, *, axis_name: str | None
) -> Objective:
    """Returns the objective of the autoencoder: its own loss, the adversarial loss and the distance of features."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        made, model_state = reconstruct(context, params["generator"], model_state, batch)
        variables = {"params": params["discriminator"]}
        logits, features = discriminator.apply(variables, made.images)
        _, real_features = discriminator.apply(variables, batch["image"])
        metrics = made.metrics | {
            "loss/adversarial": jnp.mean(_HINGE.generator(logits, logits)),
            "loss/features": jnp.mean(feature_distance(features, real_features)),
        }
        weight: float | Float[Array, ""] = settings.weight
        if settings.adaptive:

            def adversarial(images: Float[Array, "b h w c"]) -> Float[Array, ""]:
                logits, _ = discriminator.apply(jax.lax.stop_gradient(variables), images)
                return jnp.mean(_HINGE.generator(logits, logits))

            metrics["adaptive_weight"] = balance(made, adversarial, axis_name=axis_name)
            weight = settings.weight * metrics["adaptive_weight"]
        both = weight * metrics["loss/adversarial"] + settings.feature_weight * metrics["loss/features"]
        return made.loss + _started(settings, context) * both, (model_state, metrics)

    return objective


def discriminator_objective(
    reconstruct: Reconstruct, discriminator: PatchDiscriminator, settings: PatchSettings
) -> Objective:
    """Returns the objective of the discriminator, a hinge loss; the autoencoder's model state stays as it is."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake = reconstruct(context, params["generator"], model_state, batch)[0].images
        real_logits, _ = discriminator.apply({"params": params["discriminator"]}, batch["image"])
        fake_logits, _ = discriminator.apply({"params": params["discriminator"]}, fake)
        metrics = {"logits/real": jnp.mean(real_logits), "logits/fake": jnp.mean(fake_logits)}
        loss = jnp.mean(_HINGE.discriminator(real_logits, fake_logits))
        return _started(settings, context) * loss, (model_state, metrics)

    return objective


def balance(
    made: Reconstruction, other: Callable[[Float[Array, "b h w c"]], Float[Array, ""]], *, axis_name: str | None = None
) -> Float[Array, ""]:
    """Returns |gradient of the loss of reconstructions| / |gradient of another loss of them|, as a constant.

    Both are with respect to the decoder's last kernel, averaged over the mapped axis where there is one.
    """
    params = jax.lax.stop_gradient(made.params)
    kernel = functools.reduce(lambda tree, name: tree[name], LAST_LAYER, params)
    images, pull_back = jax.vjp(lambda kernel: made.decode(_replaced(params, LAST_LAYER, kernel)), kernel)
    gradients = [pull_back(jax.grad(loss)(images))[0] for loss in (made.of_images, other)]
    if axis_name is not None:
        gradients = jax.lax.pmean(gradients, axis_name)
    own, adversarial = (jnp.linalg.norm(gradient.reshape(-1)) for gradient in gradients)
    return jax.lax.stop_gradient(jnp.clip(own / (adversarial + 1e-4), 0.0, _MAX_BALANCE))


def _replaced(tree: PyTree, path: tuple[str, ...], leaf: Array) -> PyTree:
    """Returns a tree with another leaf at a path."""
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], leaf)} if path else leaf


def _started(settings: PatchSettings, context: Context) -> Float[Array, ""]:
    return (context.step >= settings.start_steps).astype(jnp.float32)
