"""The first stage of latent diffusion: its losses put together by hand, and when the discriminator comes in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from specs import data_spec

from configs import autoencoder_kl as config_file
from jaxgen.core import keys, trees
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.losses.perceptual import feature_distance
from jaxgen.methods.vae.autoencoder_kl import make
from jaxgen.nn.patch_discriminator import PatchDiscriminator

KEY = keys.root_key(0)
SPEC = data_spec((8, 8, 1), 3)
BATCH = {
    "image": jax.random.randint(KEY, (1, 4, 8, 8, 1), 0, 256) / 127.5 - 1.0,
    "index": jnp.arange(4, dtype=jnp.int32)[None],
}
IMAGES = BATCH["image"][0]
MEAN, LOGVAR = jnp.array([0.5, -1.0]), jnp.array([-30.0, -30.0])


def tiny(**sections):
    """The tiny config, trained by SGD, whose updates are as large as gradients are."""
    config = config_file.get_config("tiny")
    for player in config.optimizer.values():
        player.name, player.learning_rate, player.b1 = "sgd", 0.1, 0.0
    for name, settings in sections.items():
        config[name].update(settings)
    if not config.gan.weight:
        config.optimizer, config.gan.start_steps = config.optimizer.generator, 0
    return config


def with_posterior(params):
    """An encoder that gives every image the posterior N(MEAN, exp(LOGVAR)), and a decoder of small contrast."""
    network = dict(params["network"])
    network["quant_conv"] = {
        "kernel": jnp.zeros_like(network["quant_conv"]["kernel"]),
        "bias": jnp.concatenate([MEAN, LOGVAR]),
    }
    decoder = dict(network["decoder"])
    decoder["conv_out"] = jax.tree.map(lambda x: 0.3 * x, decoder["conv_out"])
    return {**params, "network": {**network, "decoder": decoder}}


def decoded(model, params):
    return model.decode(params, jnp.broadcast_to(MEAN, (4, 4, 4, 2)))


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
def test_the_loss_is_the_likelihood_of_the_decoded_mean_and_the_divergence(likelihood):
    settings = {"likelihood": likelihood, "scale": 0.3, "learn_scale": False, "kl_weight": 0.1}
    off = {"weight": 0.0, "feature_weight": 0.0, "start_steps": 0}
    model = make(tiny(gan=off, autoencoder=settings), SPEC, Env())
    state = jax.jit(model.init)(KEY, BATCH)
    assert set(state.params) == {"network"}
    state = state._replace(params=with_posterior(state.params))
    metrics = jax.jit(model.update)(KEY, state, BATCH)[1]
    images = decoded(model, model.eval_variables(state))
    assert np.abs(images).max() < 1.0  # nothing was clipped
    log_density = getattr(stats, {"laplace": "laplace", "gaussian": "norm"}[likelihood]).logpdf(IMAGES, images, 0.3)
    np.testing.assert_allclose(metrics["loss/reconstruction"], -log_density.mean(), rtol=1e-4)
    # 0.5 * sum(mu^2 + sigma^2 - 1 - log sigma^2) over 4x4 positions, over 64 pixel values
    np.testing.assert_allclose(metrics["loss/kl"], 16 * 0.5 * (0.25 + 1.0 - 2.0 + 60.0) / 64, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], -log_density.mean() + 0.1 * metrics["loss/kl"], rtol=1e-4)


@pytest.fixture(scope="module")
def game():
    """A model with a discriminator from step 1 on, its state with a known posterior, its update, its config."""
    config = tiny(gan={"weight": 0.2, "feature_weight": 0.7, "start_steps": 1}, autoencoder={"learn_scale": True})
    model = make(config, SPEC, Env())
    state = jax.jit(model.init)(KEY, BATCH)
    state.params["generator"] = with_posterior(state.params["generator"])
    return model, state, jax.jit(model.update), config


def test_the_players_losses_by_hand(game):
    model, state, update, config = game
    state = state._replace(step=state.step + 1)
    _, metrics = update(KEY, state, BATCH)
    discriminator = PatchDiscriminator(**config.discriminator)
    fake = decoded(model, model.eval_variables(state))
    judge = jax.jit(discriminator.apply)
    real_logits, _ = judge({"params": state.params["discriminator"]}, IMAGES)
    fake_logits, _ = judge({"params": state.params["discriminator"]}, fake)
    hinge = np.maximum(0.0, 1.0 - real_logits).mean() + np.maximum(0.0, 1.0 + fake_logits).mean()
    np.testing.assert_allclose(metrics["loss/discriminator"], hinge, rtol=1e-4)
    # The generator plays against the discriminator as it is after its turn.
    trained = {"params": update(KEY, state, BATCH)[0].params["discriminator"]}
    (logits, features), (_, real_features) = judge(trained, fake), judge(trained, IMAGES)
    np.testing.assert_allclose(metrics["loss/adversarial"], -logits.mean(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["loss/features"], feature_distance(features, real_features).mean(), rtol=1e-3)
    expected = metrics["loss/reconstruction"] + config.autoencoder.kl_weight * metrics["loss/kl"]
    expected += 0.2 * metrics["loss/adversarial"] + 0.7 * metrics["loss/features"]
    np.testing.assert_allclose(metrics["loss/generator"], expected, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 1])
def test_the_discriminator_counts_and_learns_from_its_first_step_on(game, step):
    _, state, update, _ = game
    state = state._replace(step=jnp.int32(step))
    other = {**state.params, "discriminator": jax.tree.map(lambda x: x + 0.1, state.params["discriminator"])}
    results = [update(KEY, state._replace(params=params), BATCH)[0].params for params in (state.params, other)]
    assert differ(results[0]["discriminator"], state.params["discriminator"]) == bool(step)
    assert differ(results[0]["generator"], results[1]["generator"]) == bool(step)
    assert differ(results[0]["generator"], state.params["generator"])


def differ(a, b):
    return not all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


def test_posterior_mean_and_deviation(game):
    model, state, _, _ = game
    variables = model.eval_variables(state)
    quant_conv = variables["network"]["quant_conv"]
    quant_conv["bias"] = jnp.concatenate([MEAN, jnp.log(jnp.array([4.0, 0.25]))])
    mean, std = jax.jit(model.posterior)(variables, IMAGES)
    np.testing.assert_array_equal(model.encode(jax.random.split(KEY, 4), variables, IMAGES), mean)
    np.testing.assert_allclose(mean, np.broadcast_to(MEAN, (4, 4, 4, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, np.broadcast_to([2.0, 0.5], (4, 4, 4, 2)), rtol=1e-5)
    assert model.spec == data_spec((8, 8, 1), 0, latent_shape=(4, 4, 2))


@pytest.mark.parametrize("variant", ["kl_f8", "kl_f8_gan"])
def test_the_official_size_and_where_its_parameters_lie(variant):
    config = config_file.get_config(variant)
    model = make(config, ModelSpec((256, 256, 3)), Env())
    batch = {"image": jnp.zeros((1, 1, 256, 256, 3)), "index": jnp.zeros((1, 1), jnp.int32)}
    state = jax.eval_shape(model.init, KEY, batch)
    assert trees.count(model.eval_variables(state)["network"]) == 83_653_863
    assert model.spec.latent_shape == (32, 32, 4)
    assert set(state.params) == ({"network"} if variant == "kl_f8" else {"generator", "discriminator"})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"autoencoder": {"scale": 0.0}}, "autoencoder.scale is 0.0, but must be positive"),
        (
            {"gan": {"weight": 0.0, "feature_weight": 0.5}},
            "gan.feature_weight is 0.5, but has no effect",
        ),
    ],
)
def test_refusals(sections, message):
    with pytest.raises(ValueError, match=message):
        make(tiny(**sections), SPEC, Env())


def test_the_adversarial_loss_may_be_weighted_by_gradients():
    gan = {"weight": 0.2, "feature_weight": 0.7, "start_steps": 0, "adaptive": True}
    model = make(tiny(gan=gan, autoencoder={"kl_weight": 0.1}), SPEC, Env())
    metrics = jax.jit(lambda: model.update(KEY, model.init(KEY, BATCH), BATCH)[1])()
    own = metrics["loss/reconstruction"] + 0.1 * metrics["loss/kl"]
    adversarial = 0.2 * metrics["adaptive_weight"] * metrics["loss/adversarial"] + 0.7 * metrics["loss/features"]
    np.testing.assert_allclose(metrics["loss/generator"], own + adversarial, rtol=1e-4)
    assert metrics["adaptive_weight"] > 0.0
