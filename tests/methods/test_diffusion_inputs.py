"""What a diffusion model's network sees in training: labels hidden at their rate, latents of the assumed deviation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula_network import Recorder
from specs import data_spec

from configs import ddpm, edm2
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec
from jaxgen.diffusion.sampling.sampler import Sampler
from jaxgen.methods.denoising import diffusion

KEY = keys.root_key(11)


def build(**changes):
    config = ddpm.get_config("tiny")
    config.sampler.name, config.sampler.levels = "ddim", "karras"
    for name, value in changes.items():
        config.diffusion[name] = value
    return build_model(config, data_spec((1, 1, 1), 4))


@pytest.mark.parametrize(("name", "value", "allowed"), [
    ("label_dropout", 1.01, r"lie in \[0, 1\]"),
    ("augment_probability", -0.1, r"lie in \[0, 1\]"),
    ("importance_buckets", -1, "be at least 0"),
    ("uncertainty_channels", -1, "be at least 0"),
    ("likelihood_steps", 0, "be at least 1"),
])  # fmt: skip
def test_numbers_out_of_their_bounds_are_refused(name, value, allowed):
    with pytest.raises(ValueError, match=rf"diffusion\.{name} is {value}, but must {allowed}"):
        build(**{"likelihood": "ode", name: value})


def test_labels_are_hidden_at_their_rate_whatever_the_noise_and_the_coin_of_self_conditioning(monkeypatch):
    seen, n = [], 4000
    monkeypatch.setattr(
        diffusion, "make_network", lambda *args, out_channels, **rest: Recorder(seen.append, out_channels)
    )
    changes = {"schedule": "log_linear(sigma_min=0.1, sigma_max=20.0)", "noise_label": "log_sigma"}
    changes |= {"parameterization": "x0", "self_conditioning": True, "label_dropout": 0.3}
    model = build(**changes)
    arrays = {"image": np.full((n, 1, 1, 1), 200, np.uint8), "index": np.arange(n), "label": np.arange(n) % 4}
    data = {name: jnp.asarray(x[None]) for name, x in arrays.items()}
    state = model.init(keys.root_key(0), data)
    state = state._replace(params={"network": {"a": jnp.float32(1.0)}})
    jax.block_until_ready(jax.jit(model.update)(KEY, state, data))
    jax.effects_barrier()
    first, second = seen
    np.testing.assert_array_equal(first[2], second[2])
    hidden, coin = first[2] == 4, second[0][:, 0, 0, 1] != 0.0
    np.testing.assert_array_equal(first[2][~hidden], arrays["label"][~hidden])
    assert not np.any(first[0][..., 1])
    bound = 4 / np.sqrt(n)
    assert abs(hidden.mean() - 0.3) < bound * np.sqrt(0.21)
    assert abs(coin.mean() - 0.5) < bound * 0.5
    sigma = np.exp(4.0 * first[1])
    eps = (first[0][:, 0, 0, 0] * np.sqrt(1 + sigma**2) - (200 / 127.5 - 1)) / sigma
    assert abs(eps.std() - 1.0) < bound
    facts = [hidden, coin, first[1], eps, arrays["label"]]
    assert np.abs(np.corrcoef(facts) - np.eye(5)).max() < bound


def test_edm2_sees_latents_of_the_deviation_that_its_preconditioning_assumes(monkeypatch):
    """Inputs of unit variance at every noise level, and targets: Karras et al. 2022, eqs. 114 and 115."""
    seen, n = [], 4000
    monkeypatch.setattr(
        diffusion, "make_network", lambda *args, out_channels, **rest: Recorder(seen.append, out_channels)
    )
    config = edm2.get_config("xs")
    config.optimizer.forced_normalization, config.data.batch_size = None, n
    pixels = GenerativeModel(ModelSpec((8, 8, 3), latent_shape=(1, 1, 2)), *[lambda *args: None] * 4)
    pixels = pixels._replace(encode=lambda *args: None, decode=lambda *args: None)
    shift, scale = np.array([5.0, -2.0], np.float32), np.array([4.0, 0.3], np.float32)
    model = build_model(config, data_spec((1, 1, 4), 4), Env(frozen={"autoencoder": pixels}))
    moments = np.broadcast_to(np.concatenate([shift, scale]), (1, n, 1, 1, 4))
    arrays = {"image": moments, "index": np.arange(n)[None], "label": np.arange(n)[None] % 4}
    data = jax.tree.map(jnp.asarray, arrays)
    frozen = {"autoencoder": {"variables": {}, "shift": shift, "scale": scale}}
    state = model.init(keys.root_key(0), data, frozen)
    jax.block_until_ready(jax.jit(model.update)(KEY, state, data))
    jax.effects_barrier()
    x, noise_label, _ = seen[0]
    low = noise_label < np.median(noise_label)
    for half in (low, ~low):
        np.testing.assert_allclose(x[half].std(axis=(0, 1, 2)), 1.0, atol=0.06)
        np.testing.assert_allclose(x[half].mean(axis=(0, 1, 2)), 0.0, atol=0.12)


def test_the_defaults_are_those_of_ddpm():
    assert diffusion.Settings() == (
        "variance_preserving",
        "eps",
        "linear",
        "timestep",
        "uniform",
        "uniform",
        1.0,
        False,
        0,
        False,
        0.1,
        False,
        0.0,
        "edm",
        False,
        0,
        "none",
        100,
    )
    assert Sampler() == ("ancestral", "timesteps", 1000, 1.0, None, 0.0, True, 1)
