"""Autoregressive models: the likelihood of an image is the product of its elements', each given those before.

PixelCNN, Gated PixelCNN, PixelCNN++, WaveNet over pixels and transformers over pixels or codes are networks and
distributions that are combined here; each file in `configs/` is one choice.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.autoregressive import raster
from jaxgen.autoregressive.distribution import Choice, PixelDistribution, make_distribution
from jaxgen.core import conditioning, keys
from jaxgen.core import images as ranges
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Need, Needs, Section, call, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
    check_levels,
    for_classes,
)
from jaxgen.nn.autoregressive import RasterPlace, make_autoregressive_network
from jaxgen.optim.optimizers import make_optimizer


class Settings(NamedTuple):
    """The section `autoregressive`.

    Attributes:
      distribution: of an element, a function in `autoregressive.distributions`: `categorical`, whose elements are
        channels, or `logistic_mixture(mixtures=10)`, whose elements are pixels.
      class_conditional: whether the network is conditioned on the class.
      label_dropout: probability of the null token instead of the class in training (Ho & Salimans 2022).
    """

    distribution: str = "categorical"
    class_conditional: bool = False
    label_dropout: float = 0.0


NEEDS = {
    "label_dropout": Need("autoregressive.class_conditional=True", lambda settings: settings.class_conditional),
}
"""Settings without an effect, unless others are as said."""


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      temperature: the logits are divided by it; 0 takes the most probable level.
      top_k: only the k most probable levels are drawn; None for all.
      top_p: only the most probable levels are drawn that have this probability together.
      guidance_scale: of classifier-free guidance on logits; 1 for none.
      cached: whether activations of earlier elements are kept, or all are computed anew for each element, which gives
        the same images, slowly.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance_scale: float = 1.0
    cached: bool = True


class Autoregressive(NamedTuple):
    """The pieces of a model, all of them static."""

    settings: Settings
    sampler: Sampler
    distribution: PixelDistribution
    network: nn.Module
    spec: ModelSpec

    def log_prob(
        self, params: PyTree, images: Float[Array, "b h w c"], cond: Mapping[str, Array], **options: Array | bool
    ) -> Float[Array, " b"]:
        """Returns log-probabilities, in nats, of the nearest levels of images, which are all that the network sees."""
        images = ranges.nearest_level(images, self.spec.levels)
        outputs = self.network.apply({"params": params["network"]}, images, cond.get("label"), **options)
        return self.distribution.log_prob(images, outputs)

    def outputs(self, params: PyTree, cond: Mapping[str, Array], count: int) -> raster.StepOutputs:
        """Returns the outputs for one element after the other, guided where the sampler says so."""

        def make(label: Array | None, n: int) -> raster.StepOutputs:
            if self.sampler.cached:
                return raster.cached_outputs(self.network, params["network"], label, count=n)
            return raster.whole_outputs(self.network, params["network"], label)

        if not cond or self.sampler.guidance_scale == 1.0:
            return make(cond.get("label"), count)
        twice = functools.partial(make, n=2 * count)
        return raster.guided_outputs(twice, self.spec.conditioning, dict(cond), scale=self.sampler.guidance_scale)


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds an autoregressive model; reads the sections autoregressive, sampler, model and optimizer.

    Parameters are {"network": ...}. `log_prob` is exact, and makes no use of its keys.
    """
    model = _pieces(config, spec)
    conditions, image_shape = model.spec.conditioning, spec.image_shape
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        _init_variables(model), Player(_objective(model), optimizer), microbatches=config.train.microbatches, env=env
    )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        count = len(sample_keys)
        told = conditioning.complete(conditions, cond, count) if cond or not _has_null(model.spec) else {}
        outputs, elements = (
            model.outputs(variables, told, count),
            image_shape[-1] if model.distribution.channelwise else 1,
        )
        draw = model.distribution.draw
        return raster.draw_images(sample_keys, outputs, draw, image_shape=image_shape, elements=elements)

    def log_prob(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        del sample_keys
        return model.log_prob(variables, images, conditioning.complete(conditions, cond, len(images)))

    def level_log_probs(
        variables: PyTree, images: Float[Array, "n h w c"], position: Int[Array, ""], cond: Conditioning = None
    ) -> Float[Array, "n levels"]:
        told = conditioning.complete(conditions, cond, len(images))
        _, width, channels = image_shape
        known = jnp.arange(math.prod(image_shape)).reshape(image_shape) < position
        images = jnp.where(known[None], ranges.nearest_level(images, model.spec.levels), 0.0)
        place = RasterPlace(position // (width * channels), position // channels % width)
        outputs = model.network.apply({"params": variables["network"]}, images, told.get("label"))
        pixels = raster.at(images[..., None], place)[..., 0]
        table = model.distribution.level_log_probs(pixels, raster.at(outputs, place))
        return jax.lax.dynamic_index_in_dim(table, position % channels, axis=1, keepdims=False)

    return GenerativeModel(
        model.spec,
        init,
        update,
        sample,
        eval_variables,
        log_prob=log_prob,
        level_log_probs=level_log_probs,
        microbatches=config.train.microbatches,
    )


def _pieces(config: Section, spec: ModelSpec) -> Autoregressive:
    settings = call(Settings, config.autoregressive, where="autoregressive", needs=NEEDS)
    check_levels(spec, by="The method autoregressive.autoregressive")
    check_bounds(settings, {"label_dropout": (0, 1)}, where="autoregressive")
    spec = for_classes(spec, settings.class_conditional, where="autoregressive", dropout=settings.label_dropout)
    spec = spec._replace(likelihood="exact")
    facts = {"channels": spec.image_shape[-1], "levels": spec.levels}
    has_logits = make_distribution(settings.distribution, **facts, choice=Choice()).channelwise
    needs = _sampler_needs(has_logits=has_logits, has_null=_has_null(spec))
    sampler = call(Sampler, config.sampler, where="sampler", needs=needs)
    _check_sampler(sampler)
    choice = Choice(sampler.temperature, sampler.top_k, sampler.top_p)
    distribution = make_distribution(settings.distribution, **facts, choice=choice)
    network = make_autoregressive_network(
        config.model,
        image_shape=spec.image_shape,
        num_outputs=distribution.num_outputs,
        channelwise=distribution.channelwise,
        levels=spec.levels,
        num_classes=spec.num_classes,
        dtype=config.train.compute_dtype,
    )
    return Autoregressive(settings, sampler, distribution, network, spec)


def _has_null(spec: ModelSpec) -> bool:
    """Returns whether there are conditions, and the model was trained without them, too."""
    return bool(spec.conditioning) and all(condition.null for condition in spec.conditioning.values())


def _sampler_needs(*, has_logits: bool, has_null: bool) -> Needs:
    logits = Need("autoregressive.distribution=categorical", lambda _: has_logits)
    guided = Need(
        "autoregressive.distribution=categorical and a positive autoregressive.label_dropout",
        lambda _: has_logits and has_null,
    )
    return {**dict.fromkeys(("temperature", "top_k", "top_p"), logits), "guidance_scale": guided}


def _check_sampler(sampler: Sampler) -> None:
    bounds: dict[str, tuple[int, int | float]] = {"temperature": (0, math.inf), "top_p": (0, 1)}
    check_bounds(sampler, bounds, where="sampler")
    if sampler.top_p == 0.0:
        raise ValueError("sampler.top_p is 0, but must be positive: 1 for all levels, or temperature=0 for the best.")
    if sampler.top_k is not None and sampler.top_k < 1:
        raise ValueError(f"sampler.top_k is {sampler.top_k}, but must be at least 1, or None for all levels.")


def _init_variables(model: Autoregressive) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        label = conditioning.of_batch(model.spec.conditioning, batch).get("label")
        return {"network": model.network.init(context.key, batch["image"], label)["params"]}, {}

    return init_variables


def _objective(model: Autoregressive) -> Objective:
    """The negative log-likelihood in nats per dimension."""
    conditions, dimensions = model.spec.conditioning, math.prod(model.spec.image_shape)

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        cond = conditioning.dropped(example_keys, conditions, batch, probability=model.settings.label_dropout)
        dropout_keys = keys.fold_each(example_keys, "dropout")
        log_probs = model.log_prob(params, batch["image"], cond, train=True, dropout_keys=dropout_keys)
        loss = -jnp.mean(log_probs) / dimensions
        return loss, (model_state, {"bits_per_dim": loss / math.log(2.0)})

    return objective
