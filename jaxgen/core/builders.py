"""Builders, which turn objectives and optax transformations into `init` and `update` of the contract.

Gradients meet optimizers here. They, and the metrics, are averaged over the mapped axis of the pmap path, where there
is one; methods average over it what they keep in the model state.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxgen.core import keys, trees
from jaxgen.core.contract import (
    CONSTANT,
    Batch,
    Context,
    Env,
    Init,
    Metrics,
    Microbatch,
    Objective,
    Phase,
    TrainState,
    Update,
)
from jaxgen.core.loops import scan

InitVariables = Callable[[Context, Microbatch], tuple[PyTree, PyTree]]
"""`(context, examples) -> (params, model_state)`, at step 0. The examples are those of the first gradient, accumulated
over microbatches or not, so that data-dependent values do not depend on that."""


class Player(NamedTuple):
    """One of the networks that are trained against each other, or the only one.

    Attributes:
      objective: what it minimizes.
      optimizer: how. Its `update` gets the run's step as the keyword `step`, if it takes one: schedules are functions
        of that, since a player may be updated several times in a step.
      regularizer: what it also minimizes, lazily: by updates of their own, in the phases whose `regularized` has it.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    regularizer: Objective | None = None


def lazy_phases(every_steps: Mapping[str, int]) -> Callable[[int], Phase]:
    """Returns the phases of lazy regularization (Karras et al. 2020, section 3.1), for `GenerativeModel.phase`.

    Args:
      every_steps: for each player that has a regularizer, the distance between the updates on it; the first is at
        step 0.
    """

    def phase(step: int) -> Phase:
        return Phase(regularized=tuple(sorted(name for name, every in every_steps.items() if step % every == 0)))

    return phase


def one_player(
    init_variables: InitVariables, player: Player, *, microbatches: int = 1, env: Env = Env()
) -> tuple[Init, Update]:
    """Returns `init` and `update` for one set of parameters and one objective, accumulating over `microbatches`.

    The metrics are those of the objective, `loss`, `grad_norm`, and the norms by module that `env` asks for:
    `grad_norm/MODULE`, `update_norm/MODULE` and, after the update, `param_norm/MODULE`.
    """
    optimizer = optax.with_extra_args_support(player.optimizer)

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        step = jnp.zeros((), jnp.int32)
        params, model_state = init_variables(Context(key, step, frozen=frozen), _joined(batch, microbatches))
        return TrainState(step, params, optimizer.init(params), model_state, frozen=frozen)

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        _expect_microbatches(batch, microbatches)
        objective = functools.partial(player.objective, Context(key, state.step, phase, state.frozen))
        grads, model_state, metrics = _gradient(
            objective, state.params, state.model_state, batch, axis_name=env.axis_name
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, step=state.step)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics |= _norms("", env.norms_depth, grad=grads, update=updates, param=params)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state, model_state=model_state), metrics

    return init, update


def two_player(
    init_variables: InitVariables,
    *,
    generator: Player,
    discriminator: Player,
    n_critic: int = 1,
    microbatches: int = 1,
    env: Env = Env(),
) -> tuple[Init, Update]:
    """Returns `init` and `update` of adversarial training.

    An update of the state is `n_critic` updates of the discriminator, each on its own data, then one of the generator.
    Parameters and optimizer states are dicts with the keys `generator` and `discriminator`. The batch has
    n_critic * microbatches slices; the generator's update sees the indices and labels of the last critic's data.
    Losses and norms have the name of the player in theirs: `loss/generator`, `grad_norm/generator/MODULE`.

    The updates of the players that the phase names in `regularized` are each followed by one on their regularizer, with
    the same data and optimizer.
    """
    if n_critic < 1:
        raise ValueError(f"gan.n_critic is {n_critic}, but must be at least 1.")
    players = {"discriminator": discriminator, "generator": generator}
    optimizers = {name: optax.with_extra_args_support(player.optimizer) for name, player in players.items()}

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        step = jnp.zeros((), jnp.int32)
        params, model_state = init_variables(Context(key, step, frozen=frozen), _joined(batch, microbatches))
        opt_state = {name: optimizer.init(params[name]) for name, optimizer in optimizers.items()}
        return TrainState(step, params, opt_state, model_state, frozen=frozen)

    def turn(name: str, context: Context, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        player = players[name]
        step = functools.partial(_player_step, name, optimizers[name], context, env=env)
        state, metrics = step(state, batch, player.objective, label=name)
        if player.regularizer is None or name not in context.phase.regularized:
            return state, metrics
        state, more = step(state, batch, player.regularizer, label=f"{name}_regularizer")
        return state, {**metrics, **more}

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        _expect_microbatches(batch, n_critic * microbatches)
        context = Context(key, state.step, phase, state.frozen)
        critic_batches = jax.tree.map(lambda x: x.reshape(n_critic, microbatches, *x.shape[1:]), batch)

        def critic(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return turn("discriminator", context, state, batch)

        state, metrics = scan(critic, state, critic_batches)
        state, generator_metrics = turn("generator", context, state, _microbatch(critic_batches, -1))
        return state._replace(step=state.step + 1), {**_mean(metrics), **generator_metrics}

    return init, update


def _player_step(
    name: str,
    optimizer: optax.GradientTransformationExtraArgs,
    context: Context,
    state: TrainState,
    batch: Batch,
    objective: Objective,
    *,
    label: str,
    env: Env,
) -> tuple[TrainState, Metrics]:
    """Does one update of one player on an objective; `label` names its loss and norms among the metrics."""
    own_context = context._replace(key=keys.stream(context.key, label))

    def own_objective(own_params, model_state, microbatch):
        return objective(own_context, {**state.params, name: own_params}, model_state, microbatch)

    grads, model_state, metrics = _gradient(
        own_objective, state.params[name], state.model_state, batch, axis_name=env.axis_name
    )
    updates, opt_state = optimizer.update(grads, state.opt_state[name], state.params[name], step=state.step)
    params = optax.apply_updates(state.params[name], updates)
    metrics = {(f"loss/{label}" if k == "loss" else k): v for k, v in metrics.items()}
    metrics[f"grad_norm/{label}"] = optax.tree.norm(grads)
    metrics |= _norms(f"{label}/", env.norms_depth, grad=grads, update=updates, param=params)
    state = state._replace(
        params={**state.params, name: params},
        opt_state={**state.opt_state, name: opt_state},
        model_state=model_state,
    )
    return state, metrics


def _gradient(
    objective: Callable[[PyTree, PyTree, Microbatch], tuple[Array, tuple[PyTree, Metrics]]],
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    *,
    axis_name: str | None,
) -> tuple[PyTree, PyTree, Metrics]:
    """Returns gradient, model state and metrics; gradient and metrics are means over microbatches and the mapped axis.

    The model state is passed from one microbatch to the next.
    """

    def accumulate(carry: tuple[PyTree, PyTree], microbatch: Microbatch) -> tuple[tuple[PyTree, PyTree], Metrics]:
        total, model_state = carry
        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (model_state, metrics)), grads = value_and_grad(params, model_state, microbatch)
        return (jax.tree.map(jnp.add, total, grads), model_state), {"loss": loss, **metrics}

    zeros = jax.tree.map(jnp.zeros_like, params)
    (total, model_state), metrics = scan(accumulate, (zeros, model_state), batch)
    grads = jax.tree.map(lambda g: g / jax.tree.leaves(batch)[0].shape[0], total)
    metrics = _mean(metrics)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
    return grads, model_state, metrics


def _norms(prefix: str, depth: int, **kinds: PyTree) -> Metrics:
    """Returns `KIND_norm/PREFIX.../MODULE` of each tree; the leaves of a module share `depth` levels of names."""
    return {
        f"{kind}_norm/{prefix}{module}": optax.tree.norm(leaves)
        for kind, tree in kinds.items()
        for module, leaves in trees.modules(tree, depth).items()
    }


def _mean(metrics: PyTree) -> Metrics:
    return jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)


def _microbatch(batch: PyTree, k: int) -> PyTree:
    return jax.tree.map(lambda x: x[k], batch)


def _joined(batch: PyTree, count: int) -> PyTree:
    """The examples of the first `count` microbatches as one."""
    return jax.tree.map(lambda x: x[:count].reshape(-1, *x.shape[2:]), batch)


def _expect_microbatches(batch: Batch, expected: int) -> None:
    got = jax.tree.leaves(batch)[0].shape[0]
    if got != expected:
        raise ValueError(f"The batch has {got} microbatches, but this model takes {expected} in an update.")
