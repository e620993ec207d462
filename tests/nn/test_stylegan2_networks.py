"""StyleGAN2's networks: who depends on whom, what truncation and mixing of styles do, groups of the discriminator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from jaxgen.core import keys
from jaxgen.nn import stylegan2_discriminator, stylegan2_layers
from jaxgen.nn.minibatch import minibatch_std
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator
from jaxgen.nn.stylegan2_layers import Mapping

KEY = jax.random.key(0)
SMALL = {"channel_base": 64, "channel_max": 8, "num_mapping_layers": 1}
GENERATOR = Generator((8, 8, 1), latent_dim=4, w_dim=5, num_classes=3, **SMALL)
Z = jax.random.normal(KEY, (2, 4))
LABEL = jnp.array([0, 2])
FEATURES = jax.random.normal(KEY, (8, 4, 4, 3))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(functools.partial(GENERATOR.init, train=False))(KEY, Z, LABEL)


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


def test_each_style_reaches_the_image_and_only_its_own(variables):
    ws = GENERATOR.apply(variables, Z, LABEL, method="styles")

    def first_image(ws):
        return jnp.sum(GENERATOR.apply(variables, ws, noise_mode="none", method="synthesize")[0] ** 2)

    gradient = jnp.abs(jax.jit(jax.grad(first_image))(ws)).max(axis=-1)
    assert jnp.all(gradient[0] > 0)
    np.testing.assert_array_equal(gradient[1], np.zeros(4))


def test_bfloat16_computes_nearly_the_same(variables):
    half = GENERATOR.clone(dtype="bfloat16")
    full, rough = (
        jax.jit(functools.partial(network.apply, train=False))(variables, Z, LABEL) for network in (GENERATOR, half)
    )
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
    variables = jax.jit(functools.partial(network.init, train=False))(KEY, x, LABEL)
    apply = jax.jit(functools.partial(network.apply, train=True))
    assert ("skip" in variables["params"]["b8"]) == (architecture == "resnet")
    judged = [apply(variables, x, jnp.array([label, label])) for label in range(3)]
    logits = [opinion.logits for opinion in judged]
    assert len({float(one[0]) for one in logits}) == 3
    mixed = apply(variables, x, jnp.array([0, 2])).logits
    np.testing.assert_allclose(mixed, jnp.stack([logits[0][0], logits[2][1]]), rtol=1e-5)
    with pytest.raises(ValueError, match="needs a label"):
        network.apply(variables, x, train=True)
    # The features are the activations before the last layer: the logit is linear in them, they do not know the class.
    np.testing.assert_array_equal(judged[0].features, judged[1].features)
    params = variables["params"]
    out = judged[0].features @ params["b4_out"]["kernel"] / np.sqrt(8) + params["b4_out"]["bias"][None]
    mapped = Mapping(8, 1, 3).apply({"params": params["mapping"]}, None, jnp.array([0, 0]))
    np.testing.assert_allclose(logits[0], (out * mapped).sum(1) / np.sqrt(8), rtol=1e-4, atol=1e-6)


EXAMPLE_KEYS = jax.random.split(KEY, 6)


def training_styles(network, variables, z, label, keys=EXAMPLE_KEYS):
    """Styles as in training, and the average style after that."""
    ws, updated = network.apply(variables, z, label, keys, method="training_styles", mutable=["buffers"])
    return ws, updated["buffers"]["w_avg"]


def test_styles_in_training_are_mixed_by_the_keys_and_their_average_moves(variables):
    """The layers from a crossover on, drawn where an example is mixed at all, have the style of another latent."""
    z, label = jax.random.normal(jax.random.key(1), (6, 4)), jnp.array([0, 2, 1, 1, 0, 2])
    moved = {**variables, "buffers": {**variables["buffers"], "w_avg": jnp.arange(5.0)}}
    network = GENERATOR.clone(style_mixing=0.6, w_avg_decay=0.75)
    ws, average = training_styles(network, moved, z, label)
    mixing_keys = keys.fold_each(EXAMPLE_KEYS, "style_mixing")
    own = network.apply(moved, z, label, method="styles")
    other_latents = keys.normal(keys.fold_each(mixing_keys, "latent"), (4,))
    other = network.apply(moved, other_latents, label, method="styles")
    mixed = jax.vmap(lambda key: jax.random.bernoulli(key, 0.6))(keys.fold_each(mixing_keys, "whether"))
    crossovers = jax.vmap(lambda key: jax.random.randint(key, (), 1, 4))(keys.fold_each(mixing_keys, "crossover"))
    assert 0 < mixed.sum() < 6
    first_other = np.where(mixed, crossovers, 4)[:, None]
    np.testing.assert_allclose(ws, np.where((np.arange(4) >= first_other)[:, :, None], other, own), rtol=1e-6)
    np.testing.assert_allclose(average, 0.75 * np.arange(5.0) + 0.25 * own[:, 0].mean(0), rtol=1e-5)  # before mixing
    shards = jax.vmap(
        lambda z, label, keys: training_styles(network.clone(axis_name="shards"), moved, z, label, keys)[1],
        axis_name="shards",
    )(z.reshape(2, 3, 4), label.reshape(2, 3), EXAMPLE_KEYS.reshape(2, 3))
    np.testing.assert_allclose(shards, jnp.stack([average] * 2), rtol=1e-5)
    plain, _ = training_styles(GENERATOR.clone(style_mixing=0.0), moved, z, label, None)
    np.testing.assert_array_equal(plain, own)
    with pytest.raises(ValueError, match=r"style_mixing=0\.6 needs keys, one an image"):
        training_styles(network, moved, z, label, None)


def test_a_call_mixes_in_training_alone_and_has_noise_of_its_keys_or_constant_noise(variables):
    network = GENERATOR.clone(style_mixing=0.5)
    example_keys, loud = EXAMPLE_KEYS[:2], jax.tree_util.tree_map_with_path(_loud, variables)

    @jax.jit
    def images(variables):
        def call(**options):
            return network.apply(variables, Z, LABEL, **options)

        def synthesize(ws, **options):
            return network.apply(variables, ws, method="synthesize", **options)

        ws = call(method="styles")
        mixed, _ = training_styles(network, variables, Z, LABEL, example_keys)
        random = {"noise_keys": example_keys, "noise_mode": "random"}
        ours = (
            call(train=False),
            call(train=False, keys=example_keys),
            call(train=True, keys=example_keys, mutable=["buffers"])[0],
        )
        return ours, (synthesize(ws), synthesize(ws, **random), synthesize(mixed, **random))

    ours, theirs = images(loud)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert min(jnp.abs(ours[i] - ours[j]).max() for i, j in ((0, 1), (1, 2))) > 1e-3


def _loud(path, leaf):
    """With noise that is seen, as it is not at the start."""
    return jnp.ones_like(leaf) if path[-1].key == "noise_strength" else leaf


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"style_mixing": 1.5}, r"generator\.style_mixing is 1\.5, but must lie in \[0, 1\]"),
        ({"w_avg_decay": -0.5}, r"generator\.w_avg_decay is -0\.5, but must lie in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(functools.partial(GENERATOR.clone(**settings).init, train=False), KEY, Z, LABEL)
    ends = GENERATOR.clone(style_mixing=1.0, w_avg_decay=0.0)
    jax.eval_shape(functools.partial(ends.init, train=False), KEY, Z, LABEL)


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_every_convolution_is_clamped_and_the_last_dense_layer_is_not(architecture, monkeypatch):
    """Of both networks; branches of residual blocks are scaled down to keep the variance of their sum."""
    seen = {}
    for module in (stylegan2_discriminator, stylegan2_layers):

        def record(x, *, gain=1.0, clamp=None, name=module.__name__, original=module.leaky_relu):
            seen.setdefault(name, []).append((round(gain, 4), clamp))
            return original(x, gain=gain, clamp=clamp)

        monkeypatch.setattr(module, "leaky_relu", record)
    critic = Discriminator(architecture, clamp=7.0, **SMALL)
    jax.eval_shape(functools.partial(critic.init, train=False), KEY, jnp.zeros((2, 16, 16, 1)))
    block = [(1.0, 7.0), (0.7071 if architecture == "resnet" else 1.0, 7.0)]
    assert seen == {stylegan2_discriminator.__name__: [(1.0, 7.0), *block, *block, (1.0, 7.0), (1.0, None)]}
    seen.clear()
    colors = []
    generator = GENERATOR.clone(clamp=7.0)

    def record_colors(method, arguments, options, context):
        colors.extend([context.module.clamp] if isinstance(context.module, stylegan2_layers.ToRGB) else [])
        return method(*arguments, **options)

    with linen.intercept_methods(record_colors):
        jax.eval_shape(functools.partial(generator.init, train=False), KEY, Z, LABEL)
    assert seen == {stylegan2_layers.__name__: [(1.0, None), *[(1.0, 7.0)] * 3]}
    assert colors == [7.0, 7.0]
