"""Normalizing flows, trained by maximum likelihood: any network of `nn.flow_network`, on dequantized images.

RealNVP, Glow, neural spline flows, TarFlow and Jet differ by their network; each file in `configs/` is one choice.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Need, Needs, Section, call, check_bounds
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
    TrainState,
    for_classes,
)
from jaxgen.core.gaussians import gaussian_log_likelihood
from jaxgen.losses import dequantization
from jaxgen.nn.dequantizer import Dequantizer
from jaxgen.nn.flow_network import FlowGuidance, GuidedFlowNetwork, make_flow_network
from jaxgen.optim.optimizers import make_optimizer

Values = Float[Array, "n h w c"]


class Settings(NamedTuple):
    """The section `flow`.

    Attributes:
      dequantization: noise that makes values of levels: `uniform`, `variational`, which is learned (Flow++, Ho et al.
        2019), or `gaussian` noise added to the images (TarFlow, Zhai et al. 2024). The first two have a
        likelihood of the levels, the last one has none.
      noise_std: standard deviation of Gaussian noise, for pixels in [-1, 1].
      dequantizer_width: channels within the couplings of the learned noise.
      dequantizer_couplings: number of these couplings.
      logit_alpha: if positive, the network sees logits of the values, whose ends are moved inside by this share (Dinh
        et al. 2017, section 4.1).
      num_draws: of noise, for the bound on the likelihood of an image, which is the tighter the more there are.
      class_conditional: whether the network is conditioned on the class.
      label_dropout: probability of the null condition instead of the class in training.
    """

    dequantization: Literal["uniform", "variational", "gaussian"] = "uniform"
    noise_std: float = 0.05
    dequantizer_width: int = 32
    dequantizer_couplings: int = 4
    logit_alpha: float = 0.0
    num_draws: int = 1
    class_conditional: bool = False
    label_dropout: float = 0.0


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      temperature: standard deviation of the latents that samples are made of.
      guidance_scale: of `FlowGuidance`, for networks that have guidance; 1 for none.
      guided: the guided values: log-scales `a`, shifts `b`, or both.
      guidance_annealed: whether guidance grows along the sequence.
      attention_temperature: of the null condition in guidance.
      denoise: whether Gaussian noise, with which the network was trained, is removed from its samples by a step along
        the score (Zhai et al. 2024).
    """

    temperature: float = 1.0
    guidance_scale: float = 1.0
    guided: Literal["ab", "a", "b"] = "ab"
    guidance_annealed: bool = False
    attention_temperature: float = 1.0
    denoise: bool = True


def _dequantized(*kinds: str) -> Need:
    names = " or ".join(f"flow.dequantization={kind}" for kind in kinds)
    return Need(names, lambda flow: flow.dequantization in kinds)


NEEDS: Needs = {
    "noise_std": _dequantized("gaussian"),
    "dequantizer_width": _dequantized("variational"),
    "dequantizer_couplings": _dequantized("variational"),
    "logit_alpha": _dequantized("uniform", "variational"),
    "num_draws": _dequantized("uniform", "variational"),
    "label_dropout": Need("flow.class_conditional=True", lambda flow: flow.class_conditional),
}
"""Settings of the section `flow` that have an effect only beside others, with the condition of each."""

_BOUNDS = {
    "dequantizer_width": (1, math.inf),
    "dequantizer_couplings": (1, math.inf),
    "num_draws": (1, math.inf),
    "label_dropout": (0, 1),
}


def sampler_needs(settings: Settings) -> Needs:
    """Returns which settings of the section `sampler` have an effect only beside others."""
    null = settings.class_conditional and settings.label_dropout > 0.0

    def can_guide(sampler: Any) -> bool:
        return null or (not settings.class_conditional and sampler.attention_temperature != 1.0)

    classes = "classes and a positive flow.label_dropout, or no classes and a sampler.attention_temperature"
    guided = Need("sampler.guidance_scale other than 1.0", lambda sampler: sampler.guidance_scale != 1.0)
    return {
        "guidance_scale": Need(classes, can_guide),
        "guided": guided,
        "guidance_annealed": guided,
        "attention_temperature": guided,
        "denoise": Need(
            "flow.dequantization=gaussian", lambda sampler: settings.dequantization == "gaussian", (False,)
        ),
    }


class FlowTerms(NamedTuple):
    """The terms whose sum is the log-likelihood of images by one draw of noise, in nats.

    Attributes:
      prior: log N(latents; 0, I).
      log_det: log |det| of the network.
      noise: of dequantization: volume of a level and log-determinant of the logit, minus log q of the noise.
    """

    prior: Float[Array, " n"]
    log_det: Float[Array, " n"]
    noise: Float[Array, " n"]


class FlowModel(NamedTuple):
    """The pieces of a model, all of them static."""

    settings: Settings
    sampler: Sampler
    network: nn.Module
    dequantizer: Dequantizer
    spec: ModelSpec

    @property
    def dimensions(self) -> int:
        """The number of values of an image."""
        return math.prod(self.spec.image_shape)

    def values(
        self, params: PyTree, example_keys: Key[Array, " n"], images: Values
    ) -> tuple[Values, Float[Array, " n"]]:
        """Returns images as the network sees them, and the term `noise` of the likelihood."""
        settings, shape, levels = self.settings, images.shape[1:], self.spec.levels
        noise_keys = keys.fold_each(example_keys, "dequantization")
        log_volume = jnp.full(len(images), dequantization.log_volume(levels, self.dimensions))
        if settings.dequantization == "gaussian":
            return images + settings.noise_std * keys.normal(noise_keys, shape), jnp.zeros(len(images))
        if settings.dequantization == "variational":
            eps = keys.normal(noise_keys, shape)
            noise, log_q = self.dequantizer.apply({"params": params["dequantizer"]}, eps, images)
            log_volume -= log_q
        else:
            noise = keys.uniform(noise_keys, shape)
        values = dequantization.dequantize(images, noise, levels=levels)
        if settings.logit_alpha:
            values, log_det = dequantization.logit(values, settings.logit_alpha)
            log_volume += log_det
        return values, log_volume

    def images(self, values: Values) -> Values:
        """Returns the images of what the network sees, in [-1, 1]: the inverse of `values`, but for the noise."""
        if self.settings.dequantization != "gaussian":
            if self.settings.logit_alpha:
                values = dequantization.inverse_logit(values, self.settings.logit_alpha)
            values = dequantization.quantized(values, levels=self.spec.levels)
        return jnp.clip(values, -1.0, 1.0)

    def latents(
        self, variables: PyTree, values: Values, cond: Mapping[str, Array], dropout_keys: Array | None = None
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """Applies the network."""
        return self.network.apply(_of_network(variables), values, cond.get("label"), dropout_keys=dropout_keys)

    def terms(
        self,
        variables: PyTree,
        example_keys: Key[Array, " n"],
        images: Values,
        cond: Mapping[str, Array],
        dropout_keys: Array | None = None,
    ) -> FlowTerms:
        """Returns the terms of the log-likelihood by one draw of noise."""
        values, noise = self.values(variables["params"], example_keys, images)
        latents, log_det = self.latents(variables, values, cond, dropout_keys)
        return FlowTerms(_log_normal(latents), log_det, noise)

    def inverse(self, variables: PyTree, latents: Array, cond: Mapping[str, Array], *, guided: bool) -> Values:
        """Returns images of latents; without guidance they are those that `values` and `latents` came from."""
        of_network, label, sampler = _of_network(variables), cond.get("label"), self.sampler
        if guided and sampler.guidance_scale != 1.0:
            guidance = FlowGuidance(
                sampler.guidance_scale, sampler.guided, sampler.guidance_annealed, sampler.attention_temperature
            )
            values = self.network.apply(of_network, latents, label, guidance, method="guided_inverse")
        else:
            values = self.network.apply(of_network, latents, label, method="inverse")
        if self.settings.dequantization == "gaussian" and sampler.denoise:
            values += self.settings.noise_std**2 * self.score(variables, values, cond)
        return self.images(values)

    def score(self, variables: PyTree, values: Values, cond: Mapping[str, Array]) -> Values:
        """Returns the gradient of the log-density of what the network sees."""

        def log_density(values: Values) -> Array:
            latents, log_det = self.latents(variables, values, cond)
            return jnp.sum(_log_normal(latents) + log_det)

        return jax.grad(log_density)(values)


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a flow; reads the sections flow, sampler, model and optimizer.

    - `log_prob` is a lower bound on the log-probability of an image's levels, the logarithm of the mean of
      `flow.num_draws` draws of noise (see `losses.dequantization`); bits per dimension are that, negative, over d ln 2.
    - `encode` returns the latents of an image with noise by its key, and `decode` the images of latents, which after
      rounding to levels are those that were encoded. Guidance and temperature are those of `sample` alone.
    - Parameters are {"network": ...}, and "dequantizer" if the noise is learned; the model state holds constants. Those
      that start from data do so from the first batch, all of its microbatches and devices.
    """
    flow = _flow(config, spec)
    spec, conditions = flow.spec, flow.spec.conditioning
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    microbatches = config.train.microbatches
    player = Player(_objective(flow), optimizer)
    init, update = one_player(_init_variables(flow), player, microbatches=microbatches, env=env)

    def eval_variables(state: TrainState) -> PyTree:
        return {"params": state.params, "model_state": state.model_state}

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Values, cond: Conditioning = None
    ) -> Float[Array, "n d"]:
        told = conditioning.complete(conditions, cond, len(images))
        values, _ = flow.values(variables["params"], sample_keys, images)
        return flow.latents(variables, values, told)[0]

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Values:
        told = conditioning.complete(conditions, cond, len(latents))
        return flow.inverse(variables, latents, told, guided=False)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Values:
        told = conditioning.complete(conditions, cond, len(sample_keys))
        latents = flow.sampler.temperature * keys.normal(sample_keys, (flow.dimensions,))
        return flow.inverse(variables, latents, told, guided=True)

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        log_prob=_log_prob(flow) if spec.likelihood else None,
        encode=encode,
        decode=decode,
        microbatches=microbatches,
        nonfinite_hint="Latents far out can leave the range of the couplings: lower sampler.temperature.",
    )


def _flow(config: Section, spec: ModelSpec) -> FlowModel:
    settings = call(Settings, config.flow, where="flow", needs=NEEDS)
    check_bounds(settings, _BOUNDS, where="flow")
    if not settings.noise_std > 0.0:
        raise ValueError(f"flow.noise_std is {settings.noise_std}, but must be positive.")
    if not 0.0 <= settings.logit_alpha < 0.5:
        raise ValueError(f"flow.logit_alpha is {settings.logit_alpha}, but must lie in [0, 0.5).")
    spec = for_classes(spec, settings.class_conditional, where="flow", dropout=settings.label_dropout)
    sampler = call(Sampler, config.sampler, where="sampler", needs=sampler_needs(settings))
    for name in ("temperature", "attention_temperature"):
        if not getattr(sampler, name) > 0.0:
            raise ValueError(f"sampler.{name} is {getattr(sampler, name)}, but must be positive.")
    dtype = config.train.compute_dtype
    network = make_flow_network(config.model, image_shape=spec.image_shape, num_classes=spec.num_classes, dtype=dtype)
    if sampler.guidance_scale != 1.0 and not isinstance(network, GuidedFlowNetwork):
        raise ValueError(
            f"sampler.guidance_scale is {sampler.guidance_scale}, but {config.model.name} has no guidance: set it to "
            "1.0."
        )
    likelihood: Literal["lower_bound"] | None = None if settings.dequantization == "gaussian" else "lower_bound"
    spec = spec._replace(latent_shape=(math.prod(spec.image_shape),), likelihood=likelihood)
    dequantizer = Dequantizer(settings.dequantizer_width, settings.dequantizer_couplings, dtype)
    return FlowModel(settings, sampler, network, dequantizer, spec)


def _init_variables(flow: FlowModel) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        images, params = batch["image"], {}
        if flow.settings.dequantization == "variational":
            key = keys.stream(context.key, "dequantizer")
            params["dequantizer"] = flow.dequantizer.init(key, jnp.zeros_like(images), images)["params"]
        values, _ = flow.values(params, keys.per_example(context.key, batch["index"]), images)
        label = conditioning.of_batch(flow.spec.conditioning, batch).get("label")
        variables = dict(flow.network.init(keys.stream(context.key, "network"), values, label))
        params["network"] = variables.pop("params")
        return params, variables

    return init_variables


def _objective(flow: FlowModel) -> Objective:
    """The negative log-likelihood, in bits per dimension, and its terms."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        probability = flow.settings.label_dropout
        cond = conditioning.dropped(example_keys, flow.spec.conditioning, batch, probability=probability)
        variables = {"params": params, "model_state": model_state}
        dropout_keys = keys.fold_each(example_keys, "dropout")
        terms = flow.terms(variables, example_keys, batch["image"], cond, dropout_keys)
        bits = -1.0 / (flow.dimensions * math.log(2.0))
        metrics = {f"loss/{name}": bits * jnp.mean(term) for name, term in terms._asdict().items()}
        return sum(metrics.values(), jnp.zeros(())), (model_state, metrics)

    return objective


def _log_prob(flow: FlowModel) -> LogProb:
    def log_prob(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Values, cond: Conditioning = None
    ) -> Float[Array, " n"]:
        told = conditioning.complete(flow.spec.conditioning, cond, len(images))

        def draw(i: Array) -> Array:
            terms = flow.terms(variables, keys.fold_each(sample_keys, i), images, told)
            return terms.prior + terms.log_det + terms.noise

        return dequantization.log_mean_exp(jax.lax.map(draw, jnp.arange(flow.settings.num_draws)))

    return log_prob


def _of_network(variables: PyTree) -> dict[str, PyTree]:
    return {"params": variables["params"]["network"], **variables["model_state"]}


def _log_normal(latents: Float[Array, "n d"]) -> Float[Array, " n"]:
    return gaussian_log_likelihood(latents, jnp.zeros_like(latents), jnp.zeros(()))
