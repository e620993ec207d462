"""Training in the latent space of a frozen autoencoder, and sampling back into images (Rombach et al. 2022)."""

from collections.abc import Hashable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.contract import (
    Batch,
    Conditioning,
    GenerativeModel,
    Metrics,
    ModelSpec,
    TrainState,
    Variables,
    require,
)


class Autoencoder(NamedTuple):
    """A trained autoencoder that nothing trains any further, and what brings its latents to mean 0 and deviation 1.

    Attributes:
      model: has `encode` and `decode`.
      variables: of that model, as host arrays; programs get them as arguments.
      shift: mean of each channel of the latents over the data.
      scale: standard deviation, likewise.
    """

    model: GenerativeModel
    variables: PyTree
    shift: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]

    def standardize(self, latents: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Latents of the autoencoder to those that a second model is trained on."""
        shape = (1,) * (latents.ndim - 1) + (-1,)
        return (latents - self.shift.reshape(shape)) / self.scale.reshape(shape)

    def restore(self, latents: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Inverse of `standardize`."""
        shape = (1,) * (latents.ndim - 1) + (-1,)
        return latents * self.scale.reshape(shape) + self.shift.reshape(shape)


def latent_spec(spec: ModelSpec, autoencoder: Autoencoder) -> ModelSpec:
    """What a model of the latents is told of its data, for cached data of the given spec.

    Raises:
      ValueError: if the cached moments are not those of this autoencoder's latents.
    """
    height, width, channels = autoencoder.model.spec.latent_shape or (0, 0, 0)
    if spec.image_shape != (height, width, 2 * channels):
        raise ValueError(
            f"The cached latents are of shape {spec.image_shape}, but the autoencoder beside them makes mean and "
            f"deviation of shape {(height, width, 2 * channels)}: give launch.py encode again."
        )
    return spec._replace(image_shape=(height, width, channels))


def with_latents(model: GenerativeModel, autoencoder: Autoencoder) -> GenerativeModel:
    """Lets a model of latents be trained on cached posteriors, and be used as a model of images.

    Training batches hold mean and standard deviation of each latent, one after the other along the channels of `image`.
    A latent is drawn anew each time, and brought to mean 0 and to the standard deviation that the model assumes,
    `model.spec.sigma_data`, or 1 if it assumes none. Variables are `{"model": ..., "autoencoder": ...}`. Latents of
    `encode` and `decode` are those that the inner model is trained on; noise levels and likelihoods would be those of
    latents, so that there is no `denoise` and no `log_prob`.

    Raises:
      ValueError: if the autoencoder cannot encode and decode.
    """
    require(autoencoder.model, "encode", "decode", by="Training on latents")
    encoder, decoder = autoencoder.model.encode, autoencoder.model.decode
    assert encoder is not None
    assert decoder is not None  # as was required
    autoencoder = _standardizing_to(model.spec.sigma_data or 1.0, autoencoder)

    def init(key: Key[Array, ""], batch: Batch) -> TrainState:
        return model.init(key, _draw(autoencoder, key, batch))

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Hashable = None
    ) -> tuple[TrainState, Metrics]:
        return model.update(key, state, _draw(autoencoder, key, batch), phase=phase)

    def eval_variables(state: TrainState) -> Variables:
        return {"model": model.eval_variables(state), "autoencoder": autoencoder.variables}

    def encode(
        sample_keys: Key[Array, " n"], variables: Variables, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n h_z w_z c_z"]:
        del cond
        return autoencoder.standardize(encoder(sample_keys, variables["autoencoder"], images))

    def decode(
        variables: Variables, latents: Float[Array, "n h_z w_z c_z"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        del cond
        return decoder(variables["autoencoder"], autoencoder.restore(latents))

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
        log_prob=None,
        encode=encode,
        decode=decode,
        denoise=None,
    )


def _standardizing_to(deviation: float, autoencoder: Autoencoder) -> Autoencoder:
    """The autoencoder, with a scale that brings latents to that standard deviation instead of to 1."""
    return autoencoder._replace(scale=autoencoder.scale / np.float32(deviation))


def _draw(autoencoder: Autoencoder, key: Key[Array, ""], batch: Batch) -> Batch:
    """A batch of standardized latents from one of posteriors; each example's noise is its own."""
    index = batch["index"]
    posterior_keys = keys.fold_each(keys.per_example(key, index).reshape(-1), "posterior")
    mean, std = jnp.split(batch["image"], 2, axis=-1)
    eps = keys.normal(posterior_keys, mean.shape[index.ndim :]).reshape(mean.shape)
    return {**batch, "image": autoencoder.standardize(mean + std * eps)}


def _image_spec(spec: ModelSpec, autoencoder: Autoencoder) -> ModelSpec:
    """What the outside is told of a model of latents."""
    image_shape = autoencoder.model.spec.image_shape
    return spec._replace(image_shape=image_shape, latent_shape=spec.image_shape, likelihood=None, sigma_data=None)
