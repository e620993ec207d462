"""Adversarial training of the samples of a few-step model, beside its own objective.

The generator is the sampler of the other model, differentiated through its few steps: adversarial losses sharpen what
consistency models, mean flows and distilled models draw in one step (Kim et al. 2024, "Consistency trajectory models",
eq. 11; Sauer et al. 2023, "Adversarial diffusion distillation"; Yin et al. 2024, "Improved distribution matching
distillation"). The weight of the adversarial loss, `gan.weight`, is usually scheduled: 0 until the other objective has
made images worth discriminating.
"""

from typing import NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.adversarial.builder import Settings, make_training
from jaxgen.adversarial.players import Players, discriminate_with, state_of
from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core import keys
from jaxgen.core.config import Section, call, resolve
from jaxgen.core.contract import Context, Env, GenerativeModel, Microbatch, ModelSpec, TrainState, require
from jaxgen.nn.adversarial import make_discriminator


class PostTraining(NamedTuple):
    """The section `gan`.

    Attributes:
      beside: the other method, a module of `jaxgen.methods` such as `denoising.consistency`; its sections are beside.
      loss, weight, terms, augment, n_critic, top_share: as in `adversarial.builder.Settings`.
    """

    beside: str
    loss: str = "non_saturating"
    weight: float | str = 1.0
    terms: tuple[str, ...] = ()
    augment: str | tuple[str, ...] = ()
    n_critic: int = 1
    top_share: float | str = 1.0


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the model; reads the sections gan, discriminator, optimizer of each player, and those of `gan.beside`.

    Raises:
      ValueError: if a setting is wrong, or the other method has no objective of its own.
    """
    settings = call(PostTraining, config.gan, where="gan")
    method = resolve("jaxgen.methods", settings.beside, where="gan.beside")
    inner: GenerativeModel = method.make(config.replaced({"optimizer": config.optimizer.generator}), spec, env)
    require(inner, "objective", by=f"Adversarial training beside {settings.beside} (gan.beside)")
    discriminator = make_discriminator(
        config.discriminator,
        num_classes=inner.spec.num_classes,
        axis_name=env.axis_name,
        dtype=config.train.compute_dtype,
    )
    rules = Settings(**{name: value for name, value in settings._asdict().items() if name != "beside"})
    terms = {"beside": Term(generator=lambda turn: _other_objective(inner, turn))}
    training = make_training(_players(inner, discriminator), rules, config, inner.spec, env, terms)

    def eval_variables(state: TrainState) -> PyTree:
        return inner.eval_variables(state._replace(params=state.params["generator"], model_state={}))

    return inner._replace(
        init=training.init,
        update=training.update,
        eval_variables=eval_variables,
        phase=training.phase,
        objective=None,
        microbatches=training.microbatches,
    )


def _players(inner: GenerativeModel, discriminator: nn.Module) -> Players:
    """The sampler of the other model against a discriminator."""

    def init(
        context: Context, batch: Microbatch, label: Int[Array, " b"] | None
    ) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        state = inner.init(context.key, jax.tree.map(lambda x: x[None], batch), context.frozen)
        variables = discriminator.init(keys.stream(context.key, "discriminator"), batch["image"], label, train=False)
        params = {"generator": state.params, "discriminator": variables["params"]}
        return params, {"generator": {}, "discriminator": state_of(variables)}

    def generate(
        context: Context,
        params: PyTree,
        state: PyTree,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b h w c"], PyTree]:
        del latents
        variables = inner.eval_variables(TrainState(context.step, params, (), {}, frozen=context.frozen))
        return inner.sample(example_keys, variables, None if label is None else {"label": label}), state

    return Players(init, generate, discriminate_with(discriminator), latent_dim=1)


def _other_objective(inner: GenerativeModel, turn: Turn) -> Cost:
    """The other method's loss on the same data."""
    assert inner.objective is not None
    loss, (_, metrics) = inner.objective(turn.context, turn.params["generator"], {}, turn.batch)
    return Cost(loss, metrics={"loss/beside": loss, **metrics})
