"""MAR: the loss by hand and samples of known moments, with networks that are formulas; and refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import log_ndtr
from specs import data_spec

from configs import mar
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Context, Env
from jaxgen.diffusion.process import levels, schedules, timesteps
from jaxgen.diffusion.process.noise_process import make_process
from jaxgen.methods.autoregressive import masked_diffusion
from jaxgen.runs import frozen

KEY = keys.root_key(0)
TAU, DRIVE, CLASSES = 0.3, 0.7, 2
OF_PLACE = np.array([[0.5, -0.2], [-0.4, 0.1]], np.float32)
OF_CLASS = np.array([[0.3, 0.0], [0.0, 0.6], [0.0, 0.0]], np.float32)  # the last is the null class
SPEC = data_spec((1, 2, 2), CLASSES, levels=17)
CALLS = []
"""What the transformer was called with, beside arrays."""


class FormulaNetwork(nn.Module):
    """The mean of a token: a table's of place and class and a multiple of the sum of visible tokens, or a number."""

    num_classes: int = 0
    counting: bool = False
    hidden_size: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens, mask, label=None, *, max_visible=None, train, dropout_keys=None):
        CALLS.append((max_visible, train, dropout_keys is not None, self.dtype))
        scale = self.param("scale", nn.initializers.ones, ())
        if self.counting:
            return jnp.broadcast_to(jnp.sum(~mask, axis=1)[:, None, None], tokens.shape) * scale
        return scale * means(jnp, tokens, mask, label)


def means(np_, tokens, mask, label):
    of_class = np_.asarray(OF_CLASS)[np.full(len(tokens), CLASSES) if label is None else label]
    seen = np_.where(mask[..., None], 0.0, tokens).sum(1, keepdims=True)
    return OF_PLACE[None] + of_class[:, None] + DRIVE * seen


class FormulaDenoiser(nn.Module):
    """The ideal noise for tokens N(condition, TAU^2), and a fixed output for the variance."""

    out_channels: int
    timesteps: int = 100
    spread: float = TAU
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, noise_label, condition):
        scale = self.param("scale", nn.initializers.ones, ())
        table = schedules.cosine(num_timesteps=self.timesteps).table
        step = jnp.rint(noise_label * self.timesteps / 1000.0).astype(int)
        alpha_bar = jnp.asarray(timesteps.alpha_bar(table), jnp.float32)[step][:, None]
        eps = ideal_noise(x, alpha_bar, condition, self.spread) * scale
        return jnp.concatenate([eps, jnp.full_like(eps, 0.2)], axis=-1)[:, : self.out_channels]


def ideal_noise(x, alpha_bar, mean, spread=TAU):
    """Of the variance-preserving x_t."""
    return (1.0 - alpha_bar) ** 0.5 * (x - alpha_bar**0.5 * mean) / (alpha_bar * spread**2 + 1.0 - alpha_bar)


PARAMS = {"network": {"scale": jnp.float32(1.0)}, "denoiser": {"scale": jnp.float32(1.0)}}
STEPS = 100


def config_of(**sections):
    config = mar.get_config("tiny")
    config.model, config.denoiser = {"counting": False}, {"timesteps": STEPS, "spread": TAU}
    config.masked.update({"patch_size": 1, "label_dropout": 0.0})
    config.diffusion.schedule = f"cosine(num_timesteps={STEPS})"
    config.sampler.update({"num_iterations": 2, "num_steps": STEPS, "guidance_scale": 1.0, "clip": False})
    for name, settings in sections.items():
        with config.ignore_type():
            config[name].update(settings)
    return config


def make(spec=SPEC, **sections):
    return masked_diffusion.make(config_of(**sections), spec, Env())


@pytest.fixture(autouse=True, scope="module")
def formula_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_diffusion, "MaskedAutoencoder", FormulaNetwork)
        patch.setattr(masked_diffusion, "TokenDenoiser", FormulaDenoiser)
        yield


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


FEW, REPEATS, N = 6, 2, 8
INDEX, LABEL = np.arange(N)[::-1] + 3, np.arange(N) % CLASSES
IMAGES = np.random.default_rng(0).integers(0, 17, (N, 1, 2, 2)).astype(np.float32) / 8 - 1.0


@pytest.fixture(scope="module")
def losses(formula_networks):
    """Losses and metrics of models with the bound, without it, and without labels, of two batches' labels; calls."""
    masked = {"mask_ratio_mean": 0.6, "mask_ratio_std": 0.4, "mask_ratio_min": 0.2}
    diffusion = {"schedule": f"cosine(num_timesteps={FEW})", "repeats": REPEATS}
    rest = {"denoiser": {"timesteps": FEW}, "sampler": {"num_steps": 2}}
    models = {"bound": make(masked=masked, diffusion=diffusion, **rest)}
    diffusion["learned_variance"], rest["sampler"]["name"] = False, "ddim"
    models["plain"] = make(masked=masked, diffusion=diffusion, **rest)
    models["dropped"] = make(masked={**masked, "label_dropout": 1.0}, diffusion=diffusion, **rest)
    assert [model.spec.conditioning["label"].null for model in models.values()] == [False, False, True]
    assert (models["bound"].log_prob, models["bound"].spec.likelihood) == (None, None)
    calls = {}

    @jax.jit
    def run(label):
        batch = {"image": jnp.asarray(IMAGES), "index": jnp.asarray(INDEX), "label": label}
        found = {}
        for name, model in models.items():
            CALLS.clear()
            loss, (_, metrics) = model.objective(Context(KEY, jnp.zeros((), jnp.int32)), PARAMS, {}, batch)
            found[name], calls[name] = (loss, metrics), list(CALLS)
        return found

    return run(jnp.asarray(LABEL)), run(jnp.asarray(1 - LABEL)), calls


@jax.jit
def draws():
    """What is drawn for each example, and for the diffusion of each of its tokens by repetition and place."""

    def of_example(key):
        own = jax.vmap(lambda i: jax.random.fold_in(keys.stream(key, "diffusion"), i))(jnp.arange(REPEATS))
        own = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(2)))(own)
        limits = ((0.2 - 0.6) / 0.4, (1.0 - 0.6) / 0.4)
        return {
            "ratio": jax.random.truncated_normal(keys.stream(key, "mask_ratio"), *limits),
            "scores": jax.random.uniform(keys.stream(key, "mask"), (2,)),
            "time": jax.vmap(jax.vmap(lambda key: jax.random.uniform(keys.stream(key, "time"))))(own),
            "eps": jax.vmap(jax.vmap(lambda key: jax.random.normal(keys.stream(key, "eps"), (1, 1, 2))))(own),
        }

    return jax.vmap(of_example)(keys.per_example(KEY, jnp.asarray(INDEX)))


def terms_by_hand(time, eps, clean, mean, num_timesteps, num_levels):
    """Error and bound of a token for a draw, in bits per dimension of the variance-preserving x_t, as in official code.

    The official cosine schedule's betas; the bound is divided by 1,000 / T (Nichol & Dhariwal 2021).
    """
    alpha_bar = timesteps.alpha_bar(schedules.cosine(num_timesteps=num_timesteps).table)
    before = np.append(1.0, alpha_bar[:-1])
    beta = 1.0 - alpha_bar / before
    small = beta * (1.0 - before) / (1.0 - alpha_bar)
    small[0] = small[1]
    t = int(time * num_timesteps)
    x_t = alpha_bar[t] ** 0.5 * clean + (1.0 - alpha_bar[t]) ** 0.5 * eps
    found = ideal_noise(x_t, alpha_bar[t], mean)
    estimate = (x_t - (1.0 - alpha_bar[t]) ** 0.5 * found) / alpha_bar[t] ** 0.5
    logvar = 0.6 * np.log(beta[t]) + 0.4 * np.log(small[t])  # (0.2 + 1) / 2
    first = beta[t] * before[t] ** 0.5 / (1.0 - alpha_bar[t])
    second = (1.0 - before[t]) * (1.0 - beta[t]) ** 0.5 / (1.0 - alpha_bar[t])
    if t:
        squares = (first * (clean - estimate)) ** 2
        nats = 0.5 * (logvar - np.log(small[t]) - 1.0 + (small[t] + squares) * np.exp(-logvar))
    else:
        half, deviation = 1.0 / (num_levels - 1), np.exp(0.5 * logvar)
        center = first * estimate + second * x_t
        high = np.where(clean > 1.0 - half, np.inf, (clean + half - center) / deviation)
        low = np.where(clean < half - 1.0, -np.inf, (clean - half - center) / deviation)
        nats = -np.log(np.exp(log_ndtr(high)) - np.exp(log_ndtr(low)))
    return np.mean((found - eps) ** 2), 1e-3 * num_timesteps * np.mean(nats) / np.log(2.0)


def test_the_loss_is_the_error_and_the_bound_of_masked_tokens_by_hand(losses):
    drawn = jax.tree.map(np.asarray, draws())
    expected, masked_counts = [], []
    for i in range(N):
        part = 0.6 + 0.4 * drawn["ratio"][i]
        mask = np.isin(np.arange(2), np.argsort(drawn["scores"][i])[: math.ceil(2 * part)])
        tokens = IMAGES[i].reshape(2, 2)
        mean = means(np, tokens[None], mask[None], LABEL[i : i + 1])[0]
        of_tokens = []
        for place in np.flatnonzero(mask):
            for repeat in range(REPEATS):
                time, eps = drawn["time"][i, repeat, place], drawn["eps"][i, repeat, place].reshape(-1)
                of_tokens.append(terms_by_hand(time, eps, tokens[place], mean[place], FEW, 17))
        expected.append(np.mean(of_tokens, axis=0))
        masked_counts.append(mask.sum())
    assert set(masked_counts) == {1, 2}
    error, bound = np.mean(expected, axis=0)
    loss, metrics = losses[0]["bound"]
    np.testing.assert_allclose(metrics["loss/error"], error, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/bound"], bound, rtol=1e-3)
    np.testing.assert_allclose(loss, error + bound, rtol=1e-4)
    assert losses[2]["bound"] == [(1, True, True, "float32")]  # one of two tokens is visible at most


PIECES = {
    "path": "variance_exploding",
    "parameterization": "v",
    "schedule": "cosine(num_timesteps=50)",
    "noise_label": "time(scale=500.0)",
    "times": "logit_normal",
    "weighting": "min_snr",
}


def test_the_process_has_the_pieces_of_the_settings(monkeypatch):
    given = []
    monkeypatch.setattr(masked_diffusion, "make_process", lambda **own: given.append(own) or make_process(**own))
    make(diffusion=PIECES, sampler={"num_steps": 50})
    assert given == [PIECES]


def test_settings_of_the_variance_and_of_labels(losses):
    """Without a learned variance the loss is the error alone; labels are dropped at their rate."""
    found, other, _ = losses
    np.testing.assert_allclose(found["plain"][0], found["bound"][1]["loss/error"], rtol=1e-5)
    assert (found["plain"][1], set(found["bound"][1])) == ({}, {"loss/error", "loss/bound"})
    np.testing.assert_array_equal(found["dropped"][0], other["dropped"][0])
    assert abs(found["plain"][0] - other["plain"][0]) > 1e-3


COUNT = 3_000
SAMPLE_KEYS = keys.per_example(KEY, jnp.arange(COUNT))


def moments(model, label=1):
    """Mean and covariance of the two tokens of samples, of both channels: [2, 2] and [2, 2, 2], channels last."""
    drawn = np.asarray(jax.jit(model.sample)(SAMPLE_KEYS, PARAMS, {"label": jnp.full(COUNT, label)})).reshape(-1, 2, 2)
    centered = drawn - drawn.mean(0)
    return drawn.mean(0), np.einsum("nic,njc->ijc", centered, centered) / COUNT


def assert_moments(found, mean, covariance):
    np.testing.assert_allclose(found[0], mean, atol=5.0 * math.sqrt(covariance.max() / COUNT) + 2e-3)
    np.testing.assert_allclose(found[1], covariance, atol=0.08 * covariance.max())


def test_one_iteration_draws_tokens_alone_and_guidance_moves_their_means():
    alone = np.broadcast_to(TAU**2 * np.eye(2)[..., None], (2, 2, 2))
    guided = {"num_iterations": 1, "guidance_scale": 2.5, "guidance_schedule": "constant"}
    guided = make(masked={"label_dropout": 0.1}, sampler=guided)
    assert_moments(moments(guided), OF_PLACE + 2.5 * OF_CLASS[1], alone)
    assert set(CALLS) == {(None, False, False, "float32")}


def test_tokens_are_drawn_in_random_order_given_those_before():
    """The mean is that of both orders; guidance grows with the tokens known: here half of it in either iteration."""
    means, covariances = [], []
    for first in (0, 1):
        base = OF_PLACE + 1.5 * OF_CLASS[1]
        mean = np.stack([base[0] + (first == 1) * DRIVE * base[1], base[1] + (first == 0) * DRIVE * base[0]])
        own = np.full((2, 2), DRIVE)
        own[first, first], own[1 - first, 1 - first] = 1.0, 1.0 + DRIVE**2
        means.append(mean)
        covariances.append(np.broadcast_to(TAU**2 * own[..., None], (2, 2, 2)))
    between = np.mean([m - np.mean(means, axis=0) for m in means[:1]], axis=0)
    covariance = np.mean(covariances, axis=0) + np.einsum("ic,jc->ijc", between, between)
    model = make(masked={"label_dropout": 0.1}, sampler={"guidance_scale": 2.0})
    assert_moments(moments(model), np.mean(means, axis=0), covariance)


def test_every_place_is_decided_once_by_the_cosine_schedule():
    """The mean of a token is the number of those known before: of 9, the schedule decides 1, 1, 2, 3 and 2 in turn."""
    spec = data_spec((3, 3, 1), levels=17)
    model = make(
        spec,
        masked={"class_conditional": False},
        model={"counting": True},
        denoiser={"spread": 1e-3},
        sampler={"num_iterations": 5, "num_steps": 20},
    )
    images = np.asarray(jax.jit(model.sample)(SAMPLE_KEYS[:300], PARAMS)).reshape(300, 9)
    np.testing.assert_allclose(np.sort(images, axis=1), [[0, 1, 2, 2, 4, 4, 4, 7, 7]] * 300, atol=0.05)
    np.testing.assert_allclose(images.mean(0), 31 / 9, atol=0.7)  # any place at any time


def test_scales_of_guidance_are_the_official_ones():
    left = np.array([5, 3, 1, 0])
    linear = masked_diffusion.Sampler(guidance_scale=3.0)
    found = masked_diffusion.guidance_scales(linear, left, 6)
    np.testing.assert_allclose(found, [1 + 2 * (6 - m) / 6 for m in (5, 3, 1, 1)], rtol=1e-6)
    constant = linear._replace(guidance_schedule="constant")
    np.testing.assert_array_equal(masked_diffusion.guidance_scales(constant, left, 6), np.full(4, 3.0, np.float32))


def test_the_sampler_of_tokens_is_that_of_the_settings():
    """In one step, from noise alone, a sample is the mean."""
    label = {"label": jnp.ones(6, int)}
    settings = {
        "one": {"num_steps": 1, "levels": "timesteps(spacing='trailing')"},
        "cold": {"num_steps": 2, "name": "ancestral_learned(temperature=0.0)"},
        "two": {"num_steps": 2},
        "ancestral": {"num_steps": 2, "name": "ancestral"},
        "leading": {"num_steps": 2, "levels": "timesteps(spacing='leading')"},
    }
    models = {name: make(sampler={"num_iterations": 1} | own) for name, own in settings.items()}
    models["clipped"] = make(denoiser={"spread": 3.0}, sampler={"num_iterations": 1, "num_steps": 20, "clip": True})

    @jax.jit
    def draw():
        return {name: model.sample(SAMPLE_KEYS[:6], PARAMS, label) for name, model in models.items()}

    found = {name: np.asarray(images).reshape(6, 2, 2) for name, images in draw().items()}
    np.testing.assert_allclose(found["one"], np.broadcast_to(OF_PLACE + OF_CLASS[1], (6, 2, 2)), atol=5e-3)
    names = list(settings)[1:]
    for i, name in enumerate(names):
        assert all(np.abs(found[name] - found[other]).max() > 1e-3 for other in names[:i]), name
    assert np.abs(found["clipped"]).max() == 1.0


def test_the_levels_of_the_configs_are_the_official_timesteps():
    schedule = schedules.cosine()
    found = levels.timesteps(schedule, 100, spacing="linspace")
    np.testing.assert_array_equal(found[:-1], schedule.table[timesteps.respaced_timesteps(1000, (100,))].astype("f4"))
    for variant in ("digits", "imagenet256_b"):
        assert mar.get_config(variant).sampler.levels == "timesteps(spacing='linspace')"


def test_tokens_are_patches_whose_numbers_are_in_the_order_channel_row_column():
    model = masked_diffusion.MaskedDiffusion(
        None, None, None, data_spec((4, 6, 3)), masked_diffusion.Settings(patch_size=2), None
    )
    images = jnp.arange(144.0).reshape(2, 4, 6, 3)
    tokens = model.tokens(images)
    assert (tokens.shape, model.token_dim, model.num_tokens) == ((2, 6, 12), 12, 6)
    np.testing.assert_array_equal(tokens[1, 4].reshape(3, 2, 2), np.moveaxis(images[1, 2:, 2:4], -1, 0))
    np.testing.assert_array_equal(model.images(tokens), images)


def test_models_of_latents_are_not_clipped_and_draw_images():
    config = config_of(sampler={"clip": True})
    config.data.name = "latents"
    spec = data_spec((1, 2, 4), CLASSES)
    stand_in = frozen.stand_in(spec).model
    with pytest.raises(ValueError, match=r"sampler\.clip is True, but latents do not lie in \[-1, 1\]"):
        build_model(config, spec, Env(frozen={"autoencoder": stand_in}))
    config.sampler.clip = False
    model = build_model(config, spec, Env(frozen={"autoencoder": stand_in}))
    assert model.spec.latent_shape == (1, 2, 2)


def test_computation_is_of_the_type_of_the_settings():
    config = config_of()
    config.train.compute_dtype = "bfloat16"
    model = masked_diffusion.make(config, SPEC, Env())
    jax.eval_shape(lambda: model.sample(SAMPLE_KEYS[:2], PARAMS, {"label": jnp.zeros(2, int)}))
    assert {dtype for *_, dtype in CALLS} == {"bfloat16"}


def test_the_defaults_are_these_and_no_others():
    assert masked_diffusion.Settings() == (1, 1.0, 0.25, 0.7, False, 0.0)
    pieces = ("variance_preserving", "eps", "cosine", "timestep", "uniform", "uniform")
    assert masked_diffusion.DiffusionSettings() == (*pieces, True, 4)
    levels = "timesteps(spacing='linspace')"
    assert masked_diffusion.Sampler() == ("ancestral_learned", levels, 100, True, 64, 1.0, "linear")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"masked": {"label_dropout": 1.5}}, r"masked\.label_dropout is 1\.5, but must lie in \[0, 1\]"),
        ({"masked": {"mask_ratio_min": 1.1}}, r"masked\.mask_ratio_min is 1\.1, but must lie in \[0, 1\]"),
        ({"masked": {"mask_ratio_std": 0.0}}, r"masked\.mask_ratio_std is 0\.0, but must be positive"),
        (
            {"masked": {"patch_size": 2}},
            r"patch_size is 2, but must divide the height and width of the images, 1 ",
        ),
        ({"masked": {"patch_size": 0}}, r"masked\.patch_size is 0, but must divide"),
        (
            {"masked": {"class_conditional": False, "label_dropout": 0.1}},
            r"masked\.label_dropout is 0\.1, but has no effect without masked\.class_conditional=True",
        ),
        ({"diffusion": {"repeats": 0}}, r"diffusion\.repeats is 0, but must be at least 1"),
        ({"diffusion": {"schedule": "karras"}}, r"learned_variance=True needs timesteps: use a discrete schedule"),
        ({"diffusion": {"schedule": "cosin"}}, r"diffusion\.schedule is 'cosin', but must be one of .* cosine"),
        (
            {"diffusion": {"learned_variance": False}},
            r"ancestral_learned, which needs diffusion\.learned_variance",
        ),
        ({"sampler": {"num_iterations": 3}}, r"sampler\.num_iterations is 3, but must lie in \[1, 2\]"),
        ({"sampler": {"num_iterations": 0}}, r"sampler\.num_iterations is 0, but must lie in \[1, 2\]"),
        ({"sampler": {"num_steps": 0}}, r"sampler\.num_steps is 0, but must be at least 1"),
        ({"sampler": {"name": "ancestral_learned(temperature=-1.0)"}}, r"temperature must be at least 0, not -1\.0"),
        ({"sampler": {"guidance_scale": 2.0}}, r"guidance_scale is 2\.0, but the model is not trained without classes"),
        (
            {"sampler": {"guidance_schedule": "constant"}},
            r"guidance_schedule is 'constant', but has no effect without a sampler\.guidance_scale other than 1",
        ),
        ({"sampler": {"guidance_schedule": "cosine"}}, r"sampler\.guidance_schedule is 'cosine', but must be of type"),
    ],
)
def test_refusals(sections, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**sections)


def test_images_without_classes_are_refused_where_the_model_is_to_see_them():
    with pytest.raises(ValueError, match=r"masked\.class_conditional is True, but the data has no classes"):
        make(data_spec((1, 2, 2)))
