"""The plan of progressive growing against the official schedule, and what becomes of real images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.adversarial.growth import GrowthSettings, plan, shrunk

CASES = {
    # Settings, resolutions, updates of the discriminator in a step, and a number of steps that sees the last level.
    "official": (GrowthSettings(600, 400, (64, 32, 16)), (4, 8, 16, 32), 1, 260),
    "uneven": (GrowthSettings(50, 33, (8, 7)), (4, 8, 16), 1, 40),
    "several critics": (GrowthSettings(100, 60, (8, 4, 2)), (7, 14, 28), 3, 80),
    "no fade": (GrowthSettings(100, 0, (10, 6)), (4, 8, 16), 1, 60),
    "one step a level": (GrowthSettings(8, 8, (8,)), (4, 8, 16), 1, 9),
}


def official(settings, resolutions, n_critic, num_steps):
    """Resolution, batch size, weight of the level and whether moments are reset, by the official training schedule."""
    seen, before, rows = 0, None, []
    for _ in range(num_steps):
        duration = settings.steady_images + settings.fading_images
        number = seen // duration
        within = seen - number * duration
        lod = float(len(resolutions) - 1 - number)
        if settings.fading_images:
            lod -= max(within - settings.steady_images, 0.0) / settings.fading_images
        lod = max(lod, 0.0)
        level = len(resolutions) - 1 - math.floor(lod)
        size = settings.batch_sizes[min(level, len(settings.batch_sizes) - 1)]
        around = (math.floor(lod), math.ceil(lod))
        rows.append((resolutions[level], size, 1.0 - (lod - math.floor(lod)), before is not None and around != before))
        before = around
        seen += size * n_critic
    return rows


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_the_official_schedule(name):
    settings, resolutions, n_critic, num_steps = CASES[name]
    growth = plan(settings, resolutions, batch_size=64, n_critic=n_critic, microbatches=1)
    steps = jnp.arange(num_steps)
    fades, restarts, numbers = jax.jit(
        lambda steps: tuple(jax.vmap(f)(steps) for f in (growth.fade, growth.restarts, growth.number))
    )(steps)
    levels = [growth.at(step) for step in range(num_steps)]
    ours = [
        (level.resolution, level.batch_size, pytest.approx(float(fade), abs=1e-5), bool(again))
        for level, fade, again in zip(levels, fades, restarts, strict=True)
    ]
    assert ours == official(settings, resolutions, n_critic, num_steps)
    assert [resolutions[number] for number in numbers] == [level.resolution for level in levels]
    assert levels[-1].resolution == resolutions[-1]
    assert fades[-1] == 1.0


def test_batch_sizes_and_durations_that_cannot_be_are_refused():
    given = {"batch_size": 16, "n_critic": 1, "microbatches": 2}
    for settings, sentence in (
        (GrowthSettings(0, 5, (8,)), r"^growth has steady_images=0 and fading_images=5, but must have at least 1"),
        (GrowthSettings(5, -1, (8,)), r"^growth has steady_images=5 and fading_images=-1"),
        (GrowthSettings(5, 5, (8, 8, 8)), r"^growth\.batch_sizes is \(8, 8, 8\), but must have 1 to 2 .* 4, 8\.$"),
        (GrowthSettings(5, 5, ()), r"^growth\.batch_sizes is \(\), but must have 1 to 2"),
        (GrowthSettings(5, 5, (18,)), r"^growth\.batch_sizes has 18, but .* and at most data\.batch_size, 16"),
        (GrowthSettings(5, 5, (8, 3)), r"^growth\.batch_sizes has 3, but each must be a positive multiple of t"),
        (GrowthSettings(5, 5, (0,)), r"^growth\.batch_sizes has 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            plan(settings, (4, 8), **given)
    plan(GrowthSettings(1, 0, (16, 2)), (4, 8), **given)


def test_real_images_are_means_of_squares_mixed_with_those_of_twice_the_side():
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 2)).astype(np.float32)
    fine = images.reshape(2, 3, 4, 2, 4, 2, 2).mean(axis=(3, 5))
    coarse = images.reshape(2, 3, 2, 4, 2, 4, 2).mean(axis=(3, 5)).repeat(2, axis=2).repeat(2, axis=3)
    ours = shrunk(jnp.array(images), 4, jnp.float32(0.25))
    np.testing.assert_allclose(ours, 0.25 * fine + 0.75 * coarse, atol=1e-6)
    np.testing.assert_allclose(shrunk(jnp.array(images), 4, jnp.float32(1.0)), fine, atol=1e-6)
    np.testing.assert_array_equal(shrunk(jnp.array(images), 8, jnp.float32(1.0)), images)
    odd = shrunk(jnp.array(images[:, :, :6, :6]), 3, jnp.float32(1.0))  # 3x3, the first level: half of it is none
    np.testing.assert_allclose(odd, images[:, :, :6, :6].reshape(2, 3, 3, 2, 3, 2, 2).mean(axis=(3, 5)), atol=1e-6)
