"""The VAE against an integral over its latent, and against its parts put together by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from specs import data_spec

from configs import vae as vae_config
from jaxgen.core import keys
from jaxgen.core.contract import Env
from jaxgen.losses.reconstruction import discretized_gaussian_log_likelihood
from jaxgen.methods.vae.vae import make

KEY = keys.root_key(0)
SPEC = data_spec((8, 8, 1), 3)
BATCH = {
    "image": jax.random.randint(KEY, (1, 4, 8, 8, 1), 0, 256) / 127.5 - 1.0,
    "index": jnp.arange(4, dtype=jnp.int32)[None],
    "label": jnp.array([[0, 1, 2, 0]], jnp.int32),
}
MICROBATCH = {name: value[0] for name, value in BATCH.items()}


def build(**settings):
    config = vae_config.get_config("tiny")
    config.vae.class_conditional = False
    config.vae.update(settings)
    return make(config, SPEC, Env())


def variables_with_posterior(model, mean, logvar):
    """Initial parameters, but for an encoder that gives every image the same posterior."""
    params = jax.jit(model.init)(KEY, BATCH).params
    kernel = jnp.zeros_like(params["encoder"]["out"]["kernel"])
    encoder = {**params["encoder"], "out": {"kernel": kernel, "bias": jnp.array([*mean, *logvar])}}
    return {**params, "encoder": encoder}


def test_log_prob_averages_to_the_evidence_lower_bound():
    """E_q[log p(x, z) - log q(z)], integrated on a grid of one-dimensional latents."""
    sigma, mean, logvar, n = 0.8, 0.5, -1.0, 4096
    model = build(latent_dim=1, sigma=sigma, learn_sigma=False)
    variables = variables_with_posterior(model, [mean], [logvar])
    variables["decoder"]["out"]["kernel"] *= 0.3
    image = BATCH["image"][0, 0]
    log_probs = jax.jit(model.log_prob)(jax.random.split(KEY, n), variables, jnp.broadcast_to(image, (n, *image.shape)))

    z = np.linspace(-5.0, 5.0, 1001, dtype=np.float32)
    means = model.decode(variables, jnp.asarray(z)[:, None])
    assert np.ptp(means, axis=0).max() > 0.1  # the latent matters
    assert np.abs(means).max() < 1.0  # decode has clipped nothing
    images = jnp.broadcast_to(image, means.shape)
    log_likelihood = discretized_gaussian_log_likelihood(images, means, jnp.log(jnp.float32(sigma)), levels=256)
    q = stats.norm(mean, np.exp(0.5 * logvar))
    bound = np.sum(q.pdf(z) * (log_likelihood + stats.norm.logpdf(z) - q.logpdf(z))) * 0.01
    np.testing.assert_allclose(np.mean(log_probs), bound, atol=5 * np.std(log_probs) / np.sqrt(n))
    evidence = np.log(np.sum(np.exp(np.asarray(log_likelihood, np.float64)) * stats.norm.pdf(z)) * 0.01)
    assert bound < evidence


def test_loss_is_reconstruction_plus_weighted_divergence():
    model = build(beta=4.0)
    _, metrics = jax.jit(model.update)(KEY, jax.jit(model.init)(KEY, BATCH), BATCH)
    expected = metrics["loss/reconstruction"] + 4.0 * metrics["loss/kl"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert metrics["loss/kl"] > 0.0


def test_a_narrow_posterior_makes_the_loss_the_likelihood_of_its_mean():
    model = build(sigma=0.5, learn_sigma=False, latent_dim=2)
    mean, logvar = [1.0, -0.5], [-30.0, -30.0]
    state = jax.jit(model.init)(KEY, BATCH)._replace(params=variables_with_posterior(model, mean, logvar))
    _, metrics = jax.jit(model.update)(KEY, state, BATCH)
    latents = jnp.broadcast_to(jnp.array(mean), (4, 2))
    expected = stats.norm.logpdf(BATCH["image"][0], model.decode(state.params, latents), 0.5).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(metrics["loss/reconstruction"], -expected, rtol=1e-4)
    # 0.5 * sum(mu^2 + sigma^2 - 1 - log sigma^2)
    np.testing.assert_allclose(metrics["loss/kl"], 0.5 * (1.0 + 0.25 - 2.0 + 60.0), rtol=1e-4)


@pytest.mark.parametrize("learned", [True, False])
def test_sigma_is_learned_only_where_asked(learned):
    model = build(sigma=0.05, learn_sigma=learned)
    state = jax.jit(model.init)(KEY, BATCH)
    assert ("log_sigma" in state.params) == learned
    if learned:
        np.testing.assert_allclose(jnp.exp(state.params["log_sigma"]), 0.05, rtol=1e-5)
        after, _ = jax.jit(model.update)(KEY, state, BATCH)
        assert after.params["log_sigma"] > state.params["log_sigma"]  # the residuals of noise are near 1


def test_sample_decodes_standard_normal_latents():
    model = build(latent_dim=4)
    variables = jax.jit(model.init)(KEY, BATCH).params
    sample_keys = jax.random.split(KEY, 8)
    latents = jax.vmap(lambda key: jax.random.normal(key, (4,)))(sample_keys)
    np.testing.assert_array_equal(model.sample(sample_keys, variables), model.decode(variables, latents))


def test_encode_is_deterministic():
    model = build()
    variables = jax.jit(model.init)(KEY, BATCH).params
    latents = [model.encode(jax.random.split(keys.root_key(i), 4), variables, BATCH["image"][0]) for i in range(2)]
    np.testing.assert_array_equal(*latents)
    assert latents[0].shape == (4, *model.spec.latent_shape)


def test_a_bernoulli_decoder_stays_in_range_and_has_no_log_prob():
    model = build(likelihood="bernoulli", sigma=0.2, learn_sigma=True)
    assert model.log_prob is None
    assert model.spec.likelihood is None
    variables = jax.jit(model.init)(KEY, BATCH).params
    assert "log_sigma" not in variables
    images = model.decode(variables, 100.0 * jnp.ones((2, 4)))
    assert float(jnp.abs(images).max()) <= 1.0
    _, metrics = jax.jit(model.update)(KEY, jax.jit(model.init)(KEY, BATCH), BATCH)
    # Untrained logits are near 0, so each of the 64 pixels costs about log 2.
    np.testing.assert_allclose(metrics["loss/reconstruction"], 64 * np.log(2), rtol=0.1)


def test_a_conditional_model_draws_the_class_asked_for():
    model = build(class_conditional=True)
    assert model.spec.num_classes == 3
    variables, sample_keys = jax.jit(model.init)(KEY, BATCH).params, jnp.stack([KEY, KEY])
    cond = {"label": jnp.array([0, 1])}
    images = model.sample(sample_keys, variables, cond)
    assert not np.allclose(images[0], images[1])
    assert model.log_prob(sample_keys, variables, images, cond).shape == (2,)


def test_refusals():
    with pytest.raises(ValueError, match=r"vae\.likelihood"):
        build(likelihood="gausian")
    with pytest.raises(ValueError, match="positive"):
        build(sigma=0.0)
    config = vae_config.get_config("tiny")
    with pytest.raises(ValueError, match="no classes"):
        make(config, SPEC._replace(conditioning={}), Env())
