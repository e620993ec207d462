"""StyleGAN2: regularizers put together by hand, averages, mixing of styles, what samples depend on, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import data_spec

from configs import stylegan2 as stylegan2_config
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import CONSTANT, Env, ModelSpec, Phase
from jaxgen.methods.gan import stylegan2
from jaxgen.nn.stylegan2_discriminator import Discriminator
from jaxgen.nn.stylegan2_generator import Generator

KEY = keys.root_key(0)
SPEC = data_spec((8, 8, 1), 3)
SIZE = 8
PLAYERS = ("discriminator", "generator")
BOTH, GENERATOR, NOBODY = Phase(PLAYERS), Phase(("generator",)), CONSTANT
RATE = 0.5


def config_of(**settings):
    config = stylegan2_config.get_config("tiny")
    config.gan.update({"class_conditional": False} | settings)
    for section in config.optimizer.values():
        section.name, section.learning_rate, section.b1, section.b2 = "sgd", RATE, 0.0, 0.999
    return config


def build(**settings):
    return stylegan2.make(config_of(**settings), SPEC, Env())


def batch_of(size=SIZE):
    image = jax.random.uniform(KEY, (1, size, 8, 8, 1), minval=-1.0)
    return {"image": image, "index": jnp.arange(size, dtype=jnp.int32)[None], "label": jnp.zeros((1, size), jnp.int32)}


@pytest.fixture(scope="module")
def trained():
    """A model without mixing, its start, and what an update in two phases makes of it; the discriminator stays."""
    config = config_of(style_mixing=0.0, r1_every_steps=16, path_length_every_steps=4)
    config.optimizer.discriminator.learning_rate = 0.0
    model, batch = stylegan2.make(config, SPEC, Env()), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    update = jax.jit(model.update, static_argnames="phase")
    return model, state, {phase: update(KEY, state, batch, phase=phase) for phase in (NOBODY, BOTH)}


def networks():
    settings = {"channel_base": 256, "channel_max": 4, "num_mapping_layers": 1}
    generator = Generator((8, 8, 1), z_dim=4, w_dim=4, **settings)
    return generator, Discriminator(group_size=4, **settings)


def generator_variables(state):
    return {"params": state.params["generator"], "buffers": state.model_state["generator"]}


def latents_of(example_keys):
    return keys.normal(keys.fold_each(example_keys, "latent"), (4,))


def example_keys_of(stream, stride=1):
    return keys.per_example(keys.stream(KEY, stream), jnp.arange(0, SIZE, stride))


def test_losses_of_the_discriminator_by_hand(trained):
    _, state, outcomes = trained
    generator, discriminator = networks()
    x, example_keys = batch_of()["image"][0], example_keys_of("discriminator")

    @jax.jit
    def by_hand(variables, params):
        def logits(images):
            return discriminator.apply({"params": params}, images)

        fake = generator.apply(variables, latents_of(example_keys), noise_keys=example_keys, noise_mode="random")
        gradient = jax.grad(lambda x: logits(x).sum())(x)
        loss = jnp.mean(jax.nn.softplus(-logits(x)) + jax.nn.softplus(logits(fake)))
        return loss, jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))

    loss, penalty = by_hand(generator_variables(state), state.params["discriminator"])
    metrics = outcomes[BOTH][1]
    np.testing.assert_allclose(metrics["loss/discriminator"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["r1"], penalty, rtol=1e-4)
    gamma = config_of().gan.r1_gamma
    np.testing.assert_allclose(metrics["loss/discriminator_regularizer"], 16 * gamma / 2 * penalty, rtol=1e-4)


def test_path_lengths_by_hand(trained):
    """Of every other image, from whole Jacobians; their average is a hundredth of the way to the batch's."""
    outcomes = trained[2]
    generator, _ = networks()
    example_keys = example_keys_of("generator_regularizer", stride=2)
    noise = keys.normal(keys.fold_each(example_keys, "path"), (8, 8, 1)) / 8.0  # over the root of 64 pixels

    @jax.jit
    def by_hand(variables):
        def image(ws, key):
            return generator.apply(variables, ws[None], noise_keys=key[None], noise_mode="random", method="synthesize")[
                0
            ]

        ws = generator.apply(variables, latents_of(example_keys), method="styles")
        jacobians = jax.vmap(jax.jacrev(image))(ws, example_keys)
        return jnp.sqrt(jnp.mean(jnp.sum(jnp.einsum("bhwcnd,bhwc->bnd", jacobians, noise) ** 2, axis=2), axis=1))

    lengths = by_hand(generator_variables(outcomes[NOBODY][0]))  # after the update on the loss
    after, metrics = outcomes[BOTH]
    average = 0.01 * lengths.mean()
    np.testing.assert_allclose(metrics["path_length"], lengths.mean(), rtol=1e-4)
    np.testing.assert_allclose(after.model_state["path_length"], average, rtol=1e-4)
    expected = 4 * 2.0 * jnp.mean((lengths - average) ** 2)
    np.testing.assert_allclose(metrics["loss/generator_regularizer"], expected, rtol=1e-4)


def test_regularizers_count_in_their_phases_only(trained):
    model, _, outcomes = trained
    phases = [model.phase(step) for step in range(17)]
    assert phases[0] == phases[16] == BOTH
    assert all(type(phase) is Phase for phase in phases)
    assert phases[4] == phases[8] == phases[12] == GENERATOR
    assert {phases[step] for step in range(17) if step % 4} == {NOBODY}
    without, more = (outcomes[phase][1] for phase in (NOBODY, BOTH))
    added = {"r1", "path_length"} | {
        f"{kind}/{player}_regularizer" for kind in ("loss", "grad_norm") for player in PLAYERS
    }
    assert set(more) - set(without) == added
    assert outcomes[NOBODY][0].model_state["path_length"] == 0.0
    off = {"path_length_weight": 0.0, "path_length_every_steps": 4}
    assert build(r1_gamma=0.0, r1_every_steps=16, **off).phase(0) == NOBODY
    assert build(r1_gamma=0.0, r1_every_steps=16, path_length_every_steps=2).phase(2) == GENERATOR
    assert build(r1_every_steps=2, **off).phase(2) == Phase(regularized=("discriminator",))


def test_the_average_style_moves_towards_each_batch(trained):
    """Once with the discriminator's latents, once with the generator's, by 1 - 0.995 of the way."""
    _, state, outcomes = trained
    generator, _ = networks()
    mean = jax.jit(lambda variables, z: generator.apply(variables, z, method="styles")[:, 0].mean(0))
    average = np.zeros(4)
    for stream in ("discriminator", "generator"):
        batch_mean = mean(generator_variables(state), latents_of(example_keys_of(stream)))
        average = 0.995 * average + 0.005 * np.asarray(batch_mean)
    buffers = outcomes[NOBODY][0].model_state["generator"]
    np.testing.assert_allclose(buffers["w_avg"], average, rtol=1e-4)
    noise = (tree["synthesis"]["b8"]["conv0"]["noise_const"] for tree in (buffers, state.model_state["generator"]))
    np.testing.assert_array_equal(*noise)


def test_styles_are_mixed_from_one_layer_on():
    mixing_keys = jax.random.split(KEY, 2000)
    kept = np.asarray(stylegan2._kept(mixing_keys, 0.75, 4))
    assert kept[:, 0].all()
    assert (np.diff(kept.astype(int), axis=1) <= 0).all()
    np.testing.assert_allclose(kept.all(1).mean(), 0.25, atol=0.04)
    counts = np.bincount(kept.sum(1), minlength=5)[1:4] / 2000
    np.testing.assert_allclose(counts, [0.25] * 3, atol=0.04)
    np.testing.assert_array_equal(np.asarray(stylegan2._kept(mixing_keys[:5], 0.75, 4)), kept[:5])
    assert stylegan2._kept(mixing_keys, 0.0, 4).all()


def test_samples_and_decoded_latents(trained):
    """A sample is a function of its own key: latent and noise; decoding has constant noise; truncation is asked for."""
    model, state, _ = trained
    variables = loud(model.eval_variables(state))
    generator, _ = networks()
    sample_keys = jax.random.split(KEY, 3)
    latents = latents_of(sample_keys)
    sample = jax.jit(model.sample)
    images = sample(sample_keys, variables)
    np.testing.assert_allclose(sample(sample_keys[::-1], variables)[::-1], images, atol=1e-5)

    @jax.jit
    def by_hand(variables):
        noisy = generator.apply(variables, latents, noise_keys=sample_keys, noise_mode="random")
        return jnp.clip(noisy, -1.0, 1.0), jnp.clip(generator.apply(variables, latents), -1.0, 1.0)

    noisy, constant = by_hand(variables)
    np.testing.assert_allclose(images, noisy, atol=1e-5)
    np.testing.assert_allclose(jax.jit(model.decode)(variables, latents), constant, atol=1e-5)
    assert jnp.abs(noisy - constant).max() > 1e-3
    config = config_of()
    config.sampler.update({"truncation_psi": 0.0, "noise_mode": "none"})
    same = jax.jit(stylegan2.make(config, SPEC, Env()).sample)(sample_keys, variables)
    np.testing.assert_allclose(same, jnp.broadcast_to(same[:1], same.shape), atol=1e-6)
    assert model.spec.latent_shape == latents.shape[1:]


def loud(variables):
    """With noise that is seen, as it is not at the start."""

    def strength(path, leaf):
        return jnp.ones_like(leaf) if path[-1].key == "noise_strength" else leaf

    return jax.tree_util.tree_map_with_path(strength, variables)


PATHS_OFF = {"path_length_weight": 0.0, "path_length_every_steps": 4}
REFUSED = {
    "r1_every_steps is 0, but must be at least 1": {"r1_every_steps": 0},
    "path_length_shrink is 0, but must be at least 1": {"path_length_shrink": 0},
    r"path_length_every_steps is -1, but must be at least 1": {"path_length_every_steps": -1},
    r"w_avg_decay is -0.5, but must lie in \[0, 1\]": {"w_avg_decay": -0.5},
    r"path_length_decay is 1.01, but must lie in \[0, 1\]": {"path_length_decay": 1.01},
    r"r1_gamma is -1.0, but must be at least 0": {"r1_gamma": -1.0},
    r"path_length_weight is nan, but must be a finite number": {"path_length_weight": float("nan")},
    r"gan.r1_every_steps is 8, but has no effect without a gan.r1_gamma": {"r1_gamma": 0.0, "r1_every_steps": 8},
    r"gan.path_length_every_steps is 1, but has no effect without a gan.path_length_w": {"path_length_weight": 0.0},
    r"gan.path_length_shrink is 4, but has no effect without a gan.path_length_w": PATHS_OFF
    | {"path_length_shrink": 4},
    r"gan.path_length_decay is 0.5, but has no effect without a gan.path_length_w": PATHS_OFF
    | {"path_length_decay": 0.5},
    r"style_mixing is 1.5, but must lie in \[0, 1\]": {"style_mixing": 1.5},
    "gan.loss is 'hing'.* Did you mean hinge": {"loss": "hing"},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_settings_that_cannot_be_are_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**REFUSED[sentence])


def test_a_cutoff_of_no_truncation_is_refused():
    config = config_of()
    config.sampler.truncation_cutoff = 2
    with pytest.raises(
        ValueError,
        match=r"sampler\.truncation_cutoff is 2, but has no effect without .*psi other than 1: set it to None",
    ):
        stylegan2.make(config, SPEC, Env())


def test_settings_at_the_ends_of_their_ranges_are_taken():
    build(style_mixing=1.0, w_avg_decay=0.0, path_length_decay=1.0, path_length_shrink=1)


def test_batches_and_images_that_do_not_fit_are_refused():
    model = build(path_length_shrink=3)
    state = jax.eval_shape(model.init, KEY, batch_of())
    with pytest.raises(ValueError, match="path_length_shrink is 3, but must divide the batch of each device, which is"):
        jax.eval_shape(lambda state: model.update(KEY, state, batch_of(), phase=BOTH), state)
    model = build_model(config_of(), ModelSpec((28, 28, 1)))
    with pytest.raises(ValueError, match="these are 28x28"):
        jax.eval_shape(model.init, KEY, {"image": jnp.zeros((1, 2, 28, 28, 1), jnp.uint8)})


def test_the_defaults_are_these_and_no_others():
    assert stylegan2.Settings() == ("non_saturating", False, 0.9, 0.995, 10.0, 16, 2.0, 4, 2, 0.01)
    assert stylegan2.SamplerSettings() == (1.0, None, "random")
