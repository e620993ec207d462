"""StyleGAN2's networks: who depends on whom, what truncation and mixing of styles do, groups of the discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.stylegan2_discriminator import Discriminator, minibatch_std
from jaxgen.nn.stylegan2_generator import Generator

KEY = jax.random.key(0)
SMALL = {"channel_base": 64, "channel_max": 8, "num_mapping_layers": 1}
GENERATOR = Generator((8, 8, 1), z_dim=4, w_dim=5, num_classes=3, **SMALL)
Z = jax.random.normal(KEY, (2, 4))
LABEL = jnp.array([0, 2])
FEATURES = jax.random.normal(KEY, (8, 4, 4, 3))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(GENERATOR.init)(KEY, Z, LABEL)


def test_a_latent_counts_by_its_direction(variables):
    ws = GENERATOR.apply(variables, Z, LABEL, method="styles")
    assert ws.shape == (2, GENERATOR.num_ws, 5) == (2, 4, 5)
    np.testing.assert_allclose(GENERATOR.apply(variables, 3.0 * Z, LABEL, method="styles"), ws, rtol=1e-5)
    assert jnp.abs(ws - GENERATOR.apply(variables, Z, LABEL[::-1], method="styles")).min(axis=(1, 2)).max() > 0


def test_full_truncation_leaves_the_average(variables):
    average = jnp.arange(5.0)
    moved = {**variables, "buffers": {**variables["buffers"], "w_avg": average}}
    ws = GENERATOR.apply(moved, Z, LABEL, method="styles")
    zero = GENERATOR.apply(moved, ws, psi=0.0, method="truncate")
    np.testing.assert_allclose(zero, jnp.broadcast_to(average[None, None], ws.shape), atol=1e-6)
    np.testing.assert_array_equal(GENERATOR.apply(moved, ws, psi=1.0, method="truncate"), ws)
    images = jax.jit(lambda v: GENERATOR.apply(v, Z, LABEL, truncation_psi=0.0))(moved)
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)


def test_each_style_reaches_the_image_and_only_its_own(variables):
    ws = GENERATOR.apply(variables, Z, LABEL, method="styles")

    def first_image(ws):
        return jnp.sum(GENERATOR.apply(variables, ws, noise_mode="none", method="synthesize")[0] ** 2)

    gradient = jnp.abs(jax.jit(jax.grad(first_image))(ws)).max(axis=-1)
    assert jnp.all(gradient[0] > 0)
    np.testing.assert_array_equal(gradient[1], np.zeros(4))


def test_bfloat16_computes_nearly_the_same(variables):
    half = GENERATOR.clone(dtype="bfloat16")
    full, rough = (jax.jit(network.apply)(variables, Z, LABEL) for network in (GENERATOR, half))
    assert rough.dtype == jnp.float32
    assert 0 < jnp.std(full - rough) < 0.03 * jnp.std(full)


def test_minibatch_std_is_the_deviation_of_a_group():
    """Of 8 images in groups of 4, images 0, 2, 4, 6 are one group, and the others the other one."""
    statistic = minibatch_std(FEATURES, 4)
    x = np.asarray(FEATURES)
    expected = [np.sqrt(x[i::2].var(axis=0) + 1e-8).mean() for i in (0, 1)]
    np.testing.assert_allclose(statistic, np.tile(expected, 4), rtol=1e-5)


def test_minibatch_std_is_invariant_under_permutation_within_groups():
    within, across = np.array([6, 3, 0, 1, 2, 7, 4, 5]), np.array([1, 0, 2, 3, 4, 5, 6, 7])
    statistic = minibatch_std(FEATURES, 4)
    np.testing.assert_allclose(minibatch_std(FEATURES[within], 4), statistic, rtol=1e-6)
    assert jnp.abs(minibatch_std(FEATURES[across], 4) - statistic).max() > 1e-4


def test_groups_are_spread_over_a_mapped_axis():
    shards = FEATURES.reshape(4, 2, *FEATURES.shape[1:])
    statistic = jax.vmap(lambda x: minibatch_std(x, 2, axis_name="shards"), axis_name="shards")(shards)
    np.testing.assert_allclose(statistic.reshape(8), minibatch_std(FEATURES, 2), rtol=1e-6)


def test_small_batches_are_one_group_and_odd_ones_refused():
    np.testing.assert_allclose(minibatch_std(FEATURES[:3], 4), minibatch_std(FEATURES[:3], 3))
    with pytest.raises(ValueError, match=r"group_size is 4, but must be positive and divide a batch of 6 images"):
        minibatch_std(FEATURES[:6], 4)


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_logits_project_on_the_class(architecture):
    network = Discriminator(architecture, group_size=1, num_classes=3, **SMALL)
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    variables = jax.jit(network.init)(KEY, x, LABEL)
    apply = jax.jit(network.apply)
    assert ("skip" in variables["params"]["b8"]) == (architecture == "resnet")
    logits = [apply(variables, x, jnp.array([label, label])) for label in range(3)]
    assert len({float(one[0]) for one in logits}) == 3
    mixed = apply(variables, x, jnp.array([0, 2]))
    np.testing.assert_allclose(mixed, jnp.stack([logits[0][0], logits[2][1]]), rtol=1e-5)
    with pytest.raises(ValueError, match="needs a label"):
        network.apply(variables, x)
