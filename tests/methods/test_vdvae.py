"""The very deep VAE put together from its network and its likelihood, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from specs import data_spec

from configs import vdvae as vdvae_config
from jaxgen.core import keys
from jaxgen.core.contract import Env
from jaxgen.losses import logistic_mixture
from jaxgen.methods.vae import vdvae
from jaxgen.methods.vae.vdvae import make
from jaxgen.nn.vdvae import BlockPlan, VeryDeepNetwork, parse_blocks

KEY = keys.root_key(4)
SPEC = data_spec((8, 8, 1), 3, levels=17)
LEVELS = jax.random.randint(KEY, (1, 3, 8, 8, 1), 0, 17)
BATCH = {"image": LEVELS / 8.0 - 1.0, "index": jnp.array([[4, 0, 9]]), "label": jnp.zeros((1, 3), jnp.int32)}
LOSSES = ("loss", "loss/reconstruction", "loss/kl")
CASES = ("training", "scored", "means")
SHAPES = ((1, 1, 2), (8, 8, 2))
USED = 5  # levels of the likelihood, to which images are rounded
ROUNDED = jnp.round((BATCH["image"][0] + 1.0) * 2.0) / 2.0 - 1.0
DIMENSIONS, TEMPERATURE, MEAN, DEVIATION = 64, 0.6, 0.2, 0.7


def config_of(**changes):
    config = vdvae_config.get_config("tiny")
    config.vdvae.mean, config.vdvae.deviation, config.vdvae.levels = MEAN, DEVIATION, USED
    config.sampler.temperature = TEMPERATURE
    for name, value in changes.items():
        section, _, setting = name.partition("__")
        config[section][setting] = value
    return config


def build(**changes):
    return make(config_of(**changes), SPEC, Env())


def network():
    model = config_of().model
    return VeryDeepNetwork(6, 8, **model)


def eps_of(example_keys):
    return [keys.normal(keys.fold_each(example_keys, f"latent_{k}"), shape) for k, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def ours():
    """What the model computes, and what its network does, with weights none of which is zero."""
    model, bare = build(), network()

    @jax.jit
    def outputs(key):
        start = model.init(key, BATCH)
        rng = np.random.default_rng(0)  # whose numbers need no compilation
        noise = jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), start.params)
        state = start._replace(params=jax.tree.map(jnp.add, start.params, noise))
        sample_keys, images = jax.random.split(key, 3), BATCH["image"][0]
        variables = {"params": state.params["network"]}
        standardized = jnp.tile((images - MEAN) / DEVIATION, (3, 1, 1, 1))
        in_training, scored = (eps_of(k) for k in (keys.per_example(key, BATCH["index"][0]), sample_keys))
        eps = [jnp.concatenate([a, b, jnp.zeros_like(a)]) for a, b in zip(in_training, scored, strict=True)]
        inferred = bare.apply(variables, standardized, eps)
        latents = model.encode(sample_keys, state.params, images)
        cases = {name: jax.tree.map(lambda x, i=i: x[3 * i : 3 * i + 3], inferred) for i, name in enumerate(CASES)}
        metrics = model.update(key, state, BATCH)[1]
        return (
            cases
            | {
                "start": start,
                "metrics": {name: metrics[name] for name in LOSSES},  # whose gradient is not compiled then
                "log_prob": model.log_prob(sample_keys, state.params, images),
                "encode": latents,
                "decode": model.decode(state.params, latents),
                "sample": model.sample(sample_keys, state.params),
                **coding_of(model, state.params, images, jax.tree.map(lambda x: x[:3], inferred)),
                "drawn": bare.apply(variables, [TEMPERATURE * e for e in scored], method="generate")[0],
                "pixel_keys": jax.random.key_data(keys.fold_each(sample_keys, "pixels")),
            }
        )

    return outputs(KEY)


def noise_of(inferred):
    """The noise that the priors draw the latents by."""
    drawn = zip(inferred.latents, inferred.priors, strict=True)
    return joined([(z - p.mean) / jnp.exp(p.log_sigma) for z, p in drawn])


def joined(maps):
    return jnp.concatenate([x.reshape(len(x), -1) for x in maps], axis=1)


def coding_of(model, params, images, inferred):
    """What an entropy coder asks for, at the noise of a pass, and at one whose second block's has changed."""
    coding, noise = model.latent_coding, noise_of(inferred)
    changed = noise + jnp.where(jnp.arange(noise.shape[1]) < coding.groups[0], 0.0, 1.0)[None]
    both = coding.posterior(params, jnp.tile(images, (2, 1, 1, 1)), jnp.concatenate([noise, changed]))
    return {
        "coding_posterior": [x[:3] for x in both],
        "changed_posterior": [x[3:] for x in both],
        "level_log_probs": coding.level_log_probs(params, noise, jnp.zeros_like(images), channel=0),
    }


def bound_of(inferred):
    """log p(x | z) of the mixture, and the sum of KL(q || p) = log(s_p / s_q) + (s_q^2 + d^2) / (2 s_p^2) - 1/2."""
    log_likelihood = np.float64(logistic_mixture.log_prob(ROUNDED, inferred.outputs, levels=USED))
    divergence = 0.0
    for q, p in zip(inferred.posteriors, inferred.priors, strict=True):
        (mean_q, log_q), (mean_p, log_p) = (tuple(map(np.float64, g)) for g in (q, p))
        ratio = (np.exp(2 * log_q) + (mean_q - mean_p) ** 2) / (2 * np.exp(2 * log_p))
        divergence += (log_p - log_q + ratio - 0.5).sum(axis=(1, 2, 3))
    return log_likelihood, divergence


def test_the_loss_is_the_bound_in_nats_per_dimension(ours):
    log_likelihood, divergence = bound_of(ours["training"])
    assert divergence.min() > 1.0
    metrics = ours["metrics"]
    np.testing.assert_allclose(metrics["loss/reconstruction"], -log_likelihood.mean() / DIMENSIONS, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/kl"], divergence.mean() / DIMENSIONS, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (divergence - log_likelihood).mean() / DIMENSIONS, rtol=1e-5)


def test_log_prob_is_the_bound_in_nats_per_image(ours):
    log_likelihood, divergence = bound_of(ours["scored"])
    np.testing.assert_allclose(ours["log_prob"], log_likelihood - divergence, rtol=1e-5)


def test_latents_are_the_means_of_the_posteriors_and_decode_to_the_mean_image(ours):
    means = np.concatenate([np.reshape(q.mean, (3, -1)) for q in ours["means"].posteriors], axis=1)
    np.testing.assert_allclose(ours["encode"], means, atol=1e-6)
    expected = logistic_mixture.mean(ours["means"].outputs, channels=1)
    np.testing.assert_allclose(ours["decode"], expected, atol=1e-5)


def test_samples_are_levels_drawn_from_cooled_priors(ours):
    pixel_keys = jax.random.wrap_key_data(ours["pixel_keys"])
    expected = logistic_mixture.sample(pixel_keys, ours["drawn"], channels=1, levels=USED)
    np.testing.assert_allclose(ours["sample"], expected, atol=1e-5)
    np.testing.assert_array_equal(ours["sample"] * 2, np.round(ours["sample"] * 2))


def test_entropy_coders_get_the_posterior_of_the_noise_and_the_levels(ours):
    inferred = ours["training"]
    pairs = list(zip(inferred.posteriors, inferred.priors, strict=True))
    means = joined([(q.mean - p.mean) / jnp.exp(p.log_sigma) for q, p in pairs])
    deviations = joined([jnp.exp(q.log_sigma - p.log_sigma) for q, p in pairs])
    assert build().latent_coding.groups == (2, 128)
    assert build().latent_coding.levels == USED
    for found in (ours["coding_posterior"], ours["changed_posterior"]):
        np.testing.assert_allclose(found[0], means, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1], deviations, rtol=1e-4)
    levels = np.asarray(jnp.rint((ROUNDED + 1.0) * 2.0), int)
    chosen = np.take_along_axis(np.asarray(ours["level_log_probs"]), levels, axis=-1)
    np.testing.assert_allclose(chosen.sum(axis=(1, 2, 3)), bound_of(inferred)[0], rtol=1e-4)


def test_initial_priors_are_standard_normal_and_last_kernels_are_small(ours):
    params = ours["start"].params["network"]
    for name in ("decoder_0", "decoder_1"):
        assert np.all(np.asarray(params[name]["prior"]["c4"]["kernel"]) == 0.0)
    # PyTorch's uniform kernels lie within 1 / sqrt(fan_in), those of the last layers within that / sqrt(blocks).
    for name, fan_in, blocks in (("encoder_0", 2, 2), ("encoder_1", 2, 2)):
        bound = 1 / np.sqrt(fan_in * blocks)
        widest = np.abs(params[name]["c4"]["kernel"]).max()
        assert 0.5 * bound < widest <= bound
    assert np.abs(params["decoder_1"]["z_proj"]["kernel"]).max() <= 1 / np.sqrt(2 * 2)
    assert np.abs(params["decoder_1"]["resnet"]["c4"]["kernel"]).max() <= 1 / np.sqrt(2 * 2)
    assert stats.uniform.cdf(np.abs(params["encoder_0"]["c1"]["kernel"]).max(), scale=1 / np.sqrt(4)) > 0.5
    assert all(np.all(leaf == 0.0) for name in ("constant_1", "constant_8", "bias") for leaf in (params[name],))


def test_notation_of_blocks():
    assert parse_blocks("8x2,8d4,4m1") == (BlockPlan(8), BlockPlan(8), BlockPlan(8, rate=4), BlockPlan(4, mixed_in=1))


@pytest.mark.parametrize("text", ["", "8", "8y2", "x2", "8x", "8x0", "8x2,", "0x2", "8x2x3"])
def test_other_notation_is_refused(text):
    with pytest.raises(ValueError, match="each must be like 32x11, 32d2 or 32m16"):
        parse_blocks(text)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__encoder_blocks": "8d2,2x1"}, r"model\.encoder_blocks has a block of resolution 2 that 4x4 feature"),
        ({"model__encoder_blocks": "8d3,2x1"}, r"model\.encoder_blocks has a block of resolution 8 that 8x8 feature"),
        ({"model__encoder_blocks": "8m4"}, r"model\.encoder_blocks has a block of resolution 8"),
        ({"model__decoder_blocks": "1x1,4m1"}, r"model\.decoder_blocks has a block of resolution 4 that does not fit"),
        ({"model__decoder_blocks": "8m1,1x1"}, r"model\.decoder_blocks has a block of resolution 8 that does not fit"),
        ({"model__decoder_blocks": "8d8"}, r"model\.decoder_blocks has a block of resolution 8 that does not fit"),
        ({"model__decoder_blocks": "1x1"}, r"model\.decoder_blocks has no block of 8"),
        ({"vdvae__mixtures": 0}, r"vdvae\.mixtures is 0, but must be at least 1"),
        ({"vdvae__levels": 1}, r"vdvae\.levels is 1, but must be at least 2"),
        ({"vdvae__deviation": 0.0}, r"vdvae\.deviation is 0\.0, but must be positive"),
        ({"sampler__temperature": -1.0}, r"sampler\.temperature is -1\.0, but must be at least 0"),
    ],
)
def test_refusals(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**changes)


def test_defaults_and_the_type_of_the_computation():
    assert vdvae.Settings() == (10, 0.0, 0.5, None)
    assert vdvae.Sampler() == (1.0,)
    found = vdvae._very_deep_vae(config_of(train__compute_dtype="bfloat16"), SPEC).network
    assert found == network().clone(dtype="bfloat16")


def test_oblong_images_are_refused():
    with pytest.raises(ValueError, match="Images are 8x16, but this network is for square ones"):
        make(config_of(), data_spec((8, 16, 1)), Env())
