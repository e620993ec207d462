import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jaxgen.optim.optimizers import learning_rate_schedule, make_optimizer, make_player_optimizers, with_lazy_updates

RATE = 0.5


def steps(optimizer, params, gradients):
    """The parameters after each of the gradients."""
    state, trajectory = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory


def first_step(gradient, **options):
    """What the first update adds to parameters of zero."""
    optimizer = make_optimizer(num_steps=10, learning_rate=RATE, **options)
    return steps(optimizer, {"w": jnp.zeros_like(gradient)}, [{"w": gradient}])[0]["w"]


@pytest.mark.parametrize("warmup_steps", [0, 4])
@pytest.mark.parametrize(
    ("schedule", "shape"), [("constant", lambda t: 1.0), ("linear", lambda t: 1 - t), ("cosine", None)]
)
def test_a_schedule_climbs_then_follows_its_shape_down_to_zero(warmup_steps, schedule, shape):
    shape = shape or (lambda t: (1 + np.cos(np.pi * t)) / 2)
    rate = learning_rate_schedule(24, RATE, schedule=schedule, warmup_steps=warmup_steps)
    climb = [float(rate(count)) for count in range(warmup_steps)]
    np.testing.assert_allclose(climb, [RATE * (n + 1) / warmup_steps for n in range(warmup_steps)], rtol=1e-6)
    top = max(warmup_steps - 1, 0)  # the update that has the full rate
    np.testing.assert_allclose(rate(top), RATE, rtol=1e-6)
    np.testing.assert_allclose(rate(24), RATE * shape(1.0), atol=1e-7)
    if not warmup_steps:
        np.testing.assert_allclose([rate(6), rate(12)], [RATE * shape(0.25), RATE * shape(0.5)], rtol=1e-6)
    assert np.all(np.diff([rate(count) for count in range(top, 25)]) <= 1e-7)


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_the_inverse_square_root_counts_updates_from_the_first(warmup_steps):
    """Update t has RATE / sqrt(max(t / 9, 1)), wherever the climb ended."""
    rate = learning_rate_schedule(100, RATE, schedule="inverse_sqrt", warmup_steps=warmup_steps, decay_steps=9)
    t = np.array([4, 9, 16, 36, 100])
    np.testing.assert_allclose([rate(count) for count in t - 1], RATE / np.sqrt(np.maximum(t / 9, 1)), rtol=1e-6)


@pytest.mark.parametrize(("schedule", "decay_steps"), [("inverse_sqrt", None), ("inverse_sqrt", 0), ("cosine", 5)])
def test_decay_steps_belong_to_one_schedule(schedule, decay_steps):
    with pytest.raises(ValueError, match=f"decay_steps is {decay_steps} and optimizer.schedule is '{schedule}'"):
        make_optimizer(num_steps=10, schedule=schedule, decay_steps=decay_steps)


def test_a_negative_warmup_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.warmup_steps is -1"):
        make_optimizer(num_steps=10, warmup_steps=-1)


def test_a_run_shorter_than_its_warmup_ends_on_the_way_up():
    rate = learning_rate_schedule(3, RATE, schedule="cosine", warmup_steps=10)
    np.testing.assert_allclose([rate(0), rate(1), rate(2)], [0.1 * RATE, 0.2 * RATE, 0.3 * RATE], rtol=1e-6)


def test_updates_count_from_the_first_step_of_the_climb():
    optimizer = make_optimizer(num_steps=10, name="sgd", b1=0.0, learning_rate=RATE, warmup_steps=4)
    trajectory = steps(optimizer, jnp.zeros(()), [jnp.ones(())] * 5)
    np.testing.assert_allclose(-np.diff([0.0, *trajectory]) / RATE, [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", [-RATE * 3.0, RATE * 4.0]),
        ("adam", [-RATE, RATE]),  # Kingma & Ba 2015: bias-corrected, the first step has the length of the rate
        ("lion", [-RATE, RATE]),
        ("rmsprop", [-RATE / np.sqrt(1 - 0.99), RATE / np.sqrt(1 - 0.99)]),
    ],
)
def test_the_first_step_of_each_rule(name, expected):
    np.testing.assert_allclose(first_step(jnp.array([3.0, -4.0]), name=name, b2=0.99), expected, rtol=1e-5)


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
    optimizers = make_player_optimizers(section, "generator", "discriminator", num_steps=10)
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
    section = ConfigDict({"name": "adam", "learning_rate": RATE, "b1": 0.5, "b2": 0.99, "clip_norm": 3.0})
    adjusted = with_lazy_updates(section, 4)
    np.testing.assert_allclose(adjusted["b1"] ** 5, 0.5**4)
    np.testing.assert_allclose(adjusted["b2"] ** 5, 0.99**4)
    np.testing.assert_allclose(5 * adjusted["learning_rate"], 4 * RATE)
    assert (adjusted["name"], adjusted["clip_norm"]) == ("adam", 3.0)
    assert with_lazy_updates(ConfigDict({"b1": 0.0}), 16) == {"b1": 0.0}
