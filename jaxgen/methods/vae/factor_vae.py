"""FactorVAE (Kim and Mnih 2018): a VAE whose latents' total correlation a discriminator estimates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, two_player
from jaxgen.core.config import Section, call
from jaxgen.core.contract import (
    Context,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
)
from jaxgen.core.schedules import Curve
from jaxgen.nn.mlp import MLP
from jaxgen.optim.optimizers import make_player_optimizers
from jaxgen.variational.autoencoder import Autoencoder, make_autoencoder, variables_of
from jaxgen.variational.capabilities import capabilities
from jaxgen.variational.density_ratio import density_ratio, discriminator_loss
from jaxgen.variational.inference import draw
from jaxgen.variational.objective import make_objective, make_terms


class Settings(NamedTuple):
    """The section `factor`.

    Attributes:
      weight: of the total correlation, gamma of the paper; may be scheduled.
      hidden: width of each hidden layer of the discriminator.
    """

    weight: float | str = 10.0
    hidden: tuple[int, ...] = (1000, 1000, 1000, 1000, 1000, 1000)


class _Parts(NamedTuple):
    """The two players and the weight of what joins them."""

    autoencoder: Autoencoder
    discriminator: MLP
    weight: Curve
    axis_name: str | None

    def discriminate(self, params: PyTree, latents: Float[Array, "b d"]) -> Float[Array, " b"]:
        return self.discriminator.apply({"params": params}, latents)[:, 0]


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the model; reads the sections vae, factor, model and optimizer, which has a subsection for each player.

    The player `generator` is the autoencoder, whose loss is that of the method vae.vae and the total correlation.
    Variables and functions are those of vae.vae.

    Raises:
      ValueError: if a setting is wrong; beside importance samples, for which the loss has no such term.
    """
    settings = call(Settings, config.factor, where="factor")
    autoencoder = make_autoencoder(config, spec)
    if autoencoder.settings.importance_samples > 1:
        raise ValueError("vae.importance_samples must be 1 in FactorVAE, whose loss is of the evidence lower bound.")
    parts = _Parts(
        autoencoder,
        MLP(1, settings.hidden, dtype=config.train.compute_dtype),
        Curve.of(settings.weight, where="factor.weight", low=0.0),
        env.axis_name,
    )
    optimizers = make_player_optimizers(
        config.optimizer, "generator", "discriminator", num_steps=config.train.num_steps
    )
    init, update = two_player(
        _init_variables(parts),
        generator=Player(_autoencoder_objective(parts), optimizers["generator"]),
        discriminator=Player(_discriminator_objective(parts), optimizers["discriminator"]),
        microbatches=config.train.microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return variables_of(state.params["generator"], state)

    return GenerativeModel(
        autoencoder.spec,
        init,
        update,
        eval_variables=eval_variables,
        microbatches=config.train.microbatches,
        **capabilities(autoencoder)._asdict(),
    )


def _init_variables(parts: _Parts) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        params, model_state = parts.autoencoder.init(context, batch)
        latents = jnp.zeros((1, parts.autoencoder.settings.latent_dim))
        discriminator = parts.discriminator.init(keys.stream(context.key, "discriminator"), latents)["params"]
        return {"generator": params, "discriminator": discriminator}, model_state

    return init_variables


def _autoencoder_objective(parts: _Parts) -> Objective:
    terms = make_terms(parts.autoencoder.settings.terms)

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        ratio = density_ratio(parts.discriminate, params["discriminator"], parts.weight)
        own = make_objective(parts.autoencoder, {**terms, "density_ratio": ratio}, parts.axis_name)
        return own(context, params["generator"], model_state, batch)

    return objective


def _discriminator_objective(parts: _Parts) -> Objective:
    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        label = conditioning.of_batch(parts.autoencoder.spec.conditioning, batch).get("label")
        mean, logvar = parts.autoencoder.posterior(params["generator"], batch["image"], label)
        latents = draw(mean, logvar, keys.per_example(context.key, batch["index"]))
        if parts.axis_name is not None:
            latents = jax.lax.all_gather(latents, parts.axis_name, tiled=True)
        added = discriminator_loss(parts.discriminate, params["discriminator"], context.key, latents)
        return added.loss, (model_state, added.metrics)

    return objective
