"""Adversarial training put together from its pieces: players, a loss, terms added to it, augmentation.

In a turn of a player, the discriminator sees real and generated images, both augmented, and the player descends on the
adversarial loss and the terms. What networks keep, such as batch statistics, moves with every pass in training.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgen.adversarial.augmentation.piece import Augmentation, make_augmentation
from jaxgen.adversarial.players import Players, draw_latents
from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, lazy_phases, two_player
from jaxgen.core.config import Section, call, call_text, check_bounds
from jaxgen.core.contract import (
    Context,
    Env,
    Init,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    Phase,
    Update,
    for_classes,
)
from jaxgen.core.schedules import Curve
from jaxgen.losses.adversarial import AdversarialLoss
from jaxgen.losses.selection import top_share
from jaxgen.nn.adversarial import Critique
from jaxgen.optim.optimizers import make_player_optimizers, with_lazy_updates

PLAYERS = ("discriminator", "generator")


class Settings(NamedTuple):
    """The section `gan`.

    Attributes:
      latent_dim: length of a latent, standard normal.
      loss: the adversarial loss, a function of `jaxgen.losses.adversarial`.
      weight: of the adversarial loss in the generator's; may be scheduled.
      terms: what is added to it, functions of `jaxgen.adversarial.terms`, such as `r1(gamma=1.0)`.
      augment: of all images that the discriminator sees, a function of `jaxgen.adversarial.augmentation.pieces`, or
        several, which are applied in their order; () for none.
      n_critic: updates of the discriminator before each of the generator (k in algorithm 1 of the first paper).
      class_conditional: whether both networks see the class.
      top_share: share of generated images, those that look most real, that the generator learns from; may be scheduled.
    """

    latent_dim: int = 100
    loss: str = "non_saturating"
    weight: float | str = 1.0
    terms: tuple[str, ...] = ()
    augment: str | tuple[str, ...] = ()
    n_critic: int = 1
    class_conditional: bool = False
    top_share: float | str = 1.0


def read_settings(config: Section, spec: ModelSpec) -> tuple[Settings, ModelSpec]:
    """Returns the section `gan`, and the spec of the model: the conditions that it takes, the length of its latents.

    Raises:
      ValueError: if a setting is wrong, or the model is to be conditional on classes that the data lacks.
    """
    settings = call(Settings, config.gan, where="gan")
    check_bounds(settings, {"latent_dim": (1, math.inf)}, where="gan")
    spec = for_classes(spec, settings.class_conditional, where="gan")
    return settings, spec._replace(latent_shape=(settings.latent_dim,))


class Rules(NamedTuple):
    """The pieces beside the networks.

    Attributes:
      loss: the adversarial loss.
      weight: of it, for the generator; a schedule.
      terms: what is added to it, by name.
      augmentation: of all images that the discriminator sees.
      top_share: of generated images, the share that the generator learns from; a schedule.
    """

    loss: AdversarialLoss
    weight: Curve
    terms: Mapping[str, Term]
    augmentation: Augmentation
    top_share: Curve


def make_rules(settings: Settings, image_shape: tuple[int, int, int]) -> Rules:
    """Returns the rules that settings name, for images of a shape.

    Raises:
      ValueError: if there is no such piece, a term is named twice, or a number is out of range.
    """
    named: dict[str, Term] = {}
    for text in settings.terms:
        name = text.partition("(")[0].strip()
        if name in named:
            raise ValueError(f"gan.terms has {name} twice: name every term once.")
        named[name] = call_text("jaxgen.adversarial.terms", text, where="gan.terms")
        if named[name].every_steps < 1:
            raise ValueError(
                f"gan.terms has {name} with every_steps={named[name].every_steps}, but at least 1 is needed."
            )
    return Rules(
        call_text("jaxgen.losses.adversarial", settings.loss, where="gan.loss"),
        Curve.of(settings.weight, where="gan.weight", low=0.0),
        named,
        make_augmentation(settings.augment, image_shape=image_shape),
        Curve.of(settings.top_share, where="gan.top_share", low=0.0, high=1.0),
    )


def lazy_steps(terms: Mapping[str, Term]) -> dict[str, int]:
    """Returns, for each player with terms of lazy regularization, the distance between its updates on them.

    Raises:
      ValueError: if a player's lazy terms have different distances.
    """
    found: dict[str, dict[str, int]] = {}
    for name, term in terms.items():
        for player in PLAYERS:
            if getattr(term, player) is not None and term.every_steps > 1:
                found.setdefault(player, {})[name] = term.every_steps
    for player, distances in found.items():
        if len(set(distances.values())) > 1:
            listed = ", ".join(f"{name} every {every}" for name, every in distances.items())
            raise ValueError(f"The {player}'s terms have different every_steps, {listed}: give them the same.")
    return {player: next(iter(distances.values())) for player, distances in found.items()}


class AdversarialTraining(NamedTuple):
    """The parts of a model that adversarial training makes.

    Attributes:
      init, update, phase, microbatches: as in `GenerativeModel`.
      optimizers: of the players, by name.
    """

    init: Init
    update: Update
    phase: Callable[[int], Phase]
    microbatches: int
    optimizers: Mapping[str, optax.GradientTransformationExtraArgs]


def make_training(
    players: Players,
    settings: Settings,
    config: Section,
    spec: ModelSpec,
    env: Env,
    terms: Mapping[str, Term] = MappingProxyType({}),
) -> AdversarialTraining:
    """Returns the training of two players.

    A player with lazy terms has its rate and decays corrected for the additional updates (Karras et al. 2020, appendix
    B): settings are those of the papers.

    Args:
      players: the networks.
      settings: the section `gan`.
      config: of the run; the section `optimizer` of each player and `train` are read.
      spec: of the model.
      env: facts of the run.
      terms: more of them than the settings name.

    Raises:
      ValueError: if a setting is wrong.
    """
    rules = make_rules(settings, spec.image_shape)
    rules = rules._replace(terms={**rules.terms, **terms})
    lazy = lazy_steps(rules.terms)
    sections = {
        name: with_lazy_updates(own, lazy[name]) if name in lazy else own for name, own in config.optimizer.items()
    }
    optimizers = make_player_optimizers(sections, "generator", "discriminator", num_steps=config.train.num_steps)
    table = _Table(players, rules, spec, env.axis_name)
    sides = {
        name: Player(
            _objective(table, name),
            optimizers[name],
            _regularizer(table, name, lazy[name]) if name in lazy else None,
        )
        for name in PLAYERS
    }
    n_critic, microbatches = settings.n_critic, config.train.microbatches
    init, update = two_player(_init_variables(table), **sides, n_critic=n_critic, microbatches=microbatches, env=env)
    return AdversarialTraining(init, update, lazy_phases(lazy), n_critic * microbatches, optimizers)


class _Table(NamedTuple):
    players: Players
    rules: Rules
    spec: ModelSpec
    axis_name: str | None

    def mean(self, x: Float[Array, "b *rest"]) -> Float[Array, " *rest"]:
        mean = jnp.mean(x, axis=0)
        return mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)

    def label(self, batch: Microbatch) -> Int[Array, " b"] | None:
        return conditioning.of_batch(self.spec.conditioning, batch).get("label")


def _init_variables(table: _Table) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        params, state = table.players.init(context, batch, table.label(batch))
        _check_terms(table, context, params, state, batch)
        terms = {name: term.init(params) for name, term in table.rules.terms.items()}
        state["terms"] = {name: kept for name, kept in terms.items() if jax.tree.leaves(kept)}
        return params, {**state, "augment": table.rules.augmentation.init()}

    return init_variables


def _check_terms(table: _Table, context: Context, params: PyTree, state: PyTree, batch: Microbatch) -> None:
    """Has terms refuse networks that lack what they need, before any update."""
    checks = [term.check for term in table.rules.terms.values() if term.check is not None]
    if not checks:
        return
    label, players, example_keys = table.label(batch), table.players, keys.per_example(context.key, batch["index"])

    def refuse(images: Float[Array, "b h w c"]) -> None:
        own = (params["discriminator"], state["discriminator"])
        critique, _ = players.discriminate(context, *own, images, label, example_keys)
        for check in checks:
            check(critique, label, players.styled)

    # Initialization is not mapped, but the discriminator in training takes means over the mapped axis: one of length 1.
    jax.eval_shape(jax.vmap(refuse, axis_name=table.axis_name), batch["image"][None])


def _objective(table: _Table, player: str) -> Objective:
    """The adversarial loss of a player, with the terms that are no lazy ones."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        turn, model_state = _turn(table, player, context, params, model_state, batch)
        loss, metrics = _adversarial(table, player, turn)
        costs, model_state, more = _costs(table, turn, model_state, every_steps=1)
        if player == "discriminator":
            model_state, augmented = _adapted(table, turn, model_state)
            more = {**more, **augmented}
        return loss + costs, (model_state, {**metrics, **more})

    return objective


def _regularizer(table: _Table, player: str, every_steps: int) -> Objective:
    """The lazy terms of a player, as many times as large as they are left out."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        turn, model_state = _turn(table, player, context, params, model_state, batch)
        costs, model_state, metrics = _costs(table, turn, model_state, every_steps=every_steps)
        return every_steps * costs, (model_state, metrics)

    return objective


def _adversarial(table: _Table, player: str, turn: Turn) -> tuple[Float[Array, ""], Metrics]:
    loss, mean = table.rules.loss, table.mean
    if player == "discriminator":
        real, fake = turn.real_critique.logits, turn.fake_critique.logits
        metrics = {"logits/real": jnp.mean(real), "logits/fake": jnp.mean(fake), "sign/real": jnp.mean(jnp.sign(real))}
        return jnp.mean(loss.discriminator(real, fake, mean=mean)), metrics
    fake = turn.fake_critique.logits
    real = turn.real_critique.logits if loss.relativistic else fake
    losses, step = loss.generator(real, fake, mean=mean), turn.context.step
    kept = table.rules.top_share
    value = jnp.mean(losses) if kept.low == 1.0 else top_share(losses, fake, kept(step))
    return table.rules.weight(step) * value, {}


def _costs(
    table: _Table, turn: Turn, model_state: PyTree, *, every_steps: int
) -> tuple[Float[Array, ""], PyTree, Metrics]:
    """The sum of the costs of the terms with this distance between updates, what they keep, and their metrics."""
    total, kept = jnp.zeros(()), dict(model_state["terms"])
    metrics: Metrics = {}
    for name, term in table.rules.terms.items():
        cost_of = getattr(term, turn.player)
        if cost_of is None or term.every_steps != every_steps:
            continue
        context = turn.context._replace(key=keys.stream(turn.context.key, name))
        cost: Cost = cost_of(
            turn._replace(context=context, keys=keys.fold_each(turn.keys, name), state=kept.get(name, ()))
        )
        total += cost.loss
        metrics |= cost.metrics
        if name in kept:
            kept[name] = cost.state
    return total, {**model_state, "terms": kept}, metrics


def _adapted(table: _Table, turn: Turn, model_state: PyTree) -> tuple[PyTree, Metrics]:
    """The augmentation's state after the discriminator's critique of real images, and its metrics."""
    augmentation = table.rules.augmentation
    logits = jax.lax.stop_gradient(turn.real_critique.logits)
    devices = 1 if table.axis_name is None else jax.lax.axis_size(table.axis_name)
    state = augmentation.update(
        model_state["augment"],
        logits,
        step=turn.context.step,
        axis_name=table.axis_name,
        batch_size=len(logits) * devices,
    )
    return {**model_state, "augment": state}, dict(augmentation.metrics(state, turn.context.step))


def _turn(
    table: _Table, player: str, context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
) -> tuple[Turn, PyTree]:
    """Generates images and discriminates both kinds, the real ones first; returns the model state after that."""
    players, augmentation = table.players, table.rules.augmentation
    example_keys, label, real = keys.per_example(context.key, batch["index"]), table.label(batch), batch["image"]
    latents = draw_latents(example_keys, players.latent_dim)
    own = {name: model_state[name] for name in PLAYERS}

    def generate(state: PyTree, latents: Float[Array, "b d"]) -> tuple[Float[Array, "b h w c"], PyTree]:
        return players.generate(context, params["generator"], state, latents, label, example_keys)

    def discriminate(stream: str, state: PyTree, images: Float[Array, "b h w c"]) -> tuple[Critique, PyTree]:
        critic_keys = keys.fold_each(example_keys, stream)
        return players.discriminate(context, params["discriminator"], state, images, label, critic_keys)

    fake, generator_state = generate(own["generator"], latents)
    augment_state, step = model_state["augment"], context.step
    augment_keys = {name: keys.fold_each(example_keys, f"augment_{name}") for name in ("real", "fake")}

    def shown_real(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return augmentation.real(augment_state, augment_keys["real"], images, fake, step)

    def shown_fake(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return augmentation.fake(augment_state, augment_keys["fake"], images, step)

    real_critique, between = discriminate("discriminate_real", own["discriminator"], shown_real(real))
    fake_critique, discriminator_state = discriminate("discriminate_fake", between, shown_fake(fake))
    turn = Turn(
        context,
        player,
        params,
        example_keys,
        batch,
        label,
        real,
        fake,
        latents,
        real_critique,
        fake_critique,
        discriminate_real=lambda images: discriminate("discriminate_real", own["discriminator"], shown_real(images))[0],
        discriminate_fake=lambda images: discriminate("discriminate_fake", between, shown_fake(images))[0],
        discriminate=lambda images: discriminate("discriminate", own["discriminator"], images)[0],
        generate=lambda latents: generate(own["generator"], latents)[0],
        styled=players.styled,
        mean=table.mean,
        generator_state=own["generator"],
    )
    moved = {"generator": generator_state, "discriminator": discriminator_state}
    if player == "generator":
        # The real images are seen for relativistic losses only: what the discriminator keeps is left as it was.
        moved["discriminator"] = own["discriminator"]
    return turn, {**model_state, **moved}
