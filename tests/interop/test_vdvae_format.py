"""The official VDVAE: its weights in our network, against its outputs."""

import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import assert_parity

from jaxgen.core.gaussians import kl_between_gaussians
from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.vdvae import FORMAT
from jaxgen.losses import logistic_mixture
from jaxgen.nn.vdvae import VeryDeepNetwork


def network_of(kw):
    """The network that the official settings describe."""
    return VeryDeepNetwork(
        logistic_mixture.number_of_parameters(kw["num_mixtures"], kw["image_channels"]),
        kw["image_size"],
        kw["enc_blocks"],
        kw["dec_blocks"],
        width=kw["width"],
        latent_channels=kw["zdim"],
        bottleneck=kw["bottleneck_multiple"],
        bias_up_to=kw["no_bias_above"],
    )


@pytest.fixture(scope="module")
def official():
    """The golden file, and what our network makes of its weights and inputs, in one program."""
    golden = golden_files.load("vdvae")
    with np.load(golden_files.DIRECTORY / "vdvae.npz") as file:
        meta = json.loads(str(file["meta"]))
    network = network_of(meta["kw"])
    image = jnp.asarray(golden.inputs["image"], jnp.float32)
    eps = [jnp.asarray(golden.inputs[f"eps/{k}"]) for k in range(len(network.latent_shapes()))]
    given = [jnp.asarray(golden.outputs[f"z/{k}"]) for k in range(4)]
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), image, eps))["params"]
    (part,) = FORMAT.parts(Target("vae.vdvae", None, {"network": target}), golden.state_dict)
    assert part.place == "params/network"
    params = state_dict.to_params(golden.state_dict, target, part.official, ignore=part.ignored)

    @jax.jit
    def outputs(params):
        apply = lambda *args, **more: network.apply({"params": params}, *args, **more)  # noqa: E731
        standardized = (image + meta["shift"]) * meta["scale"]
        return {
            "inferred": apply(standardized, eps),
            "activations": apply(standardized[:1], method="encode"),
            "prior": apply(eps, method="generate")[1],
            "cooler": apply(eps, temperature=0.7, method="generate")[1],
            "given": apply(eps, given, method="generate")[1],
        }

    return golden, outputs(params)


def test_activations_features_and_parameters(official):
    golden, ours = official
    assert {f"activations/{side}" for side in ours["activations"]} == {k for k in golden.outputs if "activations" in k}
    for side, activations in ours["activations"].items():
        assert_parity(activations, golden.outputs[f"activations/{side}"])
    assert_parity(ours["inferred"].features, golden.outputs["px_z"])
    assert_parity(ours["inferred"].outputs, golden.outputs["l"])
    for k, latent in enumerate(ours["inferred"].latents):
        assert_parity(latent, golden.outputs[f"z/{k}"])


def test_divergences(official):
    golden, ours = official
    inferred = ours["inferred"]
    assert golden.outputs["kl_per_layer"].shape == (len(inferred.latents), len(inferred.outputs))
    for k, (q, p) in enumerate(zip(inferred.posteriors, inferred.priors, strict=True)):
        own = [q.mean, 2 * q.log_sigma, p.mean, 2 * p.log_sigma]
        np.testing.assert_allclose(kl_between_gaussians(*own), golden.outputs["kl_per_layer"][k], rtol=1e-4)
        if f"kl_map/{k}" in golden.outputs:
            by_entry = kl_between_gaussians(*(value.reshape(-1, 1) for value in own)).reshape(q.mean.shape)
            assert_parity(by_entry, golden.outputs[f"kl_map/{k}"])


def test_evidence_lower_bound(official):
    golden, ours = official
    x = jnp.asarray(golden.inputs["image"], jnp.float32) / 127.5 - 1.0
    dims = x[0].size
    options = {"levels": 256, "density_below": logistic_mixture.OFFICIAL_DENSITY_BELOW}
    distortion = -logistic_mixture.log_prob(x, ours["inferred"].outputs, **options) / dims
    np.testing.assert_allclose(distortion, golden.outputs["distortion_per_image"], rtol=1e-5)
    np.testing.assert_allclose(distortion.mean(), golden.outputs["distortion"], rtol=1e-5)
    rate = sum(
        kl_between_gaussians(q.mean, 2 * q.log_sigma, p.mean, 2 * p.log_sigma)
        for q, p in zip(ours["inferred"].posteriors, ours["inferred"].priors, strict=True)
    )
    np.testing.assert_allclose(rate.mean() / dims, golden.outputs["rate"], rtol=1e-4)
    np.testing.assert_allclose(distortion.mean() + rate.mean() / dims, golden.outputs["elbo"], rtol=1e-4)


def test_latents_of_the_prior(official):
    golden, ours = official
    assert_parity(ours["prior"], golden.outputs["unconditional_px_z"])
    assert_parity(ours["cooler"], golden.outputs["unconditional_px_z_temperature_0.7"])
    assert_parity(ours["given"], golden.outputs["manual_latents_px_z"])
