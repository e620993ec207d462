"""Games and quadratics small enough to be played by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core import keys
from jaxgen.core.builders import Player, lazy_phases, one_player, two_player
from jaxgen.core.contract import CONSTANT, Context, Env, Phase, TrainState
from jaxgen.optim.schedules import learning_rate_schedule, scale_by_schedule_of_step

RATE = 0.25
KEY = keys.root_key(0)


def quadratic(context, params, model_state, microbatch):
    """mean_i |w - x_i|^2 / 2, whose gradient is w - mean(x); the state counts the calls."""
    del context
    loss = 0.5 * jnp.mean(jnp.sum((params["w"][None] - microbatch["x"]) ** 2, axis=-1))
    return loss, (model_state + 1, {"largest": jnp.max(microbatch["x"])})


def build_quadratic(**options):
    def init_variables(context, microbatch):
        del context
        return {"w": jnp.full(microbatch["x"].shape[-1], 2.0)}, jnp.zeros(())

    return one_player(init_variables, Player(quadratic, optax.sgd(RATE)), **options)


def data(microbatches, size):
    return jnp.asarray(np.random.default_rng(0).normal(size=(microbatches, size, 3)), jnp.float32)


def test_one_player_takes_the_step_of_sgd():
    init, update = build_quadratic()
    batch = {"x": data(1, 8)}
    state = init(KEY, batch)
    assert isinstance(state, TrainState)
    assert (state.step, state.step.dtype, state.model_state) == (0, jnp.int32, 0)
    after, metrics = update(KEY, state, batch)
    gradient = 2.0 - batch["x"][0].mean(0)
    np.testing.assert_allclose(after.params["w"], 2.0 - RATE * gradient, rtol=1e-6)
    assert (after.step, after.model_state) == (1, 1)
    np.testing.assert_allclose(metrics["loss"], 0.5 * jnp.mean(jnp.sum((2.0 - batch["x"][0]) ** 2, -1)), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], jnp.linalg.norm(gradient), rtol=1e-6)
    assert set(metrics) == {"loss", "grad_norm", "largest"}


def test_norms_by_module_are_those_of_gradient_update_and_new_parameters():
    init, update = build_quadratic(env=Env(norms_depth=1))
    batch = {"x": data(1, 8)}
    after, metrics = update(KEY, init(KEY, batch), batch)
    gradient = 2.0 - batch["x"][0].mean(0)
    np.testing.assert_allclose(metrics["grad_norm/w"], jnp.linalg.norm(gradient), rtol=1e-6)
    np.testing.assert_allclose(metrics["update_norm/w"], RATE * jnp.linalg.norm(gradient), rtol=1e-6)
    np.testing.assert_allclose(metrics["param_norm/w"], jnp.linalg.norm(after.params["w"]), rtol=1e-6)


def test_four_microbatches_take_the_step_of_one():
    batch = {"x": data(4, 2)}
    whole = {"x": batch["x"].reshape(1, 8, 3)}
    results = []
    for microbatches, each in ((4, batch), (1, whole)):
        init, update = build_quadratic(microbatches=microbatches)
        results.append(update(KEY, init(KEY, each), each))
    (four, metrics), (one, whole_metrics) = results
    np.testing.assert_allclose(four.params["w"], one.params["w"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], whole_metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], whole_metrics["grad_norm"], rtol=1e-6)
    np.testing.assert_allclose(metrics["largest"], batch["x"].max((1, 2)).mean(), rtol=1e-6)  # a mean over microbatches
    assert (four.model_state, one.model_state) == (4, 1)


def test_a_mapped_axis_is_averaged_over():
    batch = {"x": data(1, 8)}
    init, update = build_quadratic()
    state = init(KEY, batch)
    whole, whole_metrics = update(KEY, state, batch)
    _, mapped_update = build_quadratic(env=Env(axis_name="shards"))
    shards = {"x": batch["x"].reshape(1, 4, 2, 3)}
    mapped = jax.vmap(mapped_update, in_axes=(None, None, 1), axis_name="shards")
    after, metrics = mapped(KEY, state, shards)
    for shard in range(4):
        np.testing.assert_allclose(after.params["w"][shard], whole.params["w"], rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"][shard], whole_metrics["loss"], rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"][shard], whole_metrics["grad_norm"], rtol=1e-6)


@pytest.mark.parametrize(("build", "takes"), [({"microbatches": 3}, 3), ({}, 1)])
def test_another_number_of_microbatches_is_refused(build, takes):
    init, update = build_quadratic(**build)
    batch = {"x": data(2, 4)}
    with pytest.raises(ValueError, match=f"The batch has 2 microbatches, but this model takes {takes}"):
        update(KEY, init(KEY, batch), batch)


# The scalar game: the discriminator minimizes d (mean(x) + g), the generator minimizes -d g.
D_RATE, G_RATE, D0, G0 = 0.1, 0.5, 1.0, 2.0


def discriminator(context, params, model_state, microbatch):
    loss = params["discriminator"] * (jnp.mean(microbatch["x"]) + params["generator"])
    return loss, (
        model_state * 10 + 1,
        {"loss/real": jnp.mean(microbatch["x"]), "noise/d": jax.random.normal(context.key)},
    )


def generator(context, params, model_state, microbatch):
    loss = -params["discriminator"] * params["generator"]
    return loss, (model_state * 10 + 2, {"seen": jnp.mean(microbatch["x"]), "noise/g": jax.random.normal(context.key)})


def build_game(**options):
    def init_variables(context, microbatch):
        del context, microbatch
        return {"generator": jnp.array(G0), "discriminator": jnp.array(D0)}, jnp.zeros((), jnp.int32)

    return two_player(
        init_variables,
        generator=Player(generator, optax.adam(G_RATE) if options.pop("adam", False) else optax.sgd(G_RATE)),
        discriminator=Player(discriminator, optax.sgd(D_RATE, momentum=0.0)),
        **options,
    )


def build_modular_game(**options):
    """The same game, with parameters that have names."""

    def flat(objective):
        def call(context, params, *rest):
            return objective(
                context, {"discriminator": params["discriminator"]["d"], "generator": params["generator"]["g"]}, *rest
            )

        return call

    def init_variables(context, microbatch):
        del context, microbatch
        return {"generator": {"g": jnp.array(G0)}, "discriminator": {"d": jnp.array(D0)}}, jnp.zeros((), jnp.int32)

    players = {"generator": Player(flat(generator), optax.sgd(G_RATE))}
    players["discriminator"] = Player(flat(discriminator), optax.sgd(D_RATE))
    return two_player(init_variables, **players, **options)


def play(means, **options):
    """One update on microbatches of the given means, from (D0, G0)."""
    init, update = build_game(**options)
    batch = {"x": jnp.asarray(means, jnp.float32)[:, None] + jnp.array([[-0.5, 0.5]])}
    return update(KEY, init(KEY, batch), batch)


def test_two_players_take_their_turns():
    state, metrics = play([3.0])
    d1 = D0 - D_RATE * (3.0 + G0)
    np.testing.assert_allclose(state.params["discriminator"], d1, rtol=1e-6)
    np.testing.assert_allclose(state.params["generator"], G0 + G_RATE * d1, rtol=1e-6)
    assert (state.step, state.model_state) == (1, 12)
    np.testing.assert_allclose(metrics["loss/discriminator"], D0 * (3.0 + G0), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/generator"], -d1 * G0, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm/discriminator"], 3.0 + G0, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm/generator"], abs(d1), rtol=1e-6)
    assert set(metrics) >= {"loss/real", "seen"}
    assert "loss" not in metrics


def test_norms_of_a_game_have_the_name_of_the_player_first():
    init, update = build_modular_game(env=Env(norms_depth=1))
    batch = {"x": jnp.full((1, 2), 3.0)}
    state, metrics = update(KEY, init(KEY, batch), batch)
    np.testing.assert_allclose(metrics["grad_norm/discriminator/d"], 3.0 + G0, rtol=1e-6)
    np.testing.assert_allclose(metrics["update_norm/discriminator/d"], D_RATE * (3.0 + G0), rtol=1e-6)
    np.testing.assert_allclose(metrics["param_norm/generator/g"], abs(state.params["generator"]["g"]), rtol=1e-6)
    assert {name for name in metrics if "_norm/" in name} == {
        *(f"{kind}_norm/discriminator/d" for kind in ("grad", "update", "param")),
        *(f"{kind}_norm/generator/g" for kind in ("grad", "update", "param")),
        *("grad_norm/discriminator", "grad_norm/generator"),
    }


def test_n_critic_updates_on_data_of_their_own_come_before_one_of_the_generator():
    state, metrics = play([3.0, 5.0, -1.0, 4.0], n_critic=2, microbatches=2)
    d1 = D0 - D_RATE * (4.0 + G0)  # the first two slices, accumulated
    d2 = d1 - D_RATE * (1.5 + G0)  # the last two
    np.testing.assert_allclose(state.params["discriminator"], d2, rtol=1e-6)
    np.testing.assert_allclose(state.params["generator"], G0 + G_RATE * d2, rtol=1e-6)
    assert state.model_state == 111122
    assert state.step == 1
    np.testing.assert_allclose(metrics["loss/discriminator"], (D0 * (4.0 + G0) + d1 * (1.5 + G0)) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["seen"], 1.5)  # the last critic's data
    np.testing.assert_allclose(play([3.0, 5.0, -1.0], n_critic=3)[1]["seen"], -1.0)


def test_each_player_has_its_own_optimizer_state_and_its_own_noise():
    state, metrics = play([3.0, 4.0], n_critic=2, adam=True)
    assert set(state.opt_state) == set(state.params) == {"generator", "discriminator"}
    assert state.opt_state["generator"][0].count == 1  # Adam's: one update, not three
    d2 = D0 - D_RATE * (3.0 + G0) - D_RATE * (4.0 + G0)
    np.testing.assert_allclose(state.opt_state["generator"][0].mu, 0.1 * -d2, rtol=1e-5)
    for name, stream in {"noise/d": "discriminator", "noise/g": "generator"}.items():
        np.testing.assert_allclose(metrics[name], jax.random.normal(keys.stream(KEY, stream)), rtol=1e-6)


def test_a_game_averages_over_a_mapped_axis():
    init, update = build_game(env=Env(axis_name="shards"))
    batch = {"x": jnp.array([[2.0], [4.0]])}  # two shards of one microbatch of one example
    state = init(KEY, batch)
    mapped = jax.vmap(update, in_axes=(None, None, 0), axis_name="shards")
    after, _ = mapped(KEY, state, {"x": batch["x"][:, None]})
    whole, _ = play([3.0])
    np.testing.assert_allclose(after.params["discriminator"], [whole.params["discriminator"]] * 2, rtol=1e-6)
    np.testing.assert_allclose(after.params["generator"], [whole.params["generator"]] * 2, rtol=1e-6)


@pytest.mark.parametrize("n_critic", [0, -1])
def test_a_game_without_updates_of_the_discriminator_is_refused(n_critic):
    with pytest.raises(ValueError, match=f"gan.n_critic is {n_critic}, but must be at least 1"):
        build_game(n_critic=n_critic)


def test_a_game_refuses_another_number_of_slices():
    with pytest.raises(ValueError, match="The batch has 3 microbatches, but this model takes 4 in an update"):
        play([1.0, 2.0, 3.0], n_critic=2, microbatches=2)


def pull(context, params, model_state, microbatch):
    """A regularizer: half the squared generator, whose gradient is the generator."""
    del microbatch
    return 0.5 * params["generator"] ** 2, (model_state * 10 + 3, {"noise/pull": jax.random.normal(context.key)})


def play_regularized(phase, optimizer):
    def init_variables(context, microbatch):
        del context, microbatch
        return {"generator": jnp.array(G0), "discriminator": jnp.array(D0)}, jnp.zeros((), jnp.int32)

    init, update = two_player(
        init_variables,
        generator=Player(generator, optimizer, regularizer=pull),
        discriminator=Player(discriminator, optax.sgd(D_RATE)),
    )
    batch = {"x": jnp.array([[3.0]])}
    return update(KEY, init(KEY, batch), batch, phase=phase)


def test_a_regularizer_has_updates_of_its_own_in_the_phases_that_name_its_player():
    plain, metrics = play([3.0])
    for phase in (Phase(), Phase(regularized=("discriminator",)), Phase(resolution=4)):
        state, without = play_regularized(phase, optax.sgd(G_RATE))
        np.testing.assert_allclose(state.params["generator"], plain.params["generator"], rtol=1e-6)
        assert (set(without), state.model_state) == (set(metrics), 12)
    state, more = play_regularized(Phase(regularized=("generator",)), optax.sgd(G_RATE))
    np.testing.assert_allclose(state.params["generator"], plain.params["generator"] * (1 - G_RATE), rtol=1e-6)
    assert (state.step, state.model_state) == (1, 123)
    np.testing.assert_allclose(more["loss/generator_regularizer"], 0.5 * plain.params["generator"] ** 2, rtol=1e-6)
    np.testing.assert_allclose(more["grad_norm/generator_regularizer"], abs(plain.params["generator"]), rtol=1e-6)
    noise = jax.random.normal(keys.stream(KEY, "generator_regularizer"))
    np.testing.assert_allclose(more["noise/pull"], noise, rtol=1e-6)
    np.testing.assert_allclose(more["noise/g"], metrics["noise/g"], rtol=1e-6)
    state, _ = play_regularized(Phase(regularized=("generator",)), optax.adam(G_RATE))
    assert state.opt_state["generator"][0].count == 2  # one optimizer for both


def test_lazy_phases_name_the_players_that_are_due():
    phase = lazy_phases({"generator": 4, "discriminator": 6})
    due = {step: phase(step).regularized for step in range(13) if phase(step) != CONSTANT}
    both, g, d = ("discriminator", "generator"), ("generator",), ("discriminator",)
    assert due == {0: both, 4: g, 6: d, 8: g, 12: both}
    assert lazy_phases({})(0) == CONSTANT


# Schedules: every loss is twice a parameter, so that an update of rate r takes 2 r from it.
NUM_STEPS = 8
COSINE = learning_rate_schedule(NUM_STEPS, 0.5, schedule="cosine")


def cosine(step):
    return 0.25 * (1 + np.cos(np.pi * step / NUM_STEPS))


def slope_of(name):
    def objective(context, params, model_state, microbatch):
        del context
        weight = jnp.mean(microbatch["x"])
        return weight * (params[name] if name else params), (model_state, {})

    return objective


def decaying():
    """A decaying rate, in a chain with links that take no step."""
    return optax.chain(optax.clip(100.0), optax.trace(0.0), scale_by_schedule_of_step(COSINE))


def falls_of_steps(init, update, microbatches, *, phases=(CONSTANT,) * NUM_STEPS, restart=None):
    """How far the parameters fall in each step of a run; at step `restart` the state is made anew from arrays."""
    batch = {"x": jnp.full((microbatches, 3), 2.0)}
    update = jax.jit(update, static_argnames="phase")
    states = [init(KEY, batch)]
    for step, phase in enumerate(phases):
        state = states[-1]
        if step == restart:
            state = jax.tree.unflatten(jax.tree.structure(state), [np.array(leaf) for leaf in jax.tree.leaves(state)])
        states.append(update(KEY, state, batch, phase=phase)[0])
    assert [int(state.step) for state in states] == list(range(len(states)))
    assert all(state.step.dtype == jnp.int32 for state in states)
    return jax.tree.map(lambda *x: -np.diff(np.stack(x)), *[state.params for state in states])


@pytest.mark.parametrize(("n_critic", "microbatches", "restart"), [(4, 1, None), (1, 3, 5), (2, 2, 3)])
def test_all_updates_of_a_step_have_its_rate_in_a_game(n_critic, microbatches, restart):
    """Also the further updates on regularizers, in their phases, and after a restart from the saved arrays."""
    init, update = two_player(
        lambda context, microbatch: ({"generator": jnp.array(1.0), "discriminator": jnp.array(2.0)}, ()),
        generator=Player(slope_of("generator"), decaying(), regularizer=slope_of("generator")),
        discriminator=Player(slope_of("discriminator"), decaying(), regularizer=slope_of("discriminator")),
        n_critic=n_critic,
        microbatches=microbatches,
    )
    both = ("discriminator", "generator")
    regularized = [both, (), ("generator",), (), both, ("discriminator",), (), both]
    phases = [Phase(regularized=names) for names in regularized]
    fell = falls_of_steps(init, update, n_critic * microbatches, phases=phases, restart=restart)
    for name, each in {"generator": 1, "discriminator": n_critic}.items():
        updates = np.array([2 if name in names else 1 for names in regularized])
        expected = 2.0 * cosine(np.arange(NUM_STEPS)) * updates * each
        np.testing.assert_allclose(fell[name], expected, rtol=1e-4)


@pytest.mark.parametrize(("microbatches", "restart"), [(1, 4), (3, None)])
def test_the_rate_is_that_of_the_step_for_one_player(microbatches, restart):
    init, update = one_player(
        lambda context, microbatch: (jnp.array(1.0), ()), Player(slope_of(None), decaying()), microbatches=microbatches
    )
    fell = falls_of_steps(init, update, microbatches, restart=restart)
    np.testing.assert_allclose(fell, 2.0 * cosine(np.arange(NUM_STEPS)), rtol=1e-4)


def test_schedules_go_on_from_the_step_of_a_state_whatever_its_optimizer_has_seen():
    """As after updates that were skipped: the step counts those, the optimizer's state does not."""
    init, update = one_player(lambda context, microbatch: (jnp.array(1.0), ()), Player(slope_of(None), decaying()))
    batch = {"x": jnp.full((1, 3), 2.0)}
    after, _ = update(KEY, init(KEY, batch)._replace(step=jnp.int32(6)), batch)
    np.testing.assert_allclose(1.0 - after.params, 2.0 * cosine(6), rtol=1e-5)


def mean_of(context, microbatch):
    """Initial parameters that tell which slice they are of, and which key."""
    return {
        name: jnp.mean(microbatch["x"]) + jax.random.normal(context.key) for name in ("generator", "discriminator")
    }, ()


def test_the_start_is_made_of_the_data_behind_the_first_gradient_and_the_key():
    """All microbatches of it, however many; in a game, nothing of the data of later updates of the discriminator."""
    batch = {"x": jnp.array([[1.0, 2.0], [5.0, 7.0], [0.0, 3.0], [9.0, 8.0]])}
    players = {name: Player(slope_of(name), optax.sgd(0.1)) for name in ("generator", "discriminator")}
    builders = {
        35 / 8: one_player(mean_of, players["generator"], microbatches=4),
        15 / 4: two_player(mean_of, **players, n_critic=2, microbatches=2),
        3 / 2: two_player(mean_of, **players, n_critic=4),
    }
    for mean, (init, _) in builders.items():
        for value in init(KEY, batch).params.values():
            np.testing.assert_allclose(value, mean + jax.random.normal(KEY), rtol=1e-6)


def test_accumulation_and_the_updates_of_the_discriminator_are_loops():
    """So that compilation takes as long for many as for few."""
    players = {name: Player(slope_of(name), optax.sgd(0.1)) for name in ("generator", "discriminator")}
    two = two_player(mean_of, n_critic=2, microbatches=2, **players)
    alone = one_player(lambda *_: (jnp.array(1.0), ()), Player(slope_of(None), optax.sgd(0.1)), microbatches=4)
    batch = {"x": jnp.ones((4, 2))}
    for loops, (init, update) in ((3, two), (1, alone)):  # one in that over n_critic, and one of the generator
        assert str(jax.make_jaxpr(update)(KEY, init(KEY, batch), batch)).count("scan[") == loops


def test_transformations_that_take_no_step_serve_as_well():
    plain = optax.scale(-0.1)
    assert not isinstance(plain, optax.GradientTransformationExtraArgs)
    players = {name: Player(slope_of(name), plain) for name in ("generator", "discriminator")}
    alone = one_player(lambda *_: (jnp.array(1.0), ()), Player(slope_of(None), plain))
    batch = {"x": jnp.full((1, 2), 2.0)}
    for init, update in (two_player(mean_of, **players), alone):
        state = init(KEY, batch)
        after, _ = update(KEY, state, batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a - b, 0.2, rtol=1e-5), state.params, after.params)


def of_the_moment(context, params, model_state, microbatch):
    """A loss whose gradient is what the objective is told of the moment."""
    weight = context.frozen["weight"] + context.step + (context.phase.resolution or 0)
    loss = sum(jax.tree.leaves(params)) * weight * jnp.mean(microbatch["x"])
    return loss, (model_state, {"step": context.step + 0.0})


@pytest.mark.parametrize("players", [1, 2])
def test_objectives_know_the_step_the_phase_and_what_is_frozen(players):
    """In every microbatch and update of a step alike, and frozen arrays come through unchanged, without a gradient."""
    one = Player(of_the_moment, optax.sgd(1.0))
    start, n_critic = {"generator": jnp.array(0.0), "discriminator": jnp.array(0.0)}, 2
    if players == 1:
        init, update = one_player(lambda context, microbatch: (start, ()), one, microbatches=4)
    else:
        games = {"generator": one, "discriminator": one}
        init, update = two_player(lambda *_: (start, ()), **games, n_critic=n_critic, microbatches=2)
    batch, frozen = {"x": jnp.ones((4, 2))}, {"weight": jnp.array(0.5)}
    state = init(KEY, batch, frozen)
    assert state.frozen is frozen
    state = state._replace(step=jnp.int32(3))
    after, metrics = update(KEY, state, batch, phase=Phase(resolution=8))
    assert after.frozen == frozen
    assert (after.step, metrics["step"]) == (4, 3.0)
    times = {"generator": 1, "discriminator": 1 if players == 1 else n_critic}
    for name, updates in times.items():
        np.testing.assert_allclose(after.params[name], -(0.5 + 3 + 8) * updates, rtol=1e-6)


def test_the_start_may_depend_on_what_is_frozen_and_on_the_data():
    def init_variables(context, microbatch):
        assert isinstance(context, Context)
        return {"w": context.frozen["mean"] + jnp.mean(microbatch["x"]) + context.step}, ()

    init, _ = one_player(init_variables, Player(of_the_moment, optax.sgd(1.0)))
    state = init(KEY, {"x": jnp.array([[1.0, 2.0]])}, {"mean": jnp.array(10.0)})
    np.testing.assert_allclose(state.params["w"], 11.5)
