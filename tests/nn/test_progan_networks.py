"""The growing networks against the official ones written down as they are: all levels, faded by a level of detail."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.adversarial import make_discriminator, make_generator
from jaxgen.nn.progan import Discriminator, Generator, levels_of

COUNTS = {
    32: (20_719_628, 20_726_785),
    64: (22_490_383, 22_498_049),
    128: (22_933_394, 22_941_313),
    256: (23_044_309, 23_052_353),
    512: (23_072_120, 23_080_225),
    1024: (23_079_115, 23_087_249),
}
GAIN = math.sqrt(2.0)
FIELDS = {"channel_base": 64, "channel_max": 12}
SIDE, CLASSES = 16, 3


def shapes_of(network, *inputs):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, train=False))["params"]


@pytest.mark.parametrize("side", COUNTS)
def test_official_parameter_counts(side):
    given = {"num_classes": 0, "axis_name": None, "dtype": jnp.float32}
    generator = make_generator({"name": "progan.Generator"}, image_shape=(side, side, 3), latent_dim=512, **given)
    critic = make_discriminator({"name": "progan.Discriminator"}, **given)
    found = shapes_of(generator, jnp.zeros((1, 512))), shapes_of(critic, jnp.zeros((1, side, side, 3)))
    assert tuple(map(trees.count, found)) == COUNTS[side]


class Both:
    """The two networks with parameters that are all random, biases too, and inputs."""

    def __init__(self):
        self.generator = Generator((SIDE, SIDE, 2), 5, num_classes=CLASSES, **FIELDS)
        self.critic = Discriminator(num_classes=CLASSES, group_size=2, **FIELDS)
        self.latents = jax.random.normal(jax.random.key(1), (4, 5))
        self.label = jnp.array([2, 0, 1, 2])
        self.images = jax.random.normal(jax.random.key(2), (4, SIDE, SIDE, 2))
        draw = np.random.default_rng(0).normal
        self.params = [
            jax.tree.map(lambda x: jnp.asarray(draw(size=x.shape), jnp.float32), shapes_of(network, x, self.label))
            for network, x in ((self.generator, self.latents), (self.critic, self.images))
        ]

    def generate(self, **options):
        return self.generator.apply({"params": self.params[0]}, self.latents, self.label, train=True, **options)

    def criticize(self, images, **options):
        return self.critic.apply({"params": self.params[1]}, images, self.label, train=True, **options)


@pytest.fixture(scope="module")
def both():
    return Both()


def conv(x, layer, *, gain=GAIN):
    kernel = layer["kernel"]
    scaled = kernel * (gain / math.sqrt(math.prod(kernel.shape[:-1])))
    y = jax.lax.conv_general_dilated(x, scaled, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + layer["bias"].reshape(1, 1, 1, -1)


def dense(x, layer, *, gain=GAIN):
    return x @ (layer["kernel"] * (gain / math.sqrt(x.shape[-1]))) + layer["bias"][None]


def lrelu(x):
    return jnp.maximum(0.2 * x, x)


def norm(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


def double(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def halve(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def lerp_clip(a, b, t):
    return a + (b - a) * min(max(t, 0.0), 1.0)


def official_images(params, latents, label, lod):
    """The whole image at a level of detail, 0 for the finest: each level's colors fade over those before."""
    x = norm(jnp.concatenate([latents, jax.nn.one_hot(label, CLASSES)], axis=-1))
    base = params["block4"]
    kernel = base["dense"]["kernel"][0, 0]
    x = x @ kernel * (GAIN / 4.0 / math.sqrt(x.shape[-1]))
    x = norm(lrelu(x.reshape(len(x), 4, 4, -1) + base["bias"].reshape(1, 1, 1, -1)))
    x = norm(lrelu(conv(x, base["conv"])))
    images = conv(x, params["to_rgb4"], gain=1.0)
    for own_lod, side in ((1, 8), (0, 16)):
        block, x = params[f"block{side}"], double(x)
        for name in ("conv0", "conv1"):
            x = norm(lrelu(conv(x, block[name])))
        images = lerp_clip(conv(x, params[f"to_rgb{side}"], gain=1.0), double(images), lod - own_lod)
    return images


def official_scores(params, images, lod):
    """The scores of whole images at a level of detail: each level's features fade over those of halved images."""
    x = lrelu(conv(images, params["from_rgb16"]))
    for own_lod, side in ((0, 16), (1, 8)):
        for name in ("conv0", "conv1"):
            x = lrelu(conv(x, params[f"block{side}"][name]))
        x, images = halve(x), halve(images)
        x = lerp_clip(x, lrelu(conv(images, params[f"from_rgb{side // 2}"])), lod - own_lod)
    groups = x.reshape(2, -1, *x.shape[1:])
    deviation = jnp.mean(jnp.sqrt(jnp.var(groups, axis=0) + 1e-8), axis=(1, 2, 3))
    x = jnp.concatenate([x, jnp.tile(deviation, 2).reshape(-1, 1, 1, 1) * jnp.ones((*x.shape[:3], 1))], axis=-1)
    x = lrelu(conv(x, params["conv"])).reshape(len(x), -1)
    return dense(lrelu(dense(x, params["dense"])), params["out"], gain=1.0)


# A level of detail, and the same as a resolution and the weight of its layers.
LEVELS = {2.0: (4, 1.0), 1.75: (8, 0.25), 1.0: (8, 1.0), 0.25: (16, 0.75), 0.0: (16, 1.0)}


def test_images_and_scores_are_the_official_ones_at_every_level_of_detail(both):
    @jax.jit
    def everything(images):
        found = {}
        for lod, (side, fade) in LEVELS.items():
            factor = SIDE // side
            shown = halve(images) if side == 8 else halve(halve(images)) if side == 4 else images
            whole = jnp.repeat(jnp.repeat(shown, factor, axis=1), factor, axis=2)
            ours = both.generate(resolution=side, fade=jnp.float32(fade))
            critique = both.criticize(shown, fade=jnp.float32(fade))
            scores = jnp.concatenate([critique.logits[:, None], critique.classes], axis=-1)
            found[lod] = (
                (jnp.repeat(jnp.repeat(ours, factor, 1), factor, 2), ours.shape[1]),
                official_images(both.params[0], both.latents, both.label, lod),
                scores,
                official_scores(both.params[1], whole, lod),
            )
        default = both.generate(), both.criticize(images).logits
        return found, default

    found, (images, logits) = everything(both.images)
    for lod, ((ours, side), theirs, scores, official) in found.items():
        assert side == LEVELS[lod][0]
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(jnp.std(theirs)))
        np.testing.assert_allclose(scores, official, atol=2e-5 * float(jnp.std(official)), rtol=1e-5)
    np.testing.assert_allclose(images, found[0.0][1], atol=1e-4)
    np.testing.assert_allclose(logits, found[0.0][3][:, 0], rtol=1e-4)


def test_what_is_not_reached_yet_has_no_gradient_and_what_is_reached_has_one(both):
    def loss(params):
        images = both.generator.apply(
            {"params": params}, both.latents, both.label, train=True, resolution=8, fade=jnp.float32(0.5)
        )
        return jnp.sum(jnp.sin(images))

    gradients = trees.named_leaves(jax.jit(jax.grad(loss))(both.params[0]))
    for name, gradient in gradients.items():
        reached = "16" not in name.partition("/")[0]
        assert bool(jnp.any(gradient != 0)) == reached, name


def test_weights_start_standard_normal_and_biases_at_zero():
    given = {"train": False}
    params = jax.jit(lambda: Generator((16, 16, 3), 64).init(jax.random.key(0), jnp.zeros((1, 64)), **given))()[
        "params"
    ]
    for name, leaf in trees.named_leaves(params).items():
        if name.endswith("bias"):
            np.testing.assert_array_equal(leaf, 0.0)
        else:
            np.testing.assert_allclose(jnp.std(leaf), 1.0, rtol=5 / math.sqrt(2 * leaf.size))


@pytest.mark.parametrize(
    ("sides", "levels"),
    [((8, 8), [4, 8]), ((28, 28), [7, 14, 28]), ((48, 48), [6, 12, 24, 48]), ((10, 10), [5, 10]), ((22, 22), [11, 22])],
)
def test_levels_are_halved_down_to_less_than_8_or_an_odd_side(sides, levels):
    assert levels_of(sides) == levels


@pytest.mark.parametrize("sides", [(8, 16), (9, 9), (4, 4)])
def test_images_that_cannot_grow_are_refused(sides):
    with pytest.raises(
        ValueError, match=rf"square images whose side is even and at least 8, but these are {sides[0]}x"
    ):
        levels_of(sides)


def test_other_resolutions_and_missing_labels_are_refused(both):
    with pytest.raises(ValueError, match=r"^The resolution is 12, but must be one of the levels, 4, 8, 16\."):
        jax.eval_shape(lambda: both.generate(resolution=12))
    for network, inputs in ((both.generator, both.latents), (both.critic, both.images)):
        with pytest.raises(ValueError, match=r"conditional on 3 classes needs a label"):
            shapes_of(network, inputs)
    with pytest.raises(ValueError, match=r"unconditional network was given labels"):
        shapes_of(Discriminator(**FIELDS), both.images, both.label)


def test_computation_has_its_type_and_outputs_are_float32(both):
    half = {"dtype": jnp.bfloat16, "num_classes": CLASSES, **FIELDS}
    for network, inputs in (
        (Generator((SIDE, SIDE, 2), 5, **half), both.latents),
        (Discriminator(**half), both.images),
    ):
        out, state = jax.eval_shape(
            lambda network=network, inputs=inputs: network.init_with_output(
                jax.random.key(0), inputs, both.label, train=False, capture_intermediates=True
            )
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((out, state["params"])))
        assert state["intermediates"]["block16"]["__call__"][0].dtype == jnp.bfloat16
