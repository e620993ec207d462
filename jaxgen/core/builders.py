"""Builders: objectives and optax transformations in, `init` and `update` of the contract out.

Gradients meet optimizers here. They, and the metrics, are averaged over the mapped axis of the pmap path, where there
is one; methods average over it what they keep in the model state.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxgen.core import keys, trees
from jaxgen.core.contract import Batch, Env, Init, Metrics, Microbatch, TrainState, Update
from jaxgen.core.scan import loops_are_slow, scan

Objective = Callable[[Key[Array, ""], PyTree, PyTree, Microbatch], tuple[Array, tuple[PyTree, Metrics]]]
"""`(key, params, model_state, microbatch) -> (loss, (new model_state, metrics))`; the loss is a mean over examples."""

InitVariables = Callable[[Key[Array, ""], Microbatch], tuple[PyTree, PyTree]]
"""`(key, microbatch) -> (params, model_state)`."""


class Player(NamedTuple):
    """One side of a game.

    Attributes:
      objective: what it minimizes.
      optimizer: how. Its `update` gets the run's step as the keyword `step`, if it takes one: schedules are functions
        of that, since a player may be updated several times in a step.
      regularizer: what it also minimizes, lazily: by updates of their own, in the phases that name the player.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    regularizer: Objective | None = None


def lazy_phases(every_steps: Mapping[str, int]) -> Callable[[int], Hashable]:
    """The phases of lazy regularization (Karras et al. 2020, section 3.1): which players are regularized at a step.

    Args:
      every_steps: for each player that has a regularizer, the distance between the updates on it; the first is at
        step 0.

    Returns:
      `step -> names of players`, for `GenerativeModel.phase`.
    """
    return lambda step: tuple(sorted(name for name, every in every_steps.items() if step % every == 0))


def one_player(
    init_variables: InitVariables, player: Player, *, microbatches: int = 1, env: Env = Env()
) -> tuple[Init, Update]:
    """Training of one set of parameters on one objective, the gradient accumulated over `microbatches`.

    The metrics are those of the objective, `loss`, `grad_norm`, and the norms by module that `env` asks for:
    `grad_norm/MODULE`, `update_norm/MODULE` and, after the update, `param_norm/MODULE`.
    """
    optimizer = optax.with_extra_args_support(player.optimizer)

    def init(key: Key[Array, ""], batch: Batch) -> TrainState:
        params, model_state = init_variables(key, _microbatch(batch, 0))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), model_state)

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Hashable = None
    ) -> tuple[TrainState, Metrics]:
        del phase
        _expect_microbatches(batch, microbatches)
        grads, model_state, metrics = _gradient(
            player.objective, key, state.params, state.model_state, batch, axis_name=env.axis_name
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
    """A game: `n_critic` updates of the discriminator, each on data of its own, then one of the generator.

    Parameters and optimizer states are dicts with the keys `generator` and `discriminator`. The batch has
    n_critic * microbatches slices; the generator's update sees the indices and labels of the last critic's data.
    Losses and norms have the name of the player in theirs: `loss/generator`, `grad_norm/generator/MODULE`.

    The phase is None, or the names of the players whose updates are each followed by one on their regularizer, of the
    same data and optimizer.
    """
    if n_critic < 1:
        raise ValueError(f"gan.n_critic is {n_critic}, but must be at least 1.")
    players = {"discriminator": discriminator, "generator": generator}
    optimizers = {name: optax.with_extra_args_support(player.optimizer) for name, player in players.items()}

    def init(key: Key[Array, ""], batch: Batch) -> TrainState:
        params, model_state = init_variables(key, _microbatch(batch, 0))
        opt_state = {name: optimizer.init(params[name]) for name, optimizer in optimizers.items()}
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, model_state)

    def step(
        name: str, objective: Objective, label: str, key: Key[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        """One update of one player; metrics are labelled."""

        def own_objective(key, own_params, model_state, microbatch):
            return objective(key, {**state.params, name: own_params}, model_state, microbatch)

        grads, model_state, metrics = _gradient(
            own_objective,
            keys.stream(key, label),
            state.params[name],
            state.model_state,
            batch,
            axis_name=env.axis_name,
        )
        updates, opt_state = optimizers[name].update(grads, state.opt_state[name], state.params[name], step=state.step)
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

    def turn(
        name: str, key: Key[Array, ""], state: TrainState, batch: Batch, phase: Hashable
    ) -> tuple[TrainState, Metrics]:
        player = players[name]
        state, metrics = step(name, player.objective, name, key, state, batch)
        if player.regularizer is None or not isinstance(phase, tuple) or name not in phase:
            return state, metrics
        state, more = step(name, player.regularizer, f"{name}_regularizer", key, state, batch)
        return state, {**metrics, **more}

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Hashable = None
    ) -> tuple[TrainState, Metrics]:
        _expect_microbatches(batch, n_critic * microbatches)
        critic_batches = jax.tree.map(lambda x: x.reshape(n_critic, microbatches, *x.shape[1:]), batch)

        def critic(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return turn("discriminator", key, state, batch, phase)

        state, metrics = scan(critic, state, critic_batches, unroll=loops_are_slow())
        state, generator_metrics = turn("generator", key, state, _microbatch(critic_batches, -1), phase)
        return state._replace(step=state.step + 1), {**_mean(metrics), **generator_metrics}

    return init, update


def _gradient(
    objective: Objective,
    key: Key[Array, ""],
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    *,
    axis_name: str | None,
) -> tuple[PyTree, PyTree, Metrics]:
    """Gradient and metrics, averaged over microbatches and the mapped axis; the model state goes through in turn."""

    def accumulate(carry: tuple[PyTree, PyTree], microbatch: Microbatch) -> tuple[tuple[PyTree, PyTree], Metrics]:
        total, model_state = carry
        value_and_grad = jax.value_and_grad(objective, argnums=1, has_aux=True)
        (loss, (model_state, metrics)), grads = value_and_grad(key, params, model_state, microbatch)
        return (jax.tree.map(jnp.add, total, grads), model_state), {"loss": loss, **metrics}

    zeros = jax.tree.map(jnp.zeros_like, params)
    (total, model_state), metrics = scan(accumulate, (zeros, model_state), batch, unroll=loops_are_slow())
    grads = jax.tree.map(lambda g: g / jax.tree.leaves(batch)[0].shape[0], total)
    metrics = _mean(metrics)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
    return grads, model_state, metrics


def _norms(prefix: str, depth: int, **kinds: PyTree) -> Metrics:
    """`KIND_norm/PREFIX.../MODULE` of each tree; a module is what the first `depth` levels of names have in common."""
    return {
        f"{kind}_norm/{prefix}{module}": optax.tree.norm(leaves)
        for kind, tree in kinds.items()
        for module, leaves in trees.modules(tree, depth).items()
    }


def _mean(metrics: PyTree) -> Metrics:
    return jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)


def _microbatch(batch: PyTree, k: int) -> PyTree:
    return jax.tree.map(lambda x: x[k], batch)


def _expect_microbatches(batch: Batch, expected: int) -> None:
    got = jax.tree.leaves(batch)[0].shape[0]
    if got != expected:
        raise ValueError(f"The batch has {got} microbatches, but this model takes {expected} in an update.")
