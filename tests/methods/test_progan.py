"""Progressive growing: levels and batch sizes by the step, fades, moments that start anew, samples, resumption."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from specs import data_spec

from configs import progan
from jaxgen.adversarial.growth import GrowthSettings, plan, shrunk
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, GenerativeModel, Phase
from jaxgen.core.images import to_float
from jaxgen.methods.gan import progan as progan_method
from jaxgen.nn.progan import Discriminator, Generator, levels_of

CLASSES, STEPS = 3, 6
SPEC = data_spec((8, 8, 1), CLASSES)
PHASES = [Phase(resolution=4, batch_size=16)] * 2 + [Phase(resolution=8, batch_size=8)] * 4


def tiny():
    config = progan.get_config("tiny")
    config.ema.decay = 0.5
    config.growth.fading_images = 20  # steps 2, 3 and 4 are of weights 0.4, 0.8 and 1
    return config


@functools.cache
def batches():
    draw = np.random.default_rng(0).integers
    return [
        {
            "image": jnp.asarray(draw(0, 256, (1, phase.batch_size, 8, 8, 1)).astype(np.uint8)),
            "label": jnp.asarray(draw(0, CLASSES, (1, phase.batch_size)).astype(np.int32)),
            "index": jnp.arange(phase.batch_size)[None],
        }
        for phase in PHASES
    ]


class Run(NamedTuple):
    """A model with the states before every step, and the metrics of each."""

    model: GenerativeModel
    update: object
    states: list
    metrics: list


def key_of(step):
    return keys.at_step(keys.root_key(7), step)


@pytest.fixture(scope="module")
def run() -> Run:
    model = build_model(tiny(), SPEC)
    update = jax.jit(model.update, static_argnames="phase")
    states, metrics = [jax.jit(model.init)(keys.root_key(0), batches()[0])], []
    for step in range(STEPS):
        state, told = update(key_of(step), states[-1], batches()[step], phase=model.phase(step))
        states.append(state)
        metrics.append(told)
    return Run(model, update, states, metrics)


def test_phases_have_the_resolution_and_the_batch_size_of_their_level(run):
    assert [run.model.phase(step) for step in range(STEPS)] == PHASES
    assert [float(m["resolution"]) for m in run.metrics] == [4, 4, 8, 8, 8, 8]
    np.testing.assert_allclose([float(m["fade"]) for m in run.metrics], [1, 1, 0.4, 0.8, 1, 1], rtol=1e-6)


def test_the_run_goes_on_bit_for_bit_from_any_step_also_across_a_level(run):
    """Each from a copy on the host, by a model of its own that has compiled nothing yet."""
    model = build_model(tiny(), SPEC)
    update = jax.jit(model.update, static_argnames="phase")
    for start in (1, 2, 4):
        state = jax.tree.map(np.array, run.states[start])
        for step in range(start, STEPS):
            state, _ = update(key_of(step), state, batches()[step], phase=model.phase(step))
        jax.tree.map(np.testing.assert_array_equal, state, run.states[-1])


def test_moments_start_anew_with_a_level_and_after_its_fade(run):
    """Adam's counts of updates after each step, and the first moments of what they began with."""
    for player in ("generator", "discriminator"):
        counts = [
            int(leaf)
            for state in run.states[1:]
            for leaf in jax.tree.leaves(state.opt_state[player])
            if leaf.dtype == jnp.int32
        ]
        assert counts == [1, 2, 1, 2, 1, 2]
    before, after = run.states[2], run.states[3]
    marked = before._replace(opt_state=jax.tree.map(lambda x: x + jnp.ones_like(x), before.opt_state))
    again, _ = run.update(key_of(2), marked, batches()[2], phase=PHASES[2])
    jax.tree.map(np.testing.assert_array_equal, again, after)


NETWORK = {"channel_base": 64, "channel_max": 8, "num_classes": CLASSES}
GENERATOR, CRITIC = Generator(SPEC.image_shape, 8, **NETWORK), Discriminator(group_size=4, **NETWORK)


@functools.partial(jax.jit, static_argnames="resolution")
def logits_of(params, key, batch, fade, resolution):
    """Mean logits of real images, shrunk and faded, and of images made at the level, by the networks themselves."""
    own = keys.per_example(keys.stream(key, "discriminator"), batch["index"][0])
    latents, label = keys.normal(keys.fold_each(own, "latent"), (8,)), batch["label"][0]
    given = {name: {"params": tree} for name, tree in params.items()}
    fake = GENERATOR.apply(given["generator"], latents, label, train=True, resolution=resolution, fade=fade)
    real = shrunk(to_float(batch["image"][0]), resolution, fade)
    return [
        jnp.mean(CRITIC.apply(given["discriminator"], images, label, train=True, fade=fade).logits)
        for images in (real, fake)
    ]


def test_both_networks_see_the_level_and_the_fade_of_the_step(run):
    for step, fade in ((1, 1.0), (2, 0.4), (3, 0.8)):
        expected = logits_of(
            run.states[step].params, key_of(step), batches()[step], jnp.float32(fade), PHASES[step].resolution
        )
        found = [run.metrics[step][f"logits/{name}"] for name in ("real", "fake")]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_details_below_the_resolution_are_not_seen(run):
    """Pixels that change within squares of 2x2, whose means stay, change nothing in a step at 4x4."""
    batch = batches()[1]
    checkers = 5 * (np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1).astype(np.int16)[:, :, None]
    even = np.asarray(batch["image"]).astype(np.int16).clip(8, 247)
    states = [
        run.update(key_of(1), run.states[1], {**batch, "image": jnp.asarray(images.astype(np.uint8))}, phase=PHASES[1])[
            0
        ]
        for images in (even, even + checkers)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), states[0].params, states[1].params)


def test_samples_are_of_the_level_of_the_last_update_as_large_as_the_data(run):
    """By the averaged weights, doubled where the level is not the last."""
    sample_keys, label = keys.per_example(keys.root_key(1), jnp.arange(4)), jnp.array([0, 1, 2, 0])
    latents = keys.normal(keys.fold_each(sample_keys, "latent"), (8,))
    sample, decode = jax.jit(run.model.sample), jax.jit(run.model.decode)
    made = jax.jit(functools.partial(GENERATOR.apply, train=False), static_argnames="resolution")
    for done, resolution, fade in ((0, 4, 1.0), (2, 4, 1.0), (3, 8, 0.4), (5, 8, 1.0)):
        state = run.states[done]
        variables = run.model.eval_variables(state)
        images = sample(sample_keys, variables, {"label": label})
        params = variables["params"]
        options = {"resolution": resolution, "fade": jnp.float32(fade)}
        expected = made({"params": params}, latents, label, **options)
        factor = 8 // resolution
        expected = np.clip(np.asarray(expected).repeat(factor, axis=1).repeat(factor, axis=2), -1.0, 1.0)
        np.testing.assert_allclose(images, expected, atol=1e-5)
        np.testing.assert_allclose(decode(variables, latents, {"label": label}), images, atol=1e-5)
    assert not np.array_equal(params["block4"]["conv"]["kernel"], state.params["generator"]["block4"]["conv"]["kernel"])
    bright = {**params, "to_rgb8": {**params["to_rgb8"], "bias": params["to_rgb8"]["bias"] + 99.0}}
    images = sample(sample_keys, {**variables, "params": bright}, {"label": label})
    np.testing.assert_array_equal(images, np.ones_like(images))


def test_the_plan_counts_all_images_of_a_step_and_the_networks_have_the_settings_of_the_run():
    config = tiny()
    config.gan.n_critic, config.train.microbatches, config.train.compute_dtype = 2, 2, "bfloat16"
    model = build_model(config, SPEC)
    given = {"batch_size": config.data.batch_size, "n_critic": 2, "microbatches": 2}
    growth = plan(GrowthSettings(**config.growth), levels_of((8, 8)), **given)
    assert growth.levels[1].first_step == 1  # after 32 images, of which 24 are of the first level
    assert [model.phase(step).resolution for step in (0, 1)] == [4, 8]
    assert model.microbatches == 4
    shared = {"axis_name": "shards", "dtype": "bfloat16", **NETWORK}
    networks = progan_method._networks(config, SPEC, 5, Env(axis_name="shards"))
    assert networks == (Generator((8, 8, 1), 5, **shared), Discriminator(group_size=4, **shared))
    config.growth.batch_sizes = (16, 9)
    with pytest.raises(ValueError, match=r"growth\.batch_sizes has 9, but each must be a positive multiple of t.*, 2,"):
        build_model(config, SPEC)


def test_sizes_of_batches_are_checked_before_training():
    config = tiny()
    config.growth.batch_sizes = (16, 32)
    with pytest.raises(ValueError, match=r"^growth\.batch_sizes has 32, but .* at most data\.batch_size, 16\.$"):
        build_model(config, SPEC)
    with pytest.raises(ValueError, match=r"square images whose side is even and at least 8, but these are 9x9"):
        build_model(tiny(), data_spec((9, 9, 1), CLASSES))


def test_batches_of_every_level_divide_over_the_devices_before_training():
    config = tiny_runs.config_on("progan", "data")
    config.growth.batch_sizes = (16, 4)
    with pytest.raises(ValueError, match=r"A microbatch of 4 examples does not divide over 8 devices"):
        tiny_runs.make_tiny(config)


@pytest.mark.parametrize(("variant", "side"), [("celebahq", 1024), ("cifar10", 32), ("shapes", 32), ("digits", 8)])
def test_runs_reach_the_last_level_and_stay_there(variant, side):
    config = progan.get_config(variant)
    model = build_model(config, data_spec((side, side, 3), 10))
    last = config.train.num_steps
    assert model.phase(last - 1).resolution == side
    assert model.phase(last * 9 // 10).resolution == side
    assert model.phase(0) == Phase(resolution=4, batch_size=config.growth.batch_sizes[0])
    growth = plan(GrowthSettings(**config.growth), levels_of((side, side)), batch_size=512, n_critic=1, microbatches=1)
    before = growth.levels[1].first_step
    assert [model.phase(step).resolution for step in (before - 1, before)] == [4, 8]
