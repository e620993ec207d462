"""Wrappers around a model whose parameters follow a rule that a sum can be written down for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import ema, images, keys
from jaxgen.core.contract import CONSTANT, GenerativeModel, ModelSpec, Phase, TrainState
from jaxgen.core.wrappers import skip_nonfinite, with_ema, with_preprocessing

KEY, LATE = keys.root_key(0), Phase(resolution=4)


def make_model(update, **params):
    """A model with parameters of the given start, `update(params, batch) -> (params, metrics)`, and a statistic."""

    def init(key, batch, frozen=()):
        step, opt_state, model_state = jnp.zeros((), jnp.int32), {"count": jnp.zeros(())}, {"stat": jnp.zeros(())}
        return TrainState(step, dict(params), opt_state, model_state, frozen=frozen)

    def whole_update(key, state, batch, *, phase=CONSTANT):
        new_params, metrics = update(state.params, batch)
        opt_state = {"count": state.opt_state["count"] + 1}
        stats = {"stat": state.model_state["stat"] + 10.0}
        return TrainState(state.step + 1, new_params, opt_state, stats, state.ema, state.frozen), metrics

    def eval_variables(state):
        return {"params": state.params, **state.model_state}

    return GenerativeModel(
        ModelSpec((2, 2, 1)), init, whole_update, lambda keys, variables, cond=None: None, eval_variables
    )


def jump():
    """Weights that start at 0 and are 1 after every update."""
    return make_model(
        lambda params, batch: ({"w": jnp.ones(()), "b": jnp.ones(())}, {}), w=jnp.zeros(()), b=jnp.zeros(())
    )


def run(model, steps, batch=None):
    state = model.init(KEY, batch or {})
    update = jax.jit(model.update)
    for _ in range(steps):
        state, metrics = update(KEY, state, batch or {})
    return state, metrics


def test_ema_without_warmup_is_geometric():
    state, _ = run(with_ema(jump(), decay=0.9, warmup=False), 7)
    np.testing.assert_allclose(state.ema["params/w"], 1 - 0.9**7, rtol=1e-6)
    assert state.params["w"] == 1.0


def test_ema_with_warmup_forgets_the_start_by_a_binomial():
    """The product of (1 + n) / (10 + n) over n < N is 1 / C(N + 9, 9), as long as the cap is below the decay."""
    state, _ = run(with_ema(jump(), decay=0.9999), 5)
    np.testing.assert_allclose(1 - state.ema["params/w"], 1 / math.comb(14, 9), rtol=1e-2)


def test_power_averages_take_the_first_update_whole_and_evaluation_sees_the_first_width():
    """After two updates to 1 and 2, an average is 2 - 2^-(gamma + 1)."""
    model = make_model(lambda params, batch: ({"w": params["w"] + 1.0}, {}), w=jnp.full((), 0.0))
    model = with_ema(model, kind="power", sigma_rel=(0.10, 0.25), include="params/.*")
    state, _ = run(model, 1)
    assert state.ema == {"0": {"params/w": 1.0}, "1": {"params/w": 1.0}}
    state, _ = run(model, 2)
    expected = [2 - 2 ** -(ema.gamma(sigma_rel) + 1) for sigma_rel in (0.10, 0.25)]
    np.testing.assert_allclose([state.ema[i]["params/w"] for i in "01"], expected, rtol=1e-6)
    seen = model.eval_variables(state)
    assert seen == {"params": {"w": state.ema["0"]["params/w"]}, "stat": 20.0}


def test_evaluation_sees_the_average_and_the_statistics_that_belong_to_it():
    model = with_ema(jump(), decay=0.5, warmup=False)
    state, _ = run(model, 2)
    seen = model.eval_variables(state)
    assert seen["params"] == {"w": 0.75, "b": 0.75}
    assert seen["stat"] == 0.25 * 0 + 0.25 * 10 + 0.5 * 20
    assert state.model_state["stat"] == 20.0


def test_include_chooses_what_is_averaged_and_the_rest_is_seen_as_it_is():
    model = with_ema(jump(), decay=0.5, warmup=False, include="params/w")
    state, _ = run(model, 2)
    assert set(state.ema) == {"params/w"}
    seen = model.eval_variables(state)
    assert (seen["params"]["w"], seen["params"]["b"], seen["stat"]) == (0.75, 1.0, 20.0)


def test_the_average_starts_as_a_copy_that_can_be_donated():
    state = with_ema(jump()).init(KEY, {})
    assert state.ema["params/w"] == state.params["w"]
    assert state.ema["params/w"].unsafe_buffer_pointer() != state.params["w"].unsafe_buffer_pointer()


def test_ema_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match=r"ema\.decay is 1\.0, but must be at least 0 and below 1"):
        with_ema(jump(), decay=1.0)
    with pytest.raises(ValueError, match=r"ema\.sigma_rel is empty"):
        with_ema(jump(), kind="power", sigma_rel=())
    with pytest.raises(ValueError, match=r"'parms/\.\*' matches no parameter; there are: .*params/w"):
        with_ema(jump(), include="parms/.*").init(KEY, {})


def seen_by_model(batch, *, flip, key=KEY):
    """The batch's images as the model under `with_preprocessing` gets them."""
    model = make_model(lambda params, batch: ({"image": batch["image"]}, {}), image=jnp.zeros(()))
    wrapped = with_preprocessing(model, flip=flip)
    return np.asarray(wrapped.update(key, wrapped.init(key, batch), batch)[0].params["image"])


def uint8_batch(microbatches=2, size=64):
    shape = (microbatches, size, 2, 3, 1)
    pixels = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    return {"image": jnp.asarray(pixels), "index": jnp.arange(microbatches * size).reshape(microbatches, size)}


def mirrored(batch, **options):
    """Which images came mirrored; all others must have come as they were."""
    seen, whole = seen_by_model(batch, flip=True, **options), np.asarray(images.to_float(batch["image"]))
    was_mirrored = (seen == whole[..., ::-1, :]).all((2, 3, 4))
    np.testing.assert_array_equal(seen[~was_mirrored], whole[~was_mirrored])
    return was_mirrored


def test_preprocessing_maps_levels_to_floats():
    batch = uint8_batch()
    np.testing.assert_array_equal(seen_by_model(batch, flip=False), images.to_float(batch["image"]))


def test_flip_mirrors_half_of_the_images_left_to_right():
    share = mirrored(uint8_batch(size=256)).mean()
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(512)  # four standard deviations


def test_flip_is_drawn_by_index_and_step_not_by_place():
    batch = uint8_batch()
    expected = mirrored(batch)
    other_layout = {"image": batch["image"].reshape(4, 32, 2, 3, 1)[::-1], "index": batch["index"].reshape(4, 32)[::-1]}
    np.testing.assert_array_equal(mirrored(other_layout)[::-1].reshape(2, 64), expected)
    assert (mirrored(batch, key=keys.root_key(1)) != expected).any()


def risky():
    """Adds the batch's `x` to w; the metric `loss` is the batch's `loss`."""
    return make_model(lambda params, batch: ({"w": params["w"] + batch["x"]}, {"loss": batch["loss"]}), w=jnp.zeros(()))


@pytest.mark.parametrize(("x", "loss"), [(jnp.nan, 0.0), (1.0, jnp.inf), (jnp.inf, jnp.nan)])
def test_an_update_that_is_not_finite_is_skipped_and_counted(x, loss):
    model = with_ema(risky(), decay=0.5, warmup=False)
    model = skip_nonfinite(model)
    good, _ = run(model, 1, {"x": jnp.array(3.0), "loss": jnp.array(1.0)})
    bad, metrics = model.update(KEY, good, {"x": jnp.asarray(x), "loss": jnp.asarray(loss)})
    for ours, kept in zip(jax.tree.leaves(bad[1:]), jax.tree.leaves(good[1:]), strict=True):
        np.testing.assert_array_equal(ours, kept)
    assert bad.step == 2
    assert metrics["skipped"] == 1.0


def test_a_finite_update_passes():
    state, metrics = run(skip_nonfinite(risky()), 1, {"x": jnp.array(3.0), "loss": jnp.array(1.0)})
    assert (state.params["w"], state.opt_state["count"], metrics["skipped"]) == (3.0, 1.0, 0.0)


def test_flips_are_the_coins_of_the_stream_of_their_own_name():
    batch = uint8_batch(microbatches=2, size=8)
    coins = [jax.random.bernoulli(jax.random.fold_in(keys.stream(KEY, "flip"), i)) for i in range(16)]
    np.testing.assert_array_equal(mirrored(batch).reshape(-1), coins)


def test_images_are_not_flipped_unless_asked_for_and_the_rest_of_a_batch_is_left_alone():
    seen = {}

    def look(params, batch):
        seen.update(batch)
        return params, {}

    batch = uint8_batch() | {"label": jnp.arange(128).reshape(2, 64)}
    wrapped = with_preprocessing(make_model(look, w=jnp.zeros(())))
    wrapped.update(KEY, wrapped.init(KEY, batch), batch)
    np.testing.assert_array_equal(seen["image"], images.to_float(batch["image"]))
    assert (seen["label"] is batch["label"], seen["index"] is batch["index"]) == (True, True)


def test_images_of_few_levels_come_exactly_on_these():
    """8 bits do not divide into 17 levels evenly."""
    model = make_model(lambda params, batch: ({"image": batch["image"]}, {}), image=jnp.zeros(()))
    wrapped = with_preprocessing(model._replace(spec=model.spec._replace(levels=17)))
    batch = {"image": jnp.uint8([0, 16, 140, 255]).reshape(1, 4, 1, 1, 1), "index": jnp.arange(4).reshape(1, 4)}
    seen = wrapped.update(KEY, wrapped.init(KEY, batch), batch)[0].params["image"]
    np.testing.assert_allclose(seen.reshape(4), [-1.0, -0.875, 0.125, 1.0], atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_a_model_is_initialized_on_floats_flipped_like_those_of_a_step(flip):
    model = make_model(lambda params, batch: ({"image": batch["image"]}, {}), image=jnp.zeros(()))
    model = model._replace(init=lambda key, batch, frozen=(): TrainState(jnp.int32(0), batch["image"], (), ()))
    batch = uint8_batch()
    initial = with_preprocessing(model, flip=flip).init(KEY, batch).params
    np.testing.assert_array_equal(initial, seen_by_model(batch, flip=flip))


@pytest.mark.parametrize(
    "wrap", [with_preprocessing, lambda model: with_ema(model, decay=0.5), skip_nonfinite], ids=["pre", "ema", "skip"]
)
def test_wrappers_hand_on_the_key_and_the_phase_and_keep_the_rest_of_the_model(wrap):
    seen, initial = [], []

    def init(key, batch, frozen=()):
        initial.append((key, batch, frozen))
        return jump().init(key, batch, frozen)

    def update(key, state, batch, *, phase=CONSTANT):
        seen.append((key, phase))
        assert set(batch) == {"image", "index"}
        return state._replace(step=state.step + 1), {}

    model = jump()._replace(init=init, update=update, microbatches=3, phase=lambda step: step // 2, denoise=lambda: 7)
    wrapped = wrap(model)
    batch = uint8_batch()
    frozen = {"teacher": jnp.array(jnp.inf)}  # whose numbers are nobody's business
    after, _ = wrapped.update(KEY, wrapped.init(KEY, batch, frozen), batch, phase=LATE)
    assert (after.frozen["teacher"], after.step, initial[0][2]) == (jnp.inf, 1, frozen)
    assert not any("teacher" in name for name in after.ema)
    wrapped.update(KEY, wrapped.init(KEY, batch), batch)
    assert [phase for _, phase in seen] == [LATE, CONSTANT]
    np.testing.assert_array_equal(jax.random.key_data(seen[0][0]), jax.random.key_data(KEY))
    assert (initial[0][0] is KEY, set(initial[0][1])) == (True, {"image", "index"})
    assert (wrapped.microbatches, wrapped.phase(5), wrapped.denoise()) == (3, 2, 7)
    assert wrapped.sample is model.sample


def test_the_kinds_of_averages_are_constant_and_warm_unless_told_otherwise():
    state, _ = run(with_ema(jump()), 2)
    np.testing.assert_allclose(state.ema["params/w"], 1 - 1 / 10 * 2 / 11, rtol=1e-6)
    assert set(state.ema) == {"params/w", "params/b", "model_state/stat"}
    state, _ = run(with_ema(jump(), warmup=False), 2)
    np.testing.assert_allclose(state.ema["params/w"], 1 - 0.9999**2, rtol=1e-2)
    state, _ = run(with_ema(jump(), kind="power"), 1)
    assert set(state.ema) == {"0", "1"}
    weights = [float(ema.power(sigma_rel=width)(jnp.int32(1))) for width in (0.05, 0.10)]
    growing = make_model(lambda params, batch: ({"w": params["w"] + 1.0}, {}), w=jnp.zeros(()))
    state, _ = run(with_ema(growing, kind="power"), 2)
    np.testing.assert_allclose([state.ema[i]["params/w"] for i in "01"], [1 + weight for weight in weights], rtol=1e-6)


@pytest.mark.parametrize("field", ["params", "opt_state", "model_state", "ema", "metrics"])
def test_a_number_that_is_not_finite_is_found_wherever_it_is(field):
    def update(key, state, batch, *, phase=CONSTANT):
        del key, phase
        metrics, state = {"loss": jnp.float32(2.0)}, state._replace(step=state.step + 1)
        good = {"a": jnp.full(3, 5.0), "b": jnp.ones(())}
        state = state._replace(params=good, opt_state=good, model_state=good, ema=good)
        bad = {"a": jnp.array([5.0, 5.0, batch["x"]]), "b": jnp.ones(())}
        return (
            (state, {**metrics, "m": batch["x"]}) if field == "metrics" else (state._replace(**{field: bad}), metrics)
        )

    model = skip_nonfinite(jump()._replace(update=update))
    zeros = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    state = TrainState(jnp.int32(4), zeros, zeros, zeros, zeros)
    taken, metrics = model.update(KEY, state, {"x": jnp.float32(6.0)})
    assert (taken.step, taken.params["a"][0], metrics["skipped"], metrics["loss"]) == (5, 5.0, 0.0, 2.0)
    for x in (jnp.nan, jnp.inf, -jnp.inf):
        skipped, metrics = model.update(KEY, state, {"x": jnp.float32(x)})
        assert (skipped.step, metrics["skipped"], metrics["loss"]) == (5, 1.0, 2.0)
        for tree in skipped[1:5]:
            np.testing.assert_array_equal(tree["a"], zeros["a"])
            assert tree["b"] == 0.0


def test_the_decay_of_an_average_may_be_a_schedule():
    state, _ = run(with_ema(jump(), decay="piecewise(boundaries=(2,), values=(0.5, 0.75))", warmup=False), 4)
    np.testing.assert_allclose(state.ema["params/w"], 1 - 0.5**2 * 0.75**2, rtol=1e-6)
    state, _ = run(with_ema(jump(), decay="constant(value=0.9999)"), 5)  # with warm-up, as for a number
    np.testing.assert_allclose(1 - state.ema["params/w"], 1 / math.comb(14, 9), rtol=1e-2)
