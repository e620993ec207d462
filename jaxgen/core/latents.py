"""Training in the latent space of a frozen autoencoder, and sampling back into images (Rombach et al. 2022).

Latents are real numbers, or codes: integers, which the model of latents sees as the levels of an image in [-1, 1].
"""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, Shaped

from jaxgen.core import images as image_ranges
from jaxgen.core import keys
from jaxgen.core.contract import (
    CONSTANT,
    Batch,
    Conditioning,
    Encode,
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
and `shift` and `scale`, mean and standard deviation of each channel of its latents over the data; of codes, 0 and 1."""

Kind: TypeAlias = Literal["moments", "plain", "codes"]
"""The form of cached latents: means and standard deviations, concatenated along the channels; the numbers themselves;
or codes."""


def latent_kind(spec: ModelSpec, autoencoder: ModelSpec) -> Kind:
    """Returns the form of cached latents.

    Args:
      spec: of the cached data; `latent_levels` is the number of codes, where they are codes.
      autoencoder: of the model whose latents they are.

    Raises:
      ValueError: if they are not latents of this autoencoder.
    """
    height, width, channels = map_shape(autoencoder)
    if spec.latent_levels is not None:
        shapes: dict[Kind, tuple[int, int, int]] = {"codes": (height, width, channels)}
    else:
        channels = autoencoder.code_dim or channels  # of codes, the vectors before quantization
        shapes = {"moments": (height, width, 2 * channels), "plain": (height, width, channels)}
    same = spec.latent_levels in (None, autoencoder.latent_levels)
    found = [kind for kind, shape in shapes.items() if spec.image_shape == shape and same]
    if not found:
        words = {
            "moments": "mean and deviation",
            "plain": "latents",
            "codes": f"{autoencoder.latent_levels or 'no'} codes",
        }
        made = " or ".join(f"{words[kind]} of shape {shape}" for kind, shape in shapes.items())
        codes = "" if spec.latent_levels is None else f"{spec.latent_levels} codes "
        raise ValueError(
            f"The cached latents are {codes}of shape {spec.image_shape}, but the autoencoder beside them makes {made}: "
            "give launch.py encode again."
        )
    return found[0]


def map_shape(autoencoder: ModelSpec) -> tuple[int, int, int]:
    """Returns height, width and channels of latents, which are a single place where they are vectors; zeros for none.

    `encode` caches latents in this shape.
    """
    shape = autoencoder.latent_shape or ()
    padded = (*(1,) * (3 - len(shape)), *shape) if shape else (0, 0, 0)
    return padded[0], padded[1], padded[2]


def latent_spec(spec: ModelSpec, autoencoder: GenerativeModel) -> ModelSpec:
    """Returns the spec of a model of latents, for cached data of the given spec.

    Raises:
      ValueError: if the cached data are not latents of this autoencoder.
    """
    kind = latent_kind(spec, autoencoder.spec)
    height, width, channels = spec.image_shape
    if kind == "codes":
        assert spec.latent_levels is not None
        return spec._replace(levels=spec.latent_levels, latent_levels=None)
    return spec._replace(image_shape=(height, width, channels // 2 if kind == "moments" else channels), continuous=True)


_ABSENT: dict[str, Any] = dict.fromkeys(
    (
        "log_prob",
        "denoise",
        "posterior",
        "styles",
        "synthesize",
        "level_log_probs",
        "latent_coding",
        "objective",
    )
)
"""Capabilities that a model of latents lacks as a model of images."""


def with_latents(model: GenerativeModel, autoencoder: GenerativeModel, kind: Kind = "moments") -> GenerativeModel:
    """Returns a model of latents as a model of images, which is trained on cached latents.

    - Of `moments`, training batches hold mean and standard deviation of each latent, concatenated along the channels of
      `image`; each update draws new latents. `plain` ones are taken as they are. Either are scaled to mean 0 and the
      standard deviation `model.spec.sigma_data`, or 1 if that is None. `encode` and `decode` use such standardized
      latents, of vectors as maps of one place.
    - Of `codes`, batches hold integers, which become the levels of images in [-1, 1]; `encode` returns such.

    Variables are `{"model": ..., "autoencoder": ...}`. There is no `denoise` and no `log_prob`: both are of latents.

    Raises:
      ValueError: if the autoencoder cannot encode and decode.
    """
    require(autoencoder, "encode", "decode", by="Training on latents")
    encoder, decoder = encoder_of(autoencoder, kind), autoencoder.decode
    assert decoder is not None
    view = LatentView(kind, autoencoder.spec, model.spec)

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        return model.init(key, view.batch(frozen[ROLE], key, batch), frozen)

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        return model.update(key, state, view.batch(state.frozen[ROLE], key, batch), phase=phase)

    def eval_variables(state: TrainState) -> Variables:
        return {"model": model.eval_variables(state), ROLE: state.frozen[ROLE]}

    def encode(
        sample_keys: Key[Array, " n"], variables: Variables, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n h_z w_z c_z"]:
        del cond
        frozen = variables[ROLE]
        return view.of_latents(frozen, encoder(sample_keys, frozen["variables"], images))

    def decode(
        variables: Variables, latents: Float[Array, "n h_z w_z c_z"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        del cond
        frozen = variables[ROLE]
        return decoder(frozen["variables"], view.to_latents(frozen, latents))

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


def encoder_of(autoencoder: GenerativeModel, kind: Kind) -> Encode:
    """Returns the function from images to latents of a kind: codes or, of codes too, the numbers before quantization.

    Raises:
      ValueError: if the model cannot encode.
    """
    if kind == "codes" or autoencoder.spec.latent_levels is None:
        require(autoencoder, "encode", by="Training on latents")
        assert autoencoder.encode is not None
        return autoencoder.encode
    require(autoencoder, "posterior", by="Training on the vectors before quantization")
    posterior = autoencoder.posterior
    assert posterior is not None

    def encode(
        sample_keys: Key[Array, " n"], variables: Variables, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n ..."]:
        del sample_keys
        return posterior(variables, images, cond)[0]

    return encode


def checked_latents(values: Any, latent_levels: int | None) -> Shaped[np.ndarray, "..."]:
    """Returns latents as an array of float32 or, of `latent_levels` codes, of int32.

    Raises:
      ValueError: if they are to be codes, and are none.
    """
    given = np.asarray(values)
    if latent_levels is None:
        return given.astype(np.float32)
    if not np.issubdtype(given.dtype, np.integer) or np.any((given < 0) | (given >= latent_levels)):
        raise ValueError(f"The latents must be codes, which are integers in [0, {latent_levels}).")
    return given.astype(np.int32)


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


class LatentView(NamedTuple):
    """The form in which a model of latents sees those of an autoencoder.

    Attributes:
      kind: of the cached latents.
      autoencoder: its spec.
      spec: of the model of latents.
    """

    kind: Kind
    autoencoder: ModelSpec
    spec: ModelSpec

    @property
    def deviation(self) -> float:
        """The standard deviation of the numbers that the model sees."""
        return self.spec.sigma_data or 1.0

    def batch(self, frozen: PyTree, key: Key[Array, ""], batch: Batch) -> Batch:
        """Returns a training batch of latents; each example has its own noise, where they have deviations."""
        image, index = batch["image"], batch["index"]
        if self.kind == "moments":
            posterior_keys = keys.fold_each(keys.per_example(key, index).reshape(-1), "posterior")
            mean, std = jnp.split(image, 2, axis=-1)
            image = mean + std * keys.normal(posterior_keys, mean.shape[index.ndim :]).reshape(mean.shape)
        return {**batch, "image": self._seen(frozen, image)}

    def of_latents(self, frozen: PyTree, latents: Shaped[Array, "n ..."]) -> Float[Array, "n h w c"]:
        """Returns latents of the autoencoder as the model sees them."""
        return self._seen(frozen, latents.reshape(len(latents), *self.spec.image_shape))

    def to_latents(self, frozen: PyTree, images: Float[Array, "n h w c"]) -> Shaped[Array, "n ..."]:
        """Returns latents of the autoencoder from what the model sees: the inverse of `of_latents`."""
        if self.kind == "codes":
            latents = image_ranges.indices(images, self.spec.levels)
            return latents.reshape(len(images), *(self.autoencoder.latent_shape or ()))
        restored = restore(frozen, self.deviation, images)
        if self.autoencoder.latent_levels is not None:
            return restored  # the vectors before quantization, which `decode` takes, too
        return restored.reshape(len(images), *(self.autoencoder.latent_shape or ()))

    def _seen(self, frozen: PyTree, latents: Shaped[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        if self.kind == "codes":
            return image_ranges.from_indices(latents, self.spec.levels)
        return standardize(frozen, self.deviation, latents)


def _image_spec(spec: ModelSpec, autoencoder: GenerativeModel) -> ModelSpec:
    """Returns the spec of the model of images that a model of latents and its decoder make."""
    image_shape = autoencoder.spec.image_shape
    of_images = spec._replace(image_shape=image_shape, levels=autoencoder.spec.levels)
    return of_images._replace(latent_shape=spec.image_shape, likelihood=None, sigma_data=None, continuous=False)
