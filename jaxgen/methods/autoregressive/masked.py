"""Masked prediction of tokens, decoded many at a time: MaskGIT (Chang et al. 2022).

Tokens are the levels of pixels, or codes of a tokenizer, which come as images of such levels. The same network is an
autoregressive model in any order (Uria et al. 2014; Hoogeboom et al. 2022), which has a bound on the likelihood.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxgen.autoregressive import masking
from jaxgen.core import conditioning, keys
from jaxgen.core import images as image_ranges
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Need, Section, call, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    LogProb,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    Sample,
    TrainState,
    check_levels,
    for_classes,
)
from jaxgen.nn.masked_transformer import MaskedTransformer
from jaxgen.optim.optimizers import make_optimizer


class Settings(NamedTuple):
    """The section `masked`.

    Attributes:
      schedule: of the number of masked tokens in training, whose progress is drawn uniformly: `cosine`, or `linear` for
        numbers that are all as likely, of which the loss is the bound on the likelihood.
      label_smoothing: part of the target's probability that is spread evenly over all tokens.
      class_conditional: whether the network sees the class.
      label_dropout: probability of label dropout, for classifier-free guidance.
      likelihood_passes: evaluations of the network for the bound on an image's likelihood; 0 for none.
    """

    schedule: masking.Schedule = "cosine"
    label_smoothing: float = 0.0
    class_conditional: bool = False
    label_dropout: float = 0.0
    likelihood_passes: int = 0


class SamplerSettings(NamedTuple):
    """The section `sampler`.

    Attributes:
      num_steps: evaluations of the network, in each of which at least one token is decided.
      schedule: of the number of tokens that are still masked after each step.
      order: whether those are decided first that the network is sure of (`confidence`), or any (`random`).
      temperature: of the draws of tokens.
      choice_temperature: of the noise on the confidences, which falls to 0 with the last step.
      guidance_scale: of classifier-free guidance of the logits; 1 for none.
    """

    num_steps: int = 8
    schedule: masking.Schedule = "cosine"
    order: Literal["confidence", "random"] = "confidence"
    temperature: float = 1.0
    choice_temperature: float = 4.5
    guidance_scale: float = 1.0


NEEDS = {"label_dropout": Need("masked.class_conditional=True", lambda masked: masked.class_conditional, off=(0.0,))}
_STEPS = Need("a sampler.num_steps above 1", lambda sampler: sampler.num_steps != 1)
SAMPLER_NEEDS = {
    "choice_temperature": Need(
        "sampler.order=confidence and sampler.num_steps above 1",
        lambda sampler: sampler.order == "confidence" and sampler.num_steps != 1,
    ),
    "schedule": _STEPS,
    "order": _STEPS,
}
"""Settings without an effect, unless others are as said."""


class MaskedModel(NamedTuple):
    """The network, the tokens of an image, and the settings."""

    network: MaskedTransformer
    spec: ModelSpec
    settings: Settings

    @property
    def num_tokens(self) -> int:
        """The number of tokens of an image."""
        return math.prod(self.spec.image_shape)

    def tokens(self, x: Float[Array, "n h w c"]) -> Int[Array, "n t"]:
        """Returns the levels of images, row by row, the channels of a pixel side by side."""
        return image_ranges.indices(x, self.spec.levels).reshape(len(x), -1)

    def images(self, tokens: Int[Array, "n t"]) -> Float[Array, "n h w c"]:
        """Returns the images of levels: the inverse of `tokens`."""
        return image_ranges.from_indices(tokens, self.spec.levels).reshape(len(tokens), *self.spec.image_shape)

    def logits(
        self,
        params: PyTree,
        tokens: Int[Array, "n t"],
        cond: Mapping[str, Array],
        *,
        dropout_keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n t v"]:
        """Returns the logits of every token, with dropout where there are keys."""
        options = {"train": dropout_keys is not None, "dropout_keys": dropout_keys}
        return self.network.apply({"params": params}, tokens, cond.get("label"), **options)

    def masked(self, tokens: Int[Array, "n t"], mask: Bool[Array, "n t"]) -> Int[Array, "n t"]:
        """Returns tokens of which some are masked."""
        return jnp.where(mask, self.spec.levels, tokens)


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a masked model; reads the sections masked, sampler, model and optimizer.

    `log_prob`, if `masked.likelihood_passes` is positive, is a bound on the probability of the image under random
    orders of its tokens, one at a time (Hoogeboom et al. 2022, section 3): an unbiased estimate by so many evaluations,
    exact but for the choice of tokens if they are as many as tokens.

    Raises:
      ValueError: if the data are no levels, a setting has no effect, or its value is out of range.
    """
    settings = call(Settings, config.masked, where="masked", needs=NEEDS)
    model = _model(config, settings, spec)
    sampler = _sampler_settings(config, settings, model)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    objective = _objective(model)
    init, update = one_player(
        _init_variables(model), Player(objective, optimizer), microbatches=config.train.microbatches, env=env
    )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    return GenerativeModel(
        model.spec,
        init,
        update,
        _sample(model, sampler),
        eval_variables,
        log_prob=_log_prob(model) if settings.likelihood_passes else None,
        objective=objective,
        microbatches=config.train.microbatches,
    )


def _model(config: Section, settings: Settings, spec: ModelSpec) -> MaskedModel:
    check_levels(spec, by="The method autoregressive.masked")
    check_bounds(settings, {"label_dropout": (0, 1), "likelihood_passes": (0, math.inf)}, where="masked")
    if not 0.0 <= settings.label_smoothing < 1.0:
        raise ValueError(f"masked.label_smoothing is {settings.label_smoothing}, but must lie in [0, 1).")
    spec = for_classes(spec, settings.class_conditional, where="masked", dropout=settings.label_dropout)
    spec = spec._replace(likelihood="lower_bound" if settings.likelihood_passes else None)
    given = {"vocabulary": spec.levels, "num_classes": spec.num_classes, "dtype": config.train.compute_dtype}
    return MaskedModel(call(MaskedTransformer, config.model, where="model", **given), spec, settings)


def _sampler_settings(config: Section, settings: Settings, model: MaskedModel) -> SamplerSettings:
    sampler = call(SamplerSettings, config.sampler, where="sampler", needs=SAMPLER_NEEDS)
    check_bounds(sampler, {"num_steps": (1, model.num_tokens), "choice_temperature": (0, math.inf)}, where="sampler")
    if not sampler.temperature > 0.0:
        raise ValueError(f"sampler.temperature is {sampler.temperature}, but must be positive.")
    masking.check_guidance(sampler.guidance_scale, label_dropout=settings.label_dropout)
    return sampler


def _init_variables(model: MaskedModel) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        label = conditioning.of_batch(model.spec.conditioning, batch).get("label")
        tokens = model.tokens(batch["image"])
        return model.network.init(keys.stream(context.key, "network"), tokens, label, train=False)["params"], {}

    return init_variables


def _objective(model: MaskedModel) -> Objective:
    """The cross-entropy of masked tokens given the others (Chang et al. 2022, eq. 1), a mean over those of an image."""
    settings = model.settings

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        cond = conditioning.dropped(example_keys, model.spec.conditioning, batch, probability=settings.label_dropout)
        tokens = model.tokens(batch["image"])
        progress = keys.uniform(keys.fold_each(example_keys, "progress"))
        # At least one, since the schedule is above 0 before its end; all of them at its start.
        number = jnp.ceil(masking.masked_part(settings.schedule, progress) * model.num_tokens)
        mask = masking.drawn_mask(keys.fold_each(example_keys, "mask"), jnp.maximum(number, 1.0), model.num_tokens)
        dropout_keys = keys.fold_each(example_keys, "dropout")
        logits = model.logits(params, model.masked(tokens, mask), cond, dropout_keys=dropout_keys)
        log_probs = jax.nn.log_softmax(logits)
        nats = -_of_tokens(log_probs, tokens)
        metrics = {
            "loss/cross_entropy": jnp.mean(masking.mean_over(mask, nats)),
            "accuracy": jnp.mean(masking.mean_over(mask, jnp.argmax(logits, axis=-1) == tokens)),
        }
        smoothing = settings.label_smoothing
        smoothed = (1.0 - smoothing) * nats - smoothing * jnp.mean(log_probs, axis=-1)
        return jnp.mean(masking.mean_over(mask, smoothed)), (model_state, metrics)

    return objective


def _log_prob(model: MaskedModel) -> LogProb:
    passes = model.settings.likelihood_passes

    def log_prob(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        told = conditioning.complete(model.spec.conditioning, cond, len(images))
        tokens = model.tokens(images)
        start = keys.uniform(keys.fold_each(sample_keys, "progress"))

        def one_pass(total: Float[Array, " n"], i: Int[Array, ""]) -> tuple[Float[Array, " n"], None]:
            # The numbers 1 to N, each as likely, spread evenly over the passes.
            number = 1.0 + jnp.floor((i + start) / passes * model.num_tokens)
            pass_keys = keys.fold_each(keys.fold_each(sample_keys, "mask"), i)
            mask = masking.drawn_mask(pass_keys, jnp.minimum(number, model.num_tokens), model.num_tokens)
            log_probs = jax.nn.log_softmax(model.logits(variables, model.masked(tokens, mask), told))
            return total + masking.mean_over(mask, _of_tokens(log_probs, tokens)), None

        total, _ = jax.lax.scan(one_pass, jnp.zeros(len(images)), jnp.arange(passes))
        return model.num_tokens * total / passes

    return log_prob


def _sample(model: MaskedModel, sampler: SamplerSettings) -> Sample:
    """Parallel decoding (Chang et al. 2022, section 3.2)."""
    left = masking.masked_after_steps(sampler.schedule, sampler.num_steps, model.num_tokens)

    def logits_of(params: PyTree, tokens: Int[Array, "n t"], cond: Mapping[str, Array]) -> Float[Array, "n t v"]:
        if sampler.guidance_scale == 1.0:
            return model.logits(params, tokens, cond)
        twice = conditioning.doubled(model.spec.conditioning, cond)
        with_class, without = jnp.split(model.logits(params, jnp.concatenate([tokens, tokens]), twice), 2)
        return without + sampler.guidance_scale * (with_class - without)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        told = conditioning.complete(model.spec.conditioning, cond, len(sample_keys))

        def step(tokens: Int[Array, "n t"], of_step: tuple[Array, Array]) -> tuple[Int[Array, "n t"], None]:
            i, number = of_step
            step_keys = keys.fold_each(sample_keys, i)
            logits = logits_of(variables, tokens, told)
            drawn = jax.vmap(jax.random.categorical)(keys.fold_each(step_keys, "token"), logits / sampler.temperature)
            known = tokens != model.spec.levels
            proposed = jnp.where(known, tokens, drawn)
            choice_keys = keys.fold_each(step_keys, "choice")
            if sampler.order == "random":
                confidence = keys.uniform(choice_keys, (model.num_tokens,))
            else:
                noise = jax.vmap(lambda key: jax.random.gumbel(key, (model.num_tokens,)))(choice_keys)
                heat = sampler.choice_temperature * (1.0 - (i + 1.0) / sampler.num_steps)
                confidence = _of_tokens(jax.nn.log_softmax(logits), proposed) + heat * noise
            mask = masking.ranks(jnp.where(known, jnp.inf, confidence)) < number
            return model.masked(proposed, mask), None

        start = jnp.full((len(sample_keys), model.num_tokens), model.spec.levels)
        tokens, _ = jax.lax.scan(step, start, (jnp.arange(sampler.num_steps), jnp.asarray(left)))
        return model.images(tokens)

    return sample


def _of_tokens(log_probs: Float[Array, "n t v"], tokens: Int[Array, "n t"]) -> Float[Array, "n t"]:
    return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
