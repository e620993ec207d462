"""Diffusion: objective and denoiser against the papers' equations, label dropout, parameter counts, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from specs import data_spec, finished

from configs import ddpm, dit
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.diffusion.likelihood import ode
from jaxgen.diffusion.process import schedules, timesteps, uniforms
from jaxgen.nn.uncertainty import Uncertainty
from jaxgen.nn.unet import UNet

DIGITS = data_spec((8, 8, 1), 10)
TABLE = schedules.cosine().table
ALPHA_BAR = timesteps.alpha_bar(TABLE)


def tiny(**changes):
    config = ddpm.get_config("tiny")
    config.optimizer.name, config.optimizer.b1, config.optimizer.b2 = "sgd", 0.0, 0.999
    config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.clip_norm = 1.0, "constant", None
    config.model.channel_multipliers, config.model.attention_resolutions = (1,), ()  # compiles faster
    config.model.dropout = 0.0
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


def unet(config) -> UNet:
    return UNet(1, num_classes=10, dtype="float32", **{k: v for k, v in config.model.items() if k != "name"})


def batch():
    images = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 8, 1)).astype(np.uint8)
    return {"image": jnp.asarray(images), "index": jnp.arange(6)[None], "label": jnp.arange(6)[None]}


@pytest.fixture(scope="module")
def state():
    """A state whose parameters are all random: those of the last layers are zero at the start."""
    state = build_model(tiny(), DIGITS).init(keys.root_key(0), batch())
    leaves, treedef = jax.tree.flatten(state.params)
    noise = [jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
    return state._replace(params=treedef.unflatten([a + 0.1 * b for a, b in zip(leaves, noise, strict=True)]))


def test_the_loss_is_the_error_of_eps_at_a_uniform_timestep(state):
    config = tiny(diffusion__label_dropout=0.0, sampler__guidance_scale=1.0)
    _, metrics = jax.jit(build_model(config, DIGITS).update)(keys.root_key(7), state, batch())
    example_keys = keys.per_example(keys.root_key(7), jnp.arange(6))
    t = np.floor(1000 * uniforms.independent(example_keys)).astype(int)
    eps = keys.normal(keys.fold_each(example_keys, "eps"), (8, 8, 1))
    alpha_bar = ALPHA_BAR[t][:, None, None, None]
    x_t = np.sqrt(alpha_bar) * (np.asarray(batch()["image"][0]) / 127.5 - 1) + np.sqrt(1 - alpha_bar) * eps  # eq. 4
    network = unet(config)
    prediction = network.apply(
        {"params": state.params["network"]}, jnp.float32(x_t), jnp.float32(t), jnp.arange(6), train=False
    )
    np.testing.assert_allclose(metrics["loss"], np.mean(np.square(prediction - eps)), rtol=1e-4)  # eq. 14


def test_denoise_is_the_estimate_of_x0_of_equation_15(state):
    config = tiny()
    model = build_model(config, DIGITS)
    network = unet(config)
    t, label = np.array([3, 250, 700]), jnp.array([1, 2, 10])
    alpha_bar = ALPHA_BAR[t][:, None, None, None].astype(np.float32)
    x_t = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    eps = network.apply({"params": state.params["network"]}, x_t, jnp.float32(t), label, train=False)
    expected = (x_t - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    sigma = jnp.asarray(TABLE[t], jnp.float32)
    actual = model.denoise(state.params, x_t / np.sqrt(alpha_bar), sigma, {"label": label})
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def trained_rows(state, label_dropout):
    """The rows of the label embedding that a step of SGD has moved."""
    model = build_model(tiny(diffusion__label_dropout=label_dropout, sampler__guidance_scale=1.0), DIGITS)
    new_state, _ = jax.jit(model.update)(keys.root_key(3), state, batch())
    before, after = (s.params["network"]["embedding"]["label"]["embedding"] for s in (state, new_state))
    return set(np.flatnonzero(np.any(before != after, axis=1)).tolist())


def test_labels_are_never_or_always_dropped(state):
    assert trained_rows(state, 0.0) == {0, 1, 2, 3, 4, 5}
    assert trained_rows(state, 1.0) == {10}


def test_bfloat16_keeps_parameters_and_samples_in_float32():
    model = build_model(tiny(train__compute_dtype="bfloat16"), DIGITS)
    state = jax.eval_shape(model.init, keys.root_key(0), batch())
    new_state, metrics = jax.eval_shape(model.update, keys.root_key(0), state, batch())
    image_keys = keys.per_example(keys.root_key(0), jnp.arange(2))
    images = jax.eval_shape(model.sample, image_keys, model.eval_variables(state))
    assert {leaf.dtype for leaf in jax.tree.leaves((new_state.params, metrics, images))} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(model.update)(keys.root_key(0), state, batch()))
    assert "bf16" in text


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"diffusion__schedule": "cosin"}, "diffusion.schedule is 'cosin'"),
    ({"sampler__name": "dim"}, "sampler.name is 'dim'"),
])  # fmt: skip
def test_settings_are_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model(tiny(**changes), DIGITS)


def test_a_conditional_model_needs_classes():
    with pytest.raises(ValueError, match="the data has no classes"):
        build_model(tiny(), ModelSpec((8, 8, 1)))


def untrained(**changes):
    """A model of digits whose network predicts zeros: its last layer starts at zero."""
    config = dit.get_config("tiny")
    config.data.batch_size = 6
    config.diffusion.self_conditioning = config.diffusion.learned_variance = False
    config.diffusion.class_conditional, config.diffusion.label_dropout = False, 0.0
    config.sampler.name, config.sampler.levels = "ddim", "uniform_time(last=0.0)"
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    model = build_model(config, DIGITS)
    return model, model.init(keys.root_key(0), batch())


def pixels():
    return np.asarray(batch()["image"][0], np.float64) / 127.5 - 1.0


def test_the_ode_gives_the_likelihood_of_the_gaussian_that_its_denoiser_is_ideal_for():
    schedule = "log_linear(sigma_min=1.0, sigma_max=50.0)"
    changes = {"schedule": schedule, "noise_label": "log_sigma", "path": "variance_exploding", "parameterization": "x0"}
    model, state = untrained(**{f"diffusion__{k}": v for k, v in changes.items()}, diffusion__likelihood="ode")
    image_keys = jax.random.split(jax.random.key(0), 6)
    images = jnp.asarray(pixels(), jnp.float32)
    nats = jax.jit(model.log_prob)(image_keys, state.params, images)
    # A denoiser that says 0 everywhere is that of a point at 0, seen at the least noise level: N(0, 1).
    x = np.asarray(ode.dequantize(image_keys, images, 256), np.float64)
    expected = np.sum(-0.5 * x**2 - 0.5 * np.log(2 * np.pi) + np.log(2 / 255), axis=(1, 2, 3))
    np.testing.assert_allclose(nats, expected, rtol=1e-3)
    assert model.spec.likelihood == "lower_bound"


def posterior_divergences(table, logvar):
    """KL of q(x_s | x_t, x_0) to a normal with the mean that follows from an estimate of 0, in nats, [T, images]."""
    t, s = table, np.append(0.0, table[:-1])
    small = np.maximum(s**2 * (t**2 - s**2) / t**2, 1e-30)
    gap = ((1 - (s / t) ** 2)[:, None, None, None, None] * pixels()) ** 2
    small, logvar = (v[:, None, None, None, None] for v in (small, logvar))
    return 0.5 * (logvar - np.log(small) + (small + gap) / np.exp(logvar) - 1.0).sum(axis=(2, 3, 4))


def large_logvar(table):
    t, s = table, np.append(0.0, table[:-1])
    return np.log((1 + s**2) / (1 + t**2) * (t**2 - s**2))


def test_the_bound_adds_up_prior_divergences_and_decoder():
    model, state = untrained(
        diffusion__schedule="linear(num_timesteps=21)", diffusion__parameterization="x0", diffusion__likelihood="bound"
    )
    table = schedules.linear(num_timesteps=21).table
    images = jnp.asarray(pixels(), jnp.float32)
    nats = jax.jit(model.log_prob)(jax.random.split(jax.random.key(0), 6), state.params, images)
    left, x0 = 1 / (1 + table[-1] ** 2), pixels()
    prior = 0.5 * (left * x0**2 + (1 - left) - 1 - np.log(1 - left)).sum(axis=(1, 2, 3))
    divergences = posterior_divergences(table, large_logvar(table))[1:].sum(axis=0)
    std = np.sqrt(table[0] ** 2 * (table[1] ** 2 - table[0] ** 2) / table[1] ** 2 / (1 + table[0] ** 2))
    beyond, within = norm.logsf((np.abs(x0) - 1 / 255) / std), norm.logsf((np.abs(x0) + 1 / 255) / std)
    within = np.where(np.abs(x0) > 0.999, -np.inf, within)  # the bins at the ends of the range are open
    decoder = -(beyond + np.log1p(-np.exp(within - beyond))).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(-nats, prior + divergences + decoder, rtol=2e-3)


def test_the_learned_variance_is_trained_by_its_term_of_the_bound():
    model, state = untrained(
        diffusion__schedule="linear(num_timesteps=21)",
        diffusion__parameterization="x0",
        diffusion__learned_variance=True,
    )
    _, metrics = jax.jit(model.update)(keys.root_key(4), state, batch())
    example_keys = keys.per_example(keys.root_key(4), jnp.arange(6))
    i = np.floor(21 * uniforms.independent(example_keys)).astype(int)
    assert i.min() > 0  # the decoder's term is tested elsewhere
    table = schedules.linear(num_timesteps=21).table
    t, s = table[1:], table[:-1]
    small = np.append(0.0, np.log(s**2 * (t**2 - s**2) / t**2))
    nats = posterior_divergences(table, 0.5 * small + 0.5 * large_logvar(table))[i, np.arange(6)]
    expected = np.mean(1e-3 * 21 * nats / (64 * np.log(2.0)))
    np.testing.assert_allclose(metrics["loss/bound"], expected, rtol=1e-3)
    np.testing.assert_allclose(metrics["loss/error"], np.mean(pixels() ** 2), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], metrics["loss/error"] + metrics["loss/bound"], rtol=1e-5)


def test_uncertainty_weighs_the_error():
    model, state = untrained(diffusion__uncertainty_channels=8, diffusion__parameterization="x0")
    _, metrics = jax.jit(model.update)(keys.root_key(4), state, batch())
    example_keys = keys.per_example(keys.root_key(4), jnp.arange(6))
    t = jnp.floor(1000 * uniforms.independent(example_keys))
    u = np.asarray(Uncertainty(8).apply({"params": state.params["uncertainty"]}, t))
    expected = np.mean(pixels() ** 2, axis=(1, 2, 3)) * np.exp(-u) + u  # Karras et al. 2024, eq. 21
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-3)


def test_self_conditioning_shows_the_network_its_own_estimate():
    config = tiny(diffusion__self_conditioning=True, diffusion__parameterization="x0")
    model = build_model(config, DIGITS)
    params = model.init(keys.root_key(0), batch()).params
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    x, sigma, label = jnp.asarray(pixels(), jnp.float32), jnp.full(6, 0.5), jnp.arange(6)
    x_t = x / np.sqrt(1.25)
    t = schedules.cosine().time(sigma) * 999

    def network(hint):
        seen = jnp.concatenate([x_t, hint], axis=-1)
        return unet(config).apply({"params": params["network"]}, seen, t, label, train=False)

    twice = jax.jit(lambda: network(network(jnp.zeros_like(x_t))))()
    np.testing.assert_allclose(jax.jit(model.denoise)(params, x, sigma, {"label": label}), twice, atol=1e-3)


def test_decode_is_the_way_back_of_encode():
    # EDM's preconditioning of a network that says 0 is the ideal denoiser of N(0, sigma_data^2).
    changes = {"schedule": "karras", "noise_label": "log_sigma", "path": "normalized", "parameterization": "edm"}
    model, state = untrained(**{f"diffusion__{k}": v for k, v in changes.items()}, sampler__num_steps=400)
    images = jnp.asarray(pixels(), jnp.float32)
    latents = jax.jit(model.encode)(jax.random.split(jax.random.key(0), 6), state.params, images)
    np.testing.assert_allclose(latents, images / 0.5, atol=0.05)
    np.testing.assert_allclose(jax.jit(model.decode)(state.params, latents), images, atol=0.02)


def test_samples_are_guided_away_from_a_worse_model():
    # At one level, the sample is the guided estimate, of a model that says 0, away from one that says 0.1 (1 + label).
    def guide(variables, x, sigma, cond=None):
        return variables * (1.0 + cond["label"].astype(jnp.float32))[:, None, None, None] * jnp.ones_like(x)

    config = dit.get_config("tiny")
    config.diffusion.self_conditioning = config.diffusion.learned_variance = False
    config.diffusion.parameterization = "x0"
    config.sampler.name, config.sampler.num_steps, config.sampler.guidance_scale = "ddim", 1, 3.0
    model = build_model(config, DIGITS, Env(frozen={"guide": finished(guide, (8, 8, 1), 10)}))
    variables = model.eval_variables(model.init(keys.root_key(0), batch(), {"guide": np.float32(0.1)}))
    assert variables["guide"] == np.float32(0.1)
    label = jnp.array([0, 1, 2])
    images = jax.jit(model.sample)(jax.random.split(jax.random.key(0), 3), variables, {"label": label})
    expected = 0.1 * (1.0 + label) * (1.0 - 3.0)  # Karras et al. 2024 (autoguidance), eq. 3
    np.testing.assert_allclose(images[:, 3, 4, 0], expected, rtol=1e-5)


def guided_by(spec, guide, **diffusion):
    """A model that says 0, guided at scale 3 and at one level away from another one."""
    config = dit.get_config("tiny")
    config.diffusion.self_conditioning = config.diffusion.learned_variance = False
    config.diffusion.update({"parameterization": "x0", **diffusion})
    config.sampler.update({"name": "ddim", "num_steps": 1, "guidance_scale": 3.0})
    return build_model(config, spec, Env(frozen={"guide": guide}))


def test_a_guide_is_told_what_it_can_be_told_and_no_more():
    told = []

    def guide(variables, x, sigma, cond=None):
        told.append(cond)
        return variables * jnp.ones_like(x)

    for num_classes, cond, expected in ((0, [0, 1, 2], set()), (10, [0, 1, 2], {"label"}), (10, None, set())):
        told.clear()
        model = guided_by(DIGITS, finished(guide, (8, 8, 1), num_classes))
        variables = model.eval_variables(model.init(keys.root_key(0), batch(), {"guide": np.float32(0.1)}))
        cond = None if cond is None else {"label": jnp.array(cond)}
        images = jax.jit(model.sample)(jax.random.split(jax.random.key(0), 3), variables, cond)
        np.testing.assert_allclose(images, np.full((3, 8, 8, 1), 0.1 * (1.0 - 3.0)), rtol=1e-5)
        assert told
        assert all(set(given) == expected for given in told)


def test_guides_that_cannot_guide_are_refused():
    other = finished(lambda variables, x, sigma, cond=None: x, (8, 8, 1), 10)
    with pytest.raises(ValueError, match="Guidance needs a model with denoise"):
        guided_by(DIGITS, other._replace(denoise=None))
    plain = {"class_conditional": False, "label_dropout": 0.0}
    with pytest.raises(ValueError, match=r"frozen\.guide is told 'label', which this model is not: guide by another"):
        guided_by(DIGITS, other, **plain)
    guided_by(DIGITS, finished(other.denoise, (8, 8, 1)), **plain)
    with pytest.raises(ValueError, match=r"images \(4, 4, 1\), but those of this run are \(8, 8, 1\)"):
        guided_by(DIGITS, finished(other.denoise, (4, 4, 1)))


def test_guidance_away_from_the_null_condition_needs_label_dropout():
    for scale in (0.0, 2.0):
        config = tiny(diffusion__label_dropout=0.0, sampler__guidance_scale=scale)
        with pytest.raises(
            ValueError, match=rf"guidance_scale is {scale}, but the model never learned .* set diffusion\.label_dropout"
        ):
            build_model(config, DIGITS)
    build_model(tiny(diffusion__label_dropout=0.0, sampler__guidance_scale=1.0), DIGITS)
    build_model(tiny(diffusion__label_dropout=0.01, sampler__guidance_scale=2.0), DIGITS)
    guide = finished(lambda variables, x, sigma, cond=None: x, (8, 8, 1), 10)
    guided_by(DIGITS, guide, label_dropout=0.0)  # away from another model, the null condition is not needed


def test_sampling_is_one_program_that_is_traced_once():
    model, state = untrained(sampler__name="dpmpp_2m", sampler__num_steps=10)
    traces = []

    @jax.jit
    def sample(image_keys, variables):
        traces.append(None)
        return model.sample(image_keys, variables)

    first, second = (sample(jax.random.split(jax.random.key(seed), 3), state.params) for seed in (0, 1))
    assert len(traces) == 1
    assert not np.array_equal(first, second)
    steps = [untrained(sampler__name="dpmpp_2m", sampler__num_steps=n)[0].sample for n in (10, 40)]
    image_keys = jax.random.split(jax.random.key(0), 3)
    sizes = [len(str(jax.make_jaxpr(s)(image_keys, state.params)).splitlines()) for s in steps]
    assert sizes[0] == sizes[1]  # a loop of steps, not a list of them


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"diffusion__schedule": "karras", "diffusion__learned_variance": True}, "learned_variance=True needs timesteps"),
    ({"diffusion__schedule": "karras", "diffusion__likelihood": "bound"}, "likelihood='bound' needs timesteps"),
    ({"diffusion__schedule": "karras", "sampler__levels": "timesteps"}, "sampler.levels=timesteps needs timesteps"),
    ({"sampler__name": "ancestral_learned"}, "needs diffusion.learned_variance=True: use ancestral"),
    ({"sampler__name": "ddim(keys=1)"}, "sampler.name=ddim.keys is not a setting; sampler.name=ddim takes eta"),
    ({"diffusion__shift": 0.0}, "diffusion.shift is 0.0"),
])  # fmt: skip
def test_combinations_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        untrained(**changes)
