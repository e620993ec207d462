"""Training in the latent space of a frozen autoencoder, and sampling back into images (Rombach et al. 2022)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.contract import (
    CONSTANT,
    Batch,
    Conditioning,
    GenerativeModel,
    Metrics,
    ModelSpec,
    Phase,
    TrainState,
    Variables,
    require,
)

ROLE = "autoencoder"
"""The role of the autoencoder in `Env.frozen`. Its arrays in `TrainState.frozen` are `variables`, those of its model,
and `shift` and `scale`, mean and standard deviation of each channel of its latents over the data."""


def latent_spec(spec: ModelSpec, autoencoder: GenerativeModel) -> ModelSpec:
    """Returns the spec of a model of latents, for cached data of the given spec.

    Raises:
      ValueError: if the cached moments are not those of this autoencoder's latents.
    """
    height, width, channels = autoencoder.spec.latent_shape or (0, 0, 0)
    if spec.image_shape != (height, width, 2 * channels):
        raise ValueError(
            f"The cached latents are of shape {spec.image_shape}, but the autoencoder beside them makes mean and "
            f"deviation of shape {(height, width, 2 * channels)}: give launch.py encode again."
        )
    return spec._replace(image_shape=(height, width, channels))


_ABSENT: dict[str, Any] = dict.fromkeys(("log_prob", "denoise", "posterior", "styles", "synthesize", "objective"))
"""Capabilities that a model of latents lacks as a model of images."""


def with_latents(model: GenerativeModel, autoencoder: GenerativeModel) -> GenerativeModel:
    """Returns a model of latents as a model of images, which is trained on cached posteriors.

    Training batches hold mean and standard deviation of each latent, concatenated along the channels of `image`. Each
    update draws new latents, and scales them to mean 0 and the standard deviation `model.spec.sigma_data`, or 1 if that
    is None. `encode` and `decode` use such standardized latents. Variables are `{"model": ..., "autoencoder": ...}`.
    There is no `denoise` and no `log_prob`: noise levels and likelihoods would be those of latents.

    Raises:
      ValueError: if the autoencoder cannot encode and decode.
    """
    require(autoencoder, "encode", "decode", by="Training on latents")
    encoder, decoder = autoencoder.encode, autoencoder.decode
    assert encoder is not None
    assert decoder is not None  # as was required
    deviation = model.spec.sigma_data or 1.0

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        return model.init(key, _draw(frozen[ROLE], deviation, key, batch), frozen)

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        return model.update(key, state, _draw(state.frozen[ROLE], deviation, key, batch), phase=phase)

    def eval_variables(state: TrainState) -> Variables:
        return {"model": model.eval_variables(state), ROLE: state.frozen[ROLE]}

    def encode(
        sample_keys: Key[Array, " n"], variables: Variables, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n h_z w_z c_z"]:
        del cond
        frozen = variables[ROLE]
        return standardize(frozen, deviation, encoder(sample_keys, frozen["variables"], images))

    def decode(
        variables: Variables, latents: Float[Array, "n h_z w_z c_z"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        del cond
        frozen = variables[ROLE]
        return decoder(frozen["variables"], restore(frozen, deviation, latents))

    def sample(
        sample_keys: Key[Array, " n"], variables: Variables, cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        return decode(variables, model.sample(sample_keys, variables["model"], cond))

    return model._replace(
        spec=_image_spec(model.spec, autoencoder),
        init=init,
        update=update,
        sample=sample,
        eval_variables=eval_variables,
        encode=encode,
        decode=decode,
        frozen=(*model.frozen, ROLE),
        **_ABSENT,
    )


def standardize(autoencoder: PyTree, deviation: float, latents: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Returns latents of the autoencoder scaled to mean 0 and standard deviation `deviation`."""
    shift, scale = _by_channel(autoencoder, latents.ndim)
    return (latents - shift) / (scale / deviation)


def restore(autoencoder: PyTree, deviation: float, latents: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Returns latents of the autoencoder from standardized ones: the inverse of `standardize`."""
    shift, scale = _by_channel(autoencoder, latents.ndim)
    return latents * (scale / deviation) + shift


def _by_channel(autoencoder: PyTree, ndim: int) -> tuple[Array, Array]:
    shape = (1,) * (ndim - 1) + (-1,)
    return jnp.asarray(autoencoder["shift"]).reshape(shape), jnp.asarray(autoencoder["scale"]).reshape(shape)


def _draw(autoencoder: PyTree, deviation: float, key: Key[Array, ""], batch: Batch) -> Batch:
    """Draws a batch of standardized latents from a batch of posteriors; each example has its own noise."""
    index = batch["index"]
    posterior_keys = keys.fold_each(keys.per_example(key, index).reshape(-1), "posterior")
    mean, std = jnp.split(batch["image"], 2, axis=-1)
    eps = keys.normal(posterior_keys, mean.shape[index.ndim :]).reshape(mean.shape)
    return {**batch, "image": standardize(autoencoder, deviation, mean + std * eps)}


def _image_spec(spec: ModelSpec, autoencoder: GenerativeModel) -> ModelSpec:
    """Returns the spec of the model of images that a model of latents and its decoder make."""
    image_shape = autoencoder.spec.image_shape
    of_images = spec._replace(image_shape=image_shape, levels=autoencoder.spec.levels)
    return of_images._replace(latent_shape=spec.image_shape, likelihood=None, sigma_data=None)
