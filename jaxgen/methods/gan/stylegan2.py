"""StyleGAN2 (Karras et al. 2020): styles from a mapping network, lazy R1 and path length regularization."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Objective, Player, lazy_phases, two_player
from jaxgen.core.conditioning import Conditions
from jaxgen.core.config import Need, Section, call, choose
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    TrainState,
    for_classes,
)
from jaxgen.losses.adversarial import LOSSES, AdversarialLoss
from jaxgen.losses.gradient_penalties import path_lengths, r1
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator
from jaxgen.nn.stylegan2_layers import NoiseMode
from jaxgen.optim.optimizers import make_player_optimizers, with_lazy_updates


class Settings(NamedTuple):
    """The section `gan`.

    Attributes:
      loss: name of an adversarial loss, one of `jaxgen.losses.adversarial.LOSSES`.
      class_conditional: whether both networks see the class.
      style_mixing: how often the layers of an image from some layer on have the style of another latent.
      w_avg_decay: weight of the old average of styles in the new one, with each batch.
      r1_gamma: twice the weight of the penalty R1; 0 for none.
      r1_every_steps: distance between the discriminator's updates on it.
      path_length_weight: of the deviation of path lengths from their average; 0 for none.
      path_length_every_steps: distance between the generator's updates on it.
      path_length_shrink: one image in so many is used for it.
      path_length_decay: weight of a batch in the average path length.
    """

    loss: str = "non_saturating"
    class_conditional: bool = False
    style_mixing: float = 0.9
    w_avg_decay: float = 0.995
    r1_gamma: float = 10.0
    r1_every_steps: int = 16
    path_length_weight: float = 2.0
    path_length_every_steps: int = 4
    path_length_shrink: int = 2
    path_length_decay: float = 0.01

    def lazy(self) -> dict[str, int]:
        """For each player that is regularized, every how many steps."""
        intervals = {
            "discriminator": self.r1_every_steps if self.r1_gamma else 0,
            "generator": self.path_length_every_steps if self.path_length_weight else 0,
        }
        return {player: every for player, every in intervals.items() if every}


_PATH_LENGTH = Need("a gan.path_length_weight above 0", lambda gan: gan.path_length_weight != 0.0)
NEEDS = {
    "r1_every_steps": Need("a gan.r1_gamma above 0", lambda gan: gan.r1_gamma != 0.0),
    "path_length_every_steps": _PATH_LENGTH,
    "path_length_shrink": _PATH_LENGTH,
    "path_length_decay": _PATH_LENGTH,
}
"""Settings of the section `gan` without an effect, unless others are as said."""


class SamplerSettings(NamedTuple):
    """The section `sampler`.

    Attributes:
      truncation_psi: how far styles stay from their average, relative to where they were: 1 for no truncation.
      truncation_cutoff: number of layers, from the coarsest on, whose styles are truncated; None for all.
      noise_mode: `random` for noise from the key of each image, `const` or `none`. Decoding a latent is without keys,
        and has `const` in the place of `random`.
    """

    truncation_psi: float = 1.0
    truncation_cutoff: int | None = None
    noise_mode: NoiseMode = "random"


SAMPLER_NEEDS = {
    "truncation_cutoff": Need("a sampler.truncation_psi other than 1", lambda sampler: sampler.truncation_psi != 1.0)
}
"""The same for the section `sampler`."""


class Networks(NamedTuple):
    """The two networks, their loss and their settings."""

    spec: ModelSpec
    generator: Generator
    discriminator: Discriminator
    loss: AdversarialLoss
    settings: Settings
    axis_name: str | None


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a StyleGAN2; reads the sections gan, sampler, generator, discriminator and, for each player, optimizer.

    Learning rate and decays of the optimizers are those of the paper: what lazy regularization makes of them is done
    here.
    """
    settings = call(Settings, config.gan, where="gan", needs=NEEDS)
    sampler = call(SamplerSettings, config.sampler, where="sampler", needs=SAMPLER_NEEDS)
    _check(settings)
    spec = for_classes(spec, settings.class_conditional, where="gan")
    networks = _networks(config, settings, spec, env)
    spec = spec._replace(latent_shape=(networks.generator.z_dim,))
    lazy = settings.lazy()
    section = {
        name: with_lazy_updates(own, lazy[name]) if name in lazy else own for name, own in config.optimizer.items()
    }
    optimizers = make_player_optimizers(section, "generator", "discriminator", num_steps=config.train.num_steps)
    regularizers = {"generator": _path_length_objective(networks), "discriminator": _r1_objective(networks)}
    init, update = two_player(
        _init_variables(networks),
        generator=Player(_generator_objective(networks), optimizers["generator"], regularizers["generator"]),
        discriminator=Player(
            _discriminator_objective(networks), optimizers["discriminator"], regularizers["discriminator"]
        ),
        microbatches=config.train.microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return _variables(state.params, state.model_state)

    synthesize = _synthesis(networks, sampler, spec.conditioning)

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        noise_mode = "const" if sampler.noise_mode == "random" else sampler.noise_mode
        return synthesize(variables, latents, cond, None, noise_mode)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return synthesize(variables, _latents(networks, sample_keys), cond, sample_keys, sampler.noise_mode)

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        decode=decode,
        phase=lazy_phases(lazy),
        microbatches=config.train.microbatches,
    )


def _synthesis(networks: Networks, sampler: SamplerSettings, conditions: Conditions) -> Callable[..., Array]:
    """Returns the generator, truncated and clipped, as a function of variables, latents, conditions and noise."""

    def synthesize(
        variables: PyTree,
        latents: Float[Array, "n d"],
        cond: Conditioning,
        noise_keys: Key[Array, " n"] | None,
        noise_mode: NoiseMode,
    ) -> Float[Array, "n h w c"]:
        images = networks.generator.apply(
            variables,
            latents,
            conditioning.complete(conditions, cond, len(latents)).get("label"),
            noise_keys=noise_keys,
            noise_mode=noise_mode,
            truncation_psi=sampler.truncation_psi,
            truncation_cutoff=sampler.truncation_cutoff,
        )
        return jnp.clip(images, -1.0, 1.0)

    return synthesize


def _check(settings: Settings) -> None:
    for name in ("r1_every_steps", "path_length_every_steps", "path_length_shrink"):
        if getattr(settings, name) < 1:
            raise ValueError(f"gan.{name} is {getattr(settings, name)}, but must be at least 1.")
    for name in ("style_mixing", "w_avg_decay", "path_length_decay"):
        if not 0.0 <= getattr(settings, name) <= 1.0:
            raise ValueError(f"gan.{name} is {getattr(settings, name)}, but must lie in [0, 1].")
    for name in ("r1_gamma", "path_length_weight"):
        if not getattr(settings, name) >= 0.0:
            raise ValueError(f"gan.{name} is {getattr(settings, name)}, but must be at least 0.")


def _networks(config: Section, settings: Settings, spec: ModelSpec, env: Env) -> Networks:
    shared = {"num_classes": spec.num_classes, "dtype": config.train.compute_dtype}
    return Networks(
        spec,
        call(Generator, config.generator, where="generator", image_shape=spec.image_shape, **shared),
        call(Discriminator, config.discriminator, where="discriminator", axis_name=env.axis_name, **shared),
        choose(LOSSES, settings.loss, where="gan.loss"),
        settings,
        env.axis_name,
    )


def _init_variables(networks: Networks) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        key, label = context.key, _label(networks.spec, batch)
        latents = jnp.zeros((len(batch["image"]), networks.generator.z_dim))
        generator = networks.generator.init(keys.stream(key, "generator"), latents, label)
        discriminator = networks.discriminator.init(keys.stream(key, "discriminator"), batch["image"], label)
        model_state = {"generator": generator["buffers"]}
        if networks.settings.path_length_weight:
            model_state["path_length"] = jnp.zeros(())
        return {"generator": generator["params"], "discriminator": discriminator["params"]}, model_state

    return init_variables


def _discriminator_objective(networks: Networks) -> Objective:
    """Real and generated images are discriminated apart, so that groups are of one kind, as in the official code."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake, model_state = _generate(networks, context, params, model_state, batch)
        real_logits = _discriminate(networks, params, batch["image"], batch)
        fake_logits = _discriminate(networks, params, fake, batch)
        metrics = {"logits/real": jnp.mean(real_logits), "logits/fake": jnp.mean(fake_logits)}
        return jnp.mean(networks.loss.discriminator(real_logits, fake_logits)), (model_state, metrics)

    return objective


def _generator_objective(networks: Networks) -> Objective:
    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake, model_state = _generate(networks, context, params, model_state, batch)
        return jnp.mean(networks.loss.generator(_discriminate(networks, params, fake, batch))), (model_state, {})

    return objective


def _r1_objective(networks: Networks) -> Objective:
    """R1, gamma / 2 of it, as often as it is left out at once (Karras et al. 2020, appendix B)."""
    weight = 0.5 * networks.settings.r1_gamma * networks.settings.r1_every_steps

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        del context
        penalty = jnp.mean(r1(lambda images: _discriminate(networks, params, images, batch), batch["image"]))
        return weight * penalty, (model_state, {"r1": penalty})

    return objective


def _path_length_objective(networks: Networks) -> Objective:
    """The squared deviation of path lengths from their average, which is kept in `model_state` (eq. 4)."""
    settings = networks.settings
    weight = settings.path_length_weight * settings.path_length_every_steps

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        some = _every(settings.path_length_shrink, batch)
        example_keys = keys.per_example(context.key, some["index"])
        ws, model_state = _styles(networks, example_keys, params, model_state, some)
        noise = keys.normal(keys.fold_each(example_keys, "path"), some["image"].shape[1:])
        lengths = path_lengths(lambda ws: _synthesize(networks, example_keys, params, model_state, ws), ws, noise)
        old = model_state["path_length"]
        average = old + settings.path_length_decay * (_batch_mean(networks, lengths) - old)
        model_state = {**model_state, "path_length": jax.lax.stop_gradient(average)}
        metrics = {"path_length": jnp.mean(lengths)}
        return weight * jnp.mean((lengths - average) ** 2), (model_state, metrics)

    return objective


def _every(shrink: int, batch: Microbatch) -> Microbatch:
    """One image in `shrink`, the same ones however the batch is laid out over devices."""
    size = len(batch["image"])
    if size % shrink:
        raise ValueError(
            f"gan.path_length_shrink is {shrink}, but must divide the batch of each device, which is {size} "
            "(data.batch_size over train.microbatches and, where parallel.mode is pmap, over the devices)."
        )
    return jax.tree.map(lambda x: x[::shrink], batch)


def _generate(
    networks: Networks, context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
) -> tuple[Float[Array, "b h w c"], PyTree]:
    """As many images as the batch has, and the model state with the new average of styles."""
    example_keys = keys.per_example(context.key, batch["index"])
    ws, model_state = _styles(networks, example_keys, params, model_state, batch)
    return _synthesize(networks, example_keys, params, model_state, ws), model_state


def _styles(
    networks: Networks, example_keys: Key[Array, " b"], params: PyTree, model_state: PyTree, batch: Microbatch
) -> tuple[Float[Array, "b n d"], PyTree]:
    """Styles of random latents, mixed; and the model state with the new average of styles."""
    label, variables = _label(networks.spec, batch), _variables(params, model_state)
    ws = networks.generator.apply(variables, _latents(networks, example_keys), label, method="styles")
    buffers, decay = model_state["generator"], networks.settings.w_avg_decay
    mean = jax.lax.stop_gradient(_batch_mean(networks, ws[:, 0]))
    model_state = {**model_state, "generator": {**buffers, "w_avg": mean + decay * (buffers["w_avg"] - mean)}}
    if networks.settings.style_mixing:
        mixing_keys = keys.fold_each(example_keys, "style_mixing")
        others = networks.generator.apply(variables, _latents(networks, mixing_keys), label, method="styles")
        ws = jnp.where(_kept(mixing_keys, networks.settings.style_mixing, ws.shape[1])[:, :, None], ws, others)
    return ws, model_state


def _kept(mixing_keys: Key[Array, " b"], probability: float, num_layers: int) -> Array:
    """Draws the layers that keep their style: all, or those before a random one (Karras et al. 2019, section 3.1)."""
    mixed = keys.bernoulli(keys.fold_each(mixing_keys, "whether"), probability)
    crossovers = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_layers))(
        keys.fold_each(mixing_keys, "crossover")
    )
    return jnp.arange(num_layers)[None, :] < jnp.where(mixed, crossovers, num_layers)[:, None]


def _synthesize(
    networks: Networks, example_keys: Key[Array, " b"], params: PyTree, model_state: PyTree, ws: Float[Array, "b n d"]
) -> Float[Array, "b h w c"]:
    """Images in training, with noise of their own."""
    options = {"noise_keys": example_keys, "noise_mode": "random"}
    return networks.generator.apply(_variables(params, model_state), ws, **options, method="synthesize")


def _discriminate(
    networks: Networks, params: PyTree, images: Float[Array, "b h w c"], batch: Microbatch
) -> Float[Array, " b"]:
    return networks.discriminator.apply({"params": params["discriminator"]}, images, _label(networks.spec, batch))


def _batch_mean(networks: Networks, x: Float[Array, " b *rest"]) -> Float[Array, " *rest"]:
    """The mean over the whole batch, however many devices it is spread over."""
    mean = jnp.mean(x, axis=0)
    return mean if networks.axis_name is None else jax.lax.pmean(mean, networks.axis_name)


def _variables(params: PyTree, model_state: PyTree) -> PyTree:
    return {"params": params["generator"], "buffers": model_state["generator"]}


def _latents(networks: Networks, sample_keys: Key[Array, " n"]) -> Float[Array, "n d"]:
    return keys.normal(keys.fold_each(sample_keys, "latent"), (networks.generator.z_dim,))


def _label(spec: ModelSpec, batch: Microbatch) -> Int[Array, " b"] | None:
    return conditioning.of_batch(spec.conditioning, batch).get("label")
