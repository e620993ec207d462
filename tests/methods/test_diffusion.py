"""Diffusion: objective and denoiser against the papers' equations, label dropout, guides, refusals.

The network is linear, since compilation is most of the time; `test_diffusion_loss`, `test_diffusion_likelihoods` and
`test_diffusion_samplers` have all options of losses, likelihoods and samplers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from specs import data_spec, finished

from configs import ddpm, dit
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, ModelSpec
from jaxgen.diffusion.process import schedules, timesteps, uniforms
from jaxgen.methods.denoising import diffusion
from jaxgen.nn.networks import make_network
from jaxgen.nn.uncertainty import Uncertainty

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


class Linear(nn.Module):
    """A network that is linear in the image, the noise level and the class, and says 0 at the start."""

    out_channels: int
    num_classes: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        level = jnp.broadcast_to(noise_label[:, None, None, None] / 1000.0, (*x.shape[:3], 1))
        out = nn.Dense(self.out_channels, kernel_init=nn.initializers.zeros)(jnp.concatenate([x, level], axis=-1))
        if self.num_classes:
            label = jnp.full(len(x), self.num_classes) if label is None else label
            rows = nn.Embed(self.num_classes + 1, self.out_channels, embedding_init=nn.initializers.zeros, name="label")
            out = out + rows(label)[:, None, None, :]
        return out


def make_linear(section, *, out_channels, num_classes, dtype, **rest):
    return Linear(out_channels, num_classes, dtype)


@pytest.fixture(autouse=True)
def linear_network(monkeypatch):
    monkeypatch.setattr(diffusion, "make_network", make_linear)


def batch():
    images = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 8, 1)).astype(np.uint8)
    return {"image": jnp.asarray(images), "index": jnp.arange(6)[None], "label": jnp.arange(6)[None]}


T, LABEL = np.array([3, 250, 700]), jnp.array([1, 2, 10])
X_T = np.random.default_rng(1).normal(size=(3, 8, 8, 1)).astype(np.float32)


def column(values):
    return np.asarray(values)[:, None, None, None]


@pytest.fixture(scope="module")
def ours():
    """A step of SGD with labels and without, and the denoiser; with what the network says of the images of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "make_network", make_linear)
        told, untold = (
            build_model(tiny(diffusion__label_dropout=rate, sampler__guidance_scale=1.0), DIGITS) for rate in (0.0, 1.0)
        )
    network, key = Linear(1, 10), keys.root_key(7)
    example_keys = keys.per_example(key, jnp.arange(6))
    t = np.floor(1000 * uniforms.independent(example_keys)).astype(int)
    eps = np.asarray(keys.normal(keys.fold_each(example_keys, "eps"), (8, 8, 1)))
    alpha_bar = column(ALPHA_BAR[t])
    x_t = np.sqrt(alpha_bar) * (np.asarray(batch()["image"][0]) / 127.5 - 1) + np.sqrt(1 - alpha_bar) * eps  # eq. 4

    @jax.jit
    def outputs():
        state = told.init(keys.root_key(0), batch())
        leaves, treedef = jax.tree.flatten(state.params)
        noise = [0.3 * jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
        state = state._replace(params=treedef.unflatten([a + b for a, b in zip(leaves, noise, strict=True)]))
        (after, metrics), (after_untold, _) = (model.update(key, state, batch()) for model in (told, untold))
        variables = {"params": state.params["network"]}
        sigma, scale = jnp.asarray(TABLE[T], jnp.float32), jnp.float32(column(np.sqrt(ALPHA_BAR[T])))
        rows = [s.params["network"]["label"]["embedding"] for s in (state, after, after_untold)]
        return {
            "loss": metrics["loss"],
            "rows": rows,
            "of_update": network.apply(variables, jnp.float32(x_t), jnp.float32(t), jnp.arange(6), train=False),
            "denoised": untold.denoise(state.params, X_T / scale, sigma, {"label": LABEL}),
            "of_denoised": network.apply(variables, X_T, jnp.float32(T), LABEL, train=False),
        }

    return outputs() | {"eps": eps}


def test_the_loss_is_the_error_of_eps_at_a_uniform_timestep(ours):
    np.testing.assert_allclose(ours["loss"], np.mean(np.square(ours["of_update"] - ours["eps"])), rtol=1e-4)  # eq. 14


def test_denoise_is_the_estimate_of_x0_of_equation_15(ours):
    alpha_bar = column(ALPHA_BAR[T])
    expected = (X_T - np.sqrt(1 - alpha_bar) * np.asarray(ours["of_denoised"])) / np.sqrt(alpha_bar)
    np.testing.assert_allclose(ours["denoised"], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_labels_are_never_or_always_dropped(ours):
    before, *after = ours["rows"]
    never, always = (set(np.flatnonzero(np.any(before != rows, axis=1)).tolist()) for rows in after)
    assert never == {0, 1, 2, 3, 4, 5}
    assert always == {10}


def test_bfloat16_keeps_parameters_and_samples_in_float32(monkeypatch):
    monkeypatch.setattr(diffusion, "make_network", make_network)  # whose layers compute in that type
    model = build_model(tiny(train__compute_dtype="bfloat16"), DIGITS)
    state = jax.eval_shape(model.init, keys.root_key(0), batch())
    trace = jax.make_jaxpr(model.update, return_shape=True)
    program, (new_state, metrics) = trace(keys.root_key(0), state, batch())
    image_keys = keys.per_example(keys.root_key(0), jnp.arange(2))
    images = jax.eval_shape(model.sample, image_keys, model.eval_variables(state))
    assert {leaf.dtype for leaf in jax.tree.leaves((new_state.params, metrics, images))} == {jnp.dtype("float32")}
    assert "bf16" in str(program)


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
    """A model of digits whose network says 0."""
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


def test_uncertainty_weighs_the_error():
    model, state = untrained(diffusion__uncertainty_channels=8, diffusion__parameterization="x0")
    _, metrics = jax.jit(model.update)(keys.root_key(4), state, batch())
    example_keys = keys.per_example(keys.root_key(4), jnp.arange(6))
    t = jnp.floor(1000 * uniforms.independent(example_keys))
    u = np.asarray(Uncertainty(8).apply({"params": state.params["uncertainty"]}, t))
    expected = np.mean(pixels() ** 2, axis=(1, 2, 3)) * np.exp(-u) + u  # Karras et al. 2024, eq. 21
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-3)


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
