import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import common
from jaxgen.core.config import call
from jaxgen.optim.optimizers import RULES, make_optimizer, make_player_optimizers, with_lazy_updates

RATE = 0.5


def steps(optimizer, params, gradients):
    """The parameters after each of the gradients, one a step of the run."""
    state, trajectory = optimizer.init(params), []
    for step, gradient in enumerate(gradients):
        updates, state = optimizer.update(gradient, state, params, step=jnp.int32(step))
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory


def first_step(gradient, **options):
    """What the first update adds to parameters of zero."""
    optimizer = make_optimizer(num_steps=10, learning_rate=RATE, **options)
    return steps(optimizer, {"w": jnp.zeros_like(gradient)}, [{"w": gradient}])[0]["w"]


def test_the_rate_is_that_of_the_runs_step_however_many_updates_there_are():
    """With warm-up and decay; several updates of one step share its rate, and a step that is left out counts."""
    optimizer = make_optimizer(
        num_steps=10, name="sgd", b1=0.0, learning_rate=RATE, warmup_steps=4, schedule="linear", weight_decay=0.1
    )
    params, gradient = {"kernel": jnp.array(2.0)}, {"kernel": jnp.array(3.0)}
    state = optimizer.init(params)
    assert not jax.tree.leaves(state)
    climb_and_fall = {0: 0.25, 1: 0.5, 3: 1.0, 8: 2 / 7}
    for step in (0, 1, 1, 1, 3, 8, 8, 0):
        updates, state = optimizer.update(gradient, state, params, step=jnp.int32(step))
        expected = -RATE * climb_and_fall[step] * (3.0 + 0.1 * 2.0)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "decay_steps", "last"), [("inverse_sqrt", 4, 0.4**0.5), ("cosine", None, 0.0), ("constant", None, 1.0)]
)
def test_settings_of_the_schedule_reach_it(schedule, decay_steps, last):
    optimizer = make_optimizer(
        num_steps=9, name="sgd", b1=0.0, learning_rate=RATE, schedule=schedule, decay_steps=decay_steps
    )
    updates, _ = optimizer.update(jnp.array(3.0), optimizer.init(jnp.array(0.0)), jnp.array(0.0), step=jnp.int32(9))
    np.testing.assert_allclose(updates, -RATE * 3.0 * last, rtol=1e-6, atol=1e-7)


def test_moments_count_their_own_updates():
    """Adam's bias correction is that of the second update, also where both are of step 5."""
    optimizer = make_optimizer(num_steps=10, learning_rate=RATE, b1=0.5, b2=0.75)
    state, params = optimizer.init(jnp.array(0.0)), jnp.array(0.0)
    for gradient in (1.0, -3.0):
        updates, state = optimizer.update(jnp.array(gradient), state, params, step=jnp.int32(5))
    mean = (0.5 * 0.5 * 1.0 + 0.5 * -3.0) / (1 - 0.5**2)
    square = (0.75 * 0.25 * 1.0 + 0.25 * 9.0) / (1 - 0.75**2)
    np.testing.assert_allclose(updates, -RATE * mean / np.sqrt(square), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", [-RATE * 3.0, RATE * 4.0]),
        ("adam", [-RATE, RATE]),  # Kingma & Ba 2015: bias-corrected, the first step has the length of the rate
        ("lion", [-RATE, RATE]),
        ("rmsprop", [-RATE / np.sqrt(1 - 0.999), RATE / np.sqrt(1 - 0.999)]),
    ],
)
def test_the_first_step_of_each_rule(name, expected):
    np.testing.assert_allclose(first_step(jnp.array([3.0, -4.0]), name=name), expected, rtol=1e-5)


def second_step(name, b1, b2):
    """What the second update adds, after gradients of 1 and -3, by the rule's formula."""
    g1, g2 = 1.0, -3.0
    mean, square = b1 * (1 - b1) * g1 + (1 - b1) * g2, b2 * (1 - b2) * g1**2 + (1 - b2) * g2**2
    return (
        -RATE
        * {
            "adam": mean / (1 - b1**2) / np.sqrt(square / (1 - b2**2)),
            "radam": mean / (1 - b1**2),  # with b2 below 0.6 the second moment stays unknown
            "sgd": b1 * g1 + g2,
            "rmsprop": g2 / np.sqrt(square),
            "lion": np.sign(b1 * (1 - b2) * g1 + (1 - b1) * g2),  # Chen et al. 2023, algorithm 2
        }[name]
    )


@pytest.mark.parametrize("name", RULES)
def test_the_second_step_of_each_rule_with_the_decays_that_it_has(name):
    decays = {"b1": 0.75, "b2": 0.5} if name != "lion" else {"b1": 0.95, "b2": 0.5}
    own = {key: value for key, value in decays.items() if key in RULES[name].settings}
    optimizer = make_optimizer(num_steps=10, name=name, learning_rate=RATE, **own)
    first, second = steps(optimizer, jnp.zeros(()), [jnp.array(1.0), jnp.array(-3.0)])
    np.testing.assert_allclose(second - first, second_step(name, **decays), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "b2", "ratio"),
    [
        ("adam", 0.9, 1.0 / (1.0 + 0.5)),
        ("adam", "constant(value=0.9)", 1.0 / (1.0 + 0.5)),
        ("radam", 0.9, 1.0 / (1.0 + 0.5)),
        ("rmsprop", 0.9, np.sqrt((1.0 - 0.9**9) / (1.0 - 0.9**9 + 0.5))),
    ],
)
def test_eps_is_beside_the_root_of_the_second_moment(name, b2, ratio):
    """Of which the gradient 1 has an unbiased estimate of 1 at every step; that of rmsprop is biased, and under it."""
    ends = []
    for eps in (0.5, 0.0):
        optimizer = make_optimizer(num_steps=9, name=name, learning_rate=RATE, b2=b2, eps=eps)
        found = steps(optimizer, jnp.zeros(()), [jnp.ones(())] * 9)
        ends.append(found[-1] - found[-2])
    np.testing.assert_allclose(ends[0] / ends[1], ratio, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "key", "default"), [("sgd", "b2", 0.999), ("rmsprop", "b1", 0.9), ("lion", "eps", 1e-8)]
)
def test_a_setting_that_a_rule_does_not_have_is_refused(name, key, default):
    sentence = rf"optimizer\.{key} is 0\.5, but has no effect without an optimizer\.name .*{key}: set it to {default}\."
    with pytest.raises(ValueError, match=sentence):
        make_optimizer(num_steps=10, name=name, **{key: 0.5})
    make_optimizer(num_steps=10, name=name, **{key: default})
    with pytest.raises(ValueError, match=sentence):  # as a section of the config too
        call(make_optimizer, ConfigDict({"name": name, key: 0.5}), where="optimizer", num_steps=10)


def test_the_section_that_configs_start_from_is_one_for_every_rule():
    for name in RULES:
        section = common.optimizer()
        section.name = name
        call(make_optimizer, section, where="optimizer", num_steps=10)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rate": -1e-3}, r"learning_rate is -0\.001, but must be finite and at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, but must be finite"),
        ({"learning_rate": float("inf")}, "learning_rate is inf, but must be finite"),
        ({"b1": 1.0}, r"b1 is 1\.0, but must be in \[0, 1\)"),
        ({"eps": -1e-8}, r"eps is -1e-08, but must be finite and at least 0"),
        ({"b2": -0.1}, r"b2 is -0\.1, but must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1, but must be finite and at least 0"),
        ({"clip_norm": 0.0}, r"clip_norm is 0\.0, but must be positive, or None"),
        ({"clip_norm": float("nan")}, "clip_norm is nan, but must be positive"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=rf"optimizer\.{sentence}"):
        make_optimizer(num_steps=10, **settings)


def test_numbers_at_the_ends_of_their_ranges_are_taken():
    make_optimizer(num_steps=10, learning_rate=0.0, b1=0.0, b2=0.0, weight_decay=1.5, clip_norm=1e-6)


def test_radam_is_momentum_until_the_second_moment_is_known_and_then_rectified_adam():
    """Liu et al. 2020, algorithm 2, with b2 = 0.9: rho_t passes 5 in the seventh update."""
    gradients = np.array([3.0, -1.0, 2.0, 0.5, 4.0, -2.0, 1.5, 2.5])
    optimizer = make_optimizer(num_steps=10, name="radam", learning_rate=RATE, b1=0.8, b2=0.9)
    actual = np.diff([0.0, *steps(optimizer, jnp.zeros(()), [jnp.float32(g) for g in gradients])])
    m = v = 0.0
    expected, rho_inf = [], 2.0 / (1.0 - 0.9) - 1.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        rho = rho_inf - 2.0 * t * 0.9**t / (1.0 - 0.9**t)
        factor = 1.0
        if rho > 5.0:
            r = np.sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
            factor = r / np.sqrt(v / (1.0 - 0.9**t))
        expected.append(-RATE * factor * m / (1.0 - 0.8**t))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_b1_is_the_momentum_of_sgd():
    optimizer = make_optimizer(num_steps=10, name="sgd", b1=0.75, learning_rate=RATE)
    trajectory = steps(optimizer, jnp.zeros(()), [jnp.ones(())] * 2)
    np.testing.assert_allclose(trajectory, [-RATE, -RATE - RATE * 1.75], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "radam", "lion"])
def test_weight_decay_is_decoupled_and_spares_biases_and_scales(name):
    """At gradients of zero, kernels and embeddings shrink by 1 - rate * decay, whatever the rule; no others do."""
    params = {"a": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "b": {"embedding": jnp.ones(2), "scale": jnp.ones(2)}}
    optimizer = make_optimizer(num_steps=10, name=name, learning_rate=RATE, weight_decay=0.1)
    zeros = {k: {name: jnp.zeros_like(leaf) for name, leaf in v.items()} for k, v in params.items()}
    after = steps(optimizer, params, [zeros])[0]
    np.testing.assert_allclose(after["a"]["kernel"], 1 - RATE * 0.1, rtol=1e-6)
    np.testing.assert_allclose(after["b"]["embedding"], 1 - RATE * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(after["a"]["bias"], 1.0)
    np.testing.assert_array_equal(after["b"]["scale"], 1.0)


@pytest.mark.parametrize(("clip_norm", "scale"), [(1.0, 0.2), (5.5, 1.0), (None, 1.0)])
def test_clipping_scales_a_gradient_down_to_the_norm_but_never_up(clip_norm, scale):
    step = first_step(jnp.array([3.0, -4.0]), name="sgd", b1=0.0, clip_norm=clip_norm)
    np.testing.assert_allclose(step, -RATE * scale * np.array([3.0, -4.0]), rtol=1e-6)


def test_the_rule_sees_the_clipped_gradient():
    """The other way round, Adam's steps would be clipped, not its gradients: after a huge gradient it hardly moves."""
    optimizer = make_optimizer(num_steps=10, learning_rate=RATE, clip_norm=1.0)
    trajectory = steps(optimizer, jnp.zeros(()), [jnp.array(1e6), jnp.array(1.0)])
    np.testing.assert_allclose(trajectory, [-RATE, -2 * RATE], rtol=1e-5)


def test_an_unknown_rule_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"optimizer\.name is 'adm', .* adam, radam, sgd, rmsprop, lion\. Did you mean adam\?"
    ):
        make_optimizer(num_steps=10, name="adm")


def test_each_player_has_the_optimizer_of_its_subsection():
    section = ConfigDict(
        {"generator": {"name": "sgd", "b1": 0.0, "learning_rate": 0.1}, "discriminator": {"name": "adam"}}
    )
    section.generator.schedule = "linear"
    optimizers = make_player_optimizers(section, "generator", "discriminator", num_steps=10)
    late, _ = optimizers["generator"].update(
        jnp.array(3.0), optimizers["generator"].init(jnp.zeros(())), jnp.zeros(()), step=jnp.int32(4)
    )
    np.testing.assert_allclose(late, -0.3 * 0.6, rtol=1e-6)
    after = {name: steps(optimizer, jnp.zeros(()), [jnp.array(3.0)])[0] for name, optimizer in optimizers.items()}
    np.testing.assert_allclose([after["generator"], after["discriminator"]], [-0.3, -2e-4], rtol=1e-5)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"generator": {}}, "optimizer has the subsections generator, but must have generator, discriminator"),
        ({"generator": {}, "discriminator": {}, "critic": {}}, "critic, discriminator, generator, but must have"),
        ({"generator": {}, "discriminator": {"rate": 1.0}}, r"optimizer\.discriminator\.rate is not a setting"),
        (
            {"generator": {"schedule": "cos"}, "discriminator": {}},
            r"optimizer\.generator\.schedule is 'cos', .*'cosine'",
        ),
        (
            {"generator": {"b1": "x"}, "discriminator": {}},
            r"optimizer\.generator\.b1 is 'x', but must be of type float",
        ),
    ],
)
def test_sections_of_players_that_are_missing_unknown_or_wrong_are_refused(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_player_optimizers(ConfigDict(section), "generator", "discriminator", num_steps=10)


def test_lazy_updates_forget_as_much_in_an_interval():
    """After k + 1 updates in the place of k, decays have done as much, and so have steps of a constant size."""
    section = ConfigDict({"name": "adam", "learning_rate": RATE, "b1": 0.5, "b2": 0.99, "eps": 0.25, "clip_norm": 3.0})
    adjusted = with_lazy_updates(section, 4)
    np.testing.assert_allclose(adjusted["b1"] ** 5, 0.5**4)
    np.testing.assert_allclose(adjusted["b2"] ** 5, 0.99**4)
    np.testing.assert_allclose(5 * adjusted["learning_rate"], 4 * RATE)
    assert (adjusted["name"], adjusted["eps"], adjusted["clip_norm"]) == ("adam", 0.25, 3.0)
    assert with_lazy_updates(ConfigDict({"b1": 0.0}), 16) == {"b1": 0.0}


@pytest.mark.parametrize(("name", "kept"), [("sgd", "b2"), ("rmsprop", "b1")])
def test_lazy_updates_leave_a_decay_alone_that_the_rule_does_not_have(name, kept):
    adjusted = with_lazy_updates(ConfigDict({"name": name, "b1": 0.9, "b2": 0.999}), 1)
    own = {"b1": 0.9, "b2": 0.999}
    assert adjusted == {"name": name, kept: own.pop(kept)} | {key: value**0.5 for key, value in own.items()}
    with pytest.raises(ValueError, match=r"optimizer\.name is 'sdg', .* Did you mean sgd"):
        with_lazy_updates(ConfigDict({"name": "sdg"}), 4)


def test_weights_of_forced_normalization_are_normalized_after_the_whole_update():
    params = {"kernel": jnp.array([[3.0, 1.0], [4.0, 2.0]]), "bias": jnp.array([1.0, 2.0])}
    optimizer = make_optimizer(
        num_steps=10, name="sgd", b1=0.0, learning_rate=RATE, weight_decay=0.2, forced_normalization="kernel"
    )
    after = steps(optimizer, params, [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}])[0]
    moved = np.array([[3.0, 1.0], [4.0, 2.0]]) * (1 - 0.2 * RATE) - RATE
    np.testing.assert_allclose(after["kernel"], moved / np.sqrt((moved**2).mean(0)), rtol=1e-5)
    np.testing.assert_allclose(after["bias"], [0.5, 1.5], rtol=1e-6)


def test_beta2_of_adam_follows_its_schedule_with_the_bias_correction_of_the_moment():
    """By hand: update t is corrected by 1 - beta2(step)^t, as PyTorch's Adam does whose beta2 is set before it."""
    b2 = {0: 0.5, 1: 0.5, 3: 0.9}
    optimizer = make_optimizer(
        num_steps=10, learning_rate=RATE, b1=0.25, b2="piecewise(boundaries=(2,), values=(0.5, 0.9))"
    )
    params = {"w": jnp.zeros(2)}
    state, mean, square = optimizer.init(params), np.zeros(2), np.zeros(2)
    for t, step in enumerate((0, 1, 1, 3, 3), start=1):  # several updates of one step, and a step left out
        gradient = np.array([1.0, -3.0]) * t
        updates, state = optimizer.update({"w": jnp.array(gradient)}, state, params, step=jnp.int32(step))
        mean = 0.25 * mean + 0.75 * gradient
        square = b2[step] * square + (1 - b2[step]) * gradient**2
        expected = -RATE * mean / (1 - 0.25**t) / (np.sqrt(square / (1 - b2[step] ** t)) + 1e-8)
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)


def test_a_constant_schedule_of_beta2_is_a_number_in_state_and_updates():
    pair = [make_optimizer(num_steps=9, b1=0.5, b2=b2) for b2 in (0.9, "constant(value=0.9)")]
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    ours, theirs = (
        steps(optimizer, params, [params, params, {"a": jnp.ones(2), "b": jnp.array(3.0)}]) for optimizer in pair
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    assert jax.tree.structure(pair[0].init(params)) == jax.tree.structure(pair[1].init(params))
    zero = make_optimizer(num_steps=9, learning_rate=RATE, b1=0.0, b2="constant(value=0.0)")
    np.testing.assert_allclose(steps(zero, jnp.zeros(2), [jnp.array([4.0, -2.0])])[0], [-RATE, RATE], rtol=1e-6)


def test_beta2_of_other_rules_is_a_number():
    for name in ("radam", "lion", "rmsprop"):
        with pytest.raises(
            ValueError, match=rf"^optimizer\.b2 is 'constant.*', but only that of adam .* give {name} a"
        ):
            make_optimizer(num_steps=9, name=name, b1=0.9, b2="constant(value=0.9)")
    with pytest.raises(ValueError, match=r"^optimizer\.b2 is 'linear.*, but must be at least 0 and below 1 at every"):
        make_optimizer(num_steps=9, b2="linear(start=0.5, end=1.0, steps=3)")


def test_lazy_updates_correct_schedules_as_they_do_numbers():
    section = {"learning_rate": "linear(start=0.4, end=0.2, steps=4)", "b1": 0.0, "b2": "constant(value=0.81)"}
    lazy = with_lazy_updates(section, 1)  # c = 1/2
    assert lazy["b1"] == 0.0
    np.testing.assert_allclose([float(lazy["learning_rate"](n)) for n in (0, 4)], [0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose([float(lazy["b2"](0)), float(lazy["b2"].rest(0))], [0.9, 0.1], rtol=1e-5)
    optimizer = call(make_optimizer, lazy, where="optimizer", num_steps=9)
    updates, _ = optimizer.update(jnp.array(3.0), optimizer.init(jnp.array(0.0)), jnp.array(0.0), step=jnp.int32(4))
    np.testing.assert_allclose(updates, -0.1, rtol=1e-5)
