"""Each option of the loss by hand: linear networks, everything else in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import linear_vae
import numpy as np
import pytest
from linear_vae import ENCODER, LATENTS, PIXELS, SPEC, decoder_weights
from scipy import special, stats

from jaxgen.core import keys
from jaxgen.core.config import Section
from jaxgen.core.contract import Context, Env
from jaxgen.losses import logistic_mixture, maximum_mean_discrepancy, total_correlation
from jaxgen.methods.vae import vae
from jaxgen.variational import priors
from jaxgen.variational.autoencoder import make_autoencoder
from jaxgen.variational.inference import Inference
from jaxgen.variational.objective import make_objective, make_terms

KEY, STEP, B = keys.root_key(3), 3, 4
LEVEL = np.random.default_rng(0).integers(0, 17, (1, B, 2, 2, 1))
BATCH = {"image": jnp.asarray(LEVEL / 8.0 - 1.0, jnp.float32), "index": jnp.array([[5, 2, 9, 7]])}
X = np.float64(BATCH["image"][0]).reshape(B, PIXELS)
KEYS = keys.per_example(KEY, BATCH["index"][0])
LATENT_KEYS = keys.fold_each(KEYS, "latent")
SIGMA = 0.4
TOTAL = "total_correlation(weight=2.0, dataset_size=40)"


RUNS: dict = {}


def run(monkeypatch, scale=0.7, **settings):
    """The metrics of an update, the state after it, and the model; of the same settings, those of the first call."""
    linear_vae.use(monkeypatch)
    known = repr((scale, sorted(settings.items())))
    if known in RUNS:
        return RUNS[known]
    model = vae.make(linear_vae.config_of(**settings), SPEC, Env())

    @jax.jit
    def update():
        state = model.init(KEY, BATCH)._replace(step=jnp.int32(STEP))
        params = {**state.params, **{name: {"scale": jnp.float32(scale)} for name in ("encoder", "decoder")}}
        return model.update(KEY, state._replace(params=params), BATCH)

    after, metrics = update()
    RUNS[known] = {name: float(value) for name, value in metrics.items()}, after, model
    return RUNS[known]


def log_prob(model, variables):
    return jax.jit(model.log_prob)(KEYS, variables, BATCH["image"][0])


def posterior(scale=0.7):
    mean, logvar = np.split(scale * (X @ ENCODER), 2, axis=-1)
    eps = np.float64(keys.normal(LATENT_KEYS, (LATENTS,)))
    return mean, logvar, mean + np.exp(logvar / 2) * eps


def outputs(latents, scale=0.7, count=1):
    return scale * (latents @ decoder_weights(count))


MEAN, LOGVAR, Z = posterior()
KL = 0.5 * (MEAN**2 + np.exp(LOGVAR) - 1 - LOGVAR)
GAUSSIAN = {"sigma": SIGMA, "learn_sigma": False}
RECONSTRUCTION = -stats.norm.logpdf(X, outputs(Z), SIGMA).sum(1).mean()


def check(metrics, **expected):
    for name, value in expected.items():
        key = name.replace("__", "/")
        np.testing.assert_allclose(metrics[key], value, rtol=2e-4, err_msg=key)


def test_beta_follows_its_schedule(monkeypatch):
    metrics, _, _ = run(monkeypatch, **GAUSSIAN, beta="linear(start=1.0, end=5.0, steps=12)")
    beta = 1.0 + 4.0 * STEP / 12
    check(metrics, loss__kl=KL.sum(1).mean(), loss=RECONSTRUCTION + beta * KL.sum(1).mean())


def test_free_bits_are_of_each_dimension_and_a_mean_over_the_batch(monkeypatch):
    by_dimension = KL.mean(0)
    free = by_dimension.mean()  # one dimension lies above it, and one below
    metrics, after, _ = run(monkeypatch, **GAUSSIAN, beta=2.0, free_bits=float(free))
    rate = np.maximum(by_dimension, free).sum()
    assert by_dimension.min() < free < by_dimension.max()
    check(metrics, loss__kl=KL.sum(1).mean(), loss=RECONSTRUCTION + 2.0 * rate)
    # No gradient in the encoder from divergences that are free.
    free_of_all, _, _ = run(monkeypatch, **GAUSSIAN, beta=2.0, free_bits=100.0)
    none, _, _ = run(monkeypatch, **GAUSSIAN, beta=0.0)
    np.testing.assert_allclose(free_of_all["grad_norm"], none["grad_norm"], rtol=1e-5)
    assert after is not None
    assert abs(metrics["grad_norm"] / none["grad_norm"] - 1) > 1e-3


@pytest.mark.parametrize("target", [0.5, 40.0])
def test_capacity_is_the_divergence_that_is_aimed_at(monkeypatch, target):
    capacity = f"linear(start=0.0, end={target * 4}, steps={4 * STEP})"
    metrics, _, _ = run(monkeypatch, **GAUSSIAN, beta=3.0, capacity=capacity)
    distance = KL.sum(1).mean() - target
    check(metrics, loss=RECONSTRUCTION + 3.0 * abs(distance))
    signed, _, _ = run(monkeypatch, **GAUSSIAN, beta=3.0)
    if distance > 0:
        check(metrics, grad_norm=signed["grad_norm"])
    else:
        assert abs(metrics["grad_norm"] / signed["grad_norm"] - 1) > 1e-3


def test_terms_are_added_with_their_weights(monkeypatch):
    terms = (
        "mmd(weight='linear(start=0.0, end=8.0, steps=6)', kernel='gaussian', scale=0.5)",
        "total_correlation(weight=3.0, dataset_size=40, estimate='stratified')",
    )
    metrics, _, _ = run(monkeypatch, **GAUSSIAN, terms=terms)

    @jax.jit
    def by_hand(z, mean, logvar):
        prior = keys.normal(keys.fold_each(KEYS, "mmd"), (LATENTS,))
        distance = maximum_mean_discrepancy.mmd(z, prior, kernel="gaussian", scale=0.5)
        return distance, total_correlation.total_correlation(z, mean, logvar, dataset_size=40, estimate="stratified")

    distance, correlation = map(float, by_hand(*(np.float32(a) for a in (Z, MEAN, LOGVAR))))
    check(metrics, loss__mmd=distance, loss__total_correlation=correlation)
    check(metrics, loss=RECONSTRUCTION + KL.sum(1).mean() + 4.0 * distance + 3.0 * correlation)


def test_importance_weighted_bound(monkeypatch):
    metrics, _, model = run(monkeypatch, **GAUSSIAN, importance_samples=3, evaluation_samples=3)
    eps = np.float64(keys.normal(LATENT_KEYS, (3, LATENTS)))
    z = MEAN[:, None] + np.exp(LOGVAR / 2)[:, None] * eps
    log_p = stats.norm.logpdf(X[:, None], outputs(z), SIGMA).sum(-1)
    rate = (stats.norm.logpdf(z, MEAN[:, None], np.exp(LOGVAR / 2)[:, None]) - stats.norm.logpdf(z)).sum(-1)
    bound = special.logsumexp(log_p - rate, axis=1) - np.log(3)
    check(metrics, loss__reconstruction=-log_p.mean(), loss__kl=rate.mean(), loss=-bound.mean())
    # log_prob is of levels, the ends of which have the tails.
    low, high = (
        np.where(np.abs(X) == 1, np.where(X * end > 0, end * np.inf, X + end / 16), X + end / 16) for end in (-1, 1)
    )
    cdf = [stats.norm.cdf(edge[:, None], outputs(z), SIGMA) for edge in (low, high)]
    levels = special.logsumexp(np.log(cdf[1] - cdf[0]).sum(-1) - rate, axis=1) - np.log(3)
    variables = {name: {"scale": jnp.float32(0.7)} for name in ("encoder", "decoder")}
    np.testing.assert_allclose(log_prob(model, variables), levels, rtol=2e-3)


def test_optimal_gaussian(monkeypatch):
    """Sigma is the root mean squared error of the batch in training, and that of its running mean elsewhere."""
    metrics, after, model = run(monkeypatch, likelihood="optimal_gaussian", sigma=0.8)
    error = ((X - outputs(Z)) ** 2).mean()
    reconstruction = -stats.norm.logpdf(X, outputs(Z), np.sqrt(error)).sum(1).mean()
    check(metrics, loss__reconstruction=reconstruction, loss=reconstruction + KL.sum(1).mean())
    running = 0.99 * 0.8**2 + 0.01 * error
    np.testing.assert_allclose(after.model_state["squared_error"], running, rtol=1e-5)
    variables = model.eval_variables(after)
    np.testing.assert_allclose(variables["log_sigma"], 0.5 * np.log(running), rtol=1e-4)
    fixed = vae.make(linear_vae.config_of(sigma=float(np.sqrt(running)), learn_sigma=False), SPEC, Env())
    np.testing.assert_allclose(log_prob(model, variables), log_prob(fixed, after.params), rtol=1e-3)


def optimal(monkeypatch, image, scale, **settings):
    """Reconstruction loss and running mean of the squared error, of an optimal Gaussian."""
    linear_vae.use(monkeypatch)
    config = linear_vae.config_of(likelihood="optimal_gaussian", sigma=0.8, **settings).to_dict()
    params = {name: {"scale": jnp.float32(scale)} for name in ("encoder", "decoder")}
    context, state = Context(KEY, jnp.int32(STEP)), {"squared_error": jnp.float32(0.64)}
    objective = make_objective(make_autoencoder(Section(config), SPEC), {}, None)
    batch = {"image": image, "index": BATCH["index"][0]}
    _, (state, metrics) = jax.jit(lambda: objective(context, params, state, batch))()
    return metrics["loss/reconstruction"], state["squared_error"]


def test_a_perfect_reconstruction_has_the_least_sigma(monkeypatch):
    loss, running = optimal(monkeypatch, jnp.zeros((B, 2, 2, 1)), 0.0)
    np.testing.assert_allclose(loss, -PIXELS * stats.norm.logpdf(0.0, 0.0, 1e-3), rtol=1e-4)
    np.testing.assert_allclose(running, 0.99 * 0.64 + 0.01 * 1e-6, rtol=1e-6)


def test_the_optimal_sigma_is_that_of_the_images_that_are_scored(monkeypatch):
    """Of 3 levels: the images are rounded to them before the error is taken, too."""
    loss, running = optimal(monkeypatch, BATCH["image"][0], 0.7, levels=3)
    rounded = np.round(X + 1) - 1
    error = ((rounded - outputs(Z)) ** 2).mean()
    np.testing.assert_allclose(loss, -stats.norm.logpdf(rounded, outputs(Z), np.sqrt(error)).sum(1).mean(), rtol=1e-4)
    np.testing.assert_allclose(running, 0.99 * 0.64 + 0.01 * error, rtol=1e-5)


def test_defaults_of_priors_and_terms():
    pseudo = priors.vamp().init(KEY, (2, 2, 1))["pseudo_inputs"]
    assert pseudo.shape == (500, 2, 2, 1)
    np.testing.assert_allclose(pseudo.std(), 0.5, rtol=0.1)

    @jax.jit
    def found_and_expected(mean, logvar, z):
        inference = Inference(Context(KEY, jnp.int32(STEP)), KEYS, mean, logvar, z, jnp.zeros((B, 2, 2, 1)))
        found = {name: term(inference).loss for name, term in make_terms(("mmd", TOTAL)).items()}
        prior = keys.normal(keys.fold_each(KEYS, "mmd"), (LATENTS,))
        distance = maximum_mean_discrepancy.mmd(z, prior, kernel="inverse_multiquadric", scale=1.0)
        weighted = total_correlation.total_correlation(z, mean, logvar, dataset_size=40, estimate="weighted")
        return found, {"mmd": 10.0 * distance, "total_correlation": 2.0 * weighted}

    found, expected = found_and_expected(*(np.float32(a) for a in (MEAN, LOGVAR, Z)))
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value)


def logistic_log_prob(images, of_decoder, *, levels):
    mean, log_scale = of_decoder[..., :1], np.maximum(of_decoder[..., 1:], -7.0)
    log_p = partial(logistic_mixture.discretized_logistic_log_likelihood, levels=levels)
    return jax.jit(log_p)(images, mean, log_scale)


@pytest.mark.parametrize(("likelihood", "count"), [("logistic", 2), ("logistic_mixture", 6)])
def test_likelihoods_of_levels(monkeypatch, likelihood, count):
    mixtures = {"mixtures": 2} if likelihood == "logistic_mixture" else {}
    metrics, after, model = run(monkeypatch, likelihood=likelihood, **mixtures)
    of_decoder = np.float32(outputs(Z, count=count)).reshape(B, 2, 2, count)
    if likelihood == "logistic":
        log_p = logistic_log_prob(BATCH["image"][0], of_decoder, levels=17)
    else:
        log_p = jax.jit(partial(logistic_mixture.log_prob, levels=17))(BATCH["image"][0], of_decoder)
    check(metrics, loss__reconstruction=-float(log_p.mean()), loss=-float(log_p.mean()) + KL.sum(1).mean())
    variables = {**after.params, **{name: {"scale": jnp.float32(0.7)} for name in ("encoder", "decoder")}}
    np.testing.assert_allclose(log_prob(model, variables), log_p - KL.sum(1), rtol=1e-4)
    decoded = jax.jit(model.decode)(variables, jnp.float32(Z))
    mean = jax.jit(partial(logistic_mixture.mean, channels=1))
    expected = np.clip(of_decoder[..., :1], -1, 1) if count == 2 else mean(of_decoder)
    np.testing.assert_allclose(decoded, expected, atol=1e-5)


def test_images_are_rounded_to_the_levels_of_the_likelihood(monkeypatch):
    """Of 3 levels the nearest counts, for training and likelihoods; the encoder sees the image itself."""
    metrics, _, model = run(monkeypatch, likelihood="logistic", levels=3)
    of_decoder = np.float32(outputs(Z, count=2)).reshape(B, 2, 2, 2)
    rounded = np.float32(np.round(X + 1) - 1).reshape(B, 2, 2, 1)
    log_p = logistic_log_prob(rounded, of_decoder, levels=3)
    check(metrics, loss__reconstruction=-float(log_p.mean()))
    variables = {name: {"scale": jnp.float32(0.7)} for name in ("encoder", "decoder")}
    found = log_prob(model, variables)
    np.testing.assert_allclose(found, log_p - KL.sum(1), rtol=1e-4)
    assert model.spec.levels == 17


@jax.jit
def pseudo_draws():
    return jax.random.normal(keys.stream(KEY, "prior"), (3, 2, 2, 1))


@jax.jit
def sample_draws():
    """The component of each sample, and the noise of its posterior."""
    chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(keys.fold_each(KEYS, "component"))
    return chosen, keys.normal(KEYS, (LATENTS,))


def test_vamp_prior(monkeypatch):
    metrics, after, model = run(monkeypatch, **GAUSSIAN, prior="vamp(components=3, deviation=2.0)", beta=2.0)
    pseudo = np.float64(2.0 * pseudo_draws()).reshape(3, PIXELS)
    assert np.abs(pseudo).max() > 1.0
    mean, logvar = np.split(0.7 * (np.clip(pseudo, -1, 1) @ ENCODER), 2, axis=-1)
    by_component = stats.norm.logpdf(Z[:, None], mean, np.exp(logvar / 2)).sum(-1)
    log_p = special.logsumexp(by_component, axis=1) - np.log(3)
    rate = stats.norm.logpdf(Z, MEAN, np.exp(LOGVAR / 2)).sum(1) - log_p
    check(metrics, loss__kl=rate.mean(), loss=RECONSTRUCTION + 2.0 * rate.mean())
    moved = np.float64(after.params["prior"]["pseudo_inputs"]).reshape(3, PIXELS)
    assert np.all((np.abs(moved - pseudo) > 1e-7) == (np.abs(pseudo) < 1.0))  # those that are clipped stay
    # Samples: a component by its own key, then its posterior.
    variables = {name: {"scale": jnp.float32(0.7)} for name in ("encoder", "decoder")}
    variables["prior"] = {"pseudo_inputs": jnp.float32(pseudo).reshape(3, 2, 2, 1)}
    drawn, eps = sample_draws()
    chosen = np.asarray(drawn)
    assert len(np.unique(chosen)) > 1
    latents = mean[chosen] + np.exp(logvar[chosen] / 2) * np.float64(eps)
    expected = np.clip(outputs(latents), -1, 1)
    np.testing.assert_allclose(jax.jit(model.sample)(KEYS, variables).reshape(B, PIXELS), expected, atol=1e-4)


COUPLED = {
    "rate and terms": {
        **GAUSSIAN,
        "free_bits": 0.3,
        "capacity": 40.0,
        "terms": ("mmd(weight=2.0)", "total_correlation(weight=3.0, dataset_size=40)"),
    },
    "optimal sigma": {"likelihood": "optimal_gaussian"},
}


@pytest.mark.parametrize("case", COUPLED)
def test_two_devices_of_the_pmap_path_follow_one(monkeypatch, case):
    linear_vae.use(monkeypatch)
    one, two = (vae.make(linear_vae.config_of(**COUPLED[case]), SPEC, Env(axis)) for axis in (None, "data"))

    @jax.jit
    def of_one():
        state = one.init(KEY, BATCH)
        return state, *one.update(KEY, state, BATCH)

    state, expected, metrics = of_one()
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(1, 2, B // 2, *x.shape[2:]), 1, 0), BATCH)
    update = jax.pmap(two.update, axis_name="data", in_axes=(None, None, 0), devices=jax.devices()[:2])
    found, theirs = jax.tree.map(lambda x: x[0], update(KEY, state, split))
    for a, b in zip(
        jax.tree.leaves((found.params, found.model_state)),
        jax.tree.leaves((expected.params, expected.model_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs["loss"], metrics["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta": -1.0}, r"vae\.beta is -1\.0, but must be at least 0"),
        ({"beta": "linear(start=-1.0, end=1.0, steps=5)"}, r"vae\.beta is .* at least 0 at every step"),
        ({"capacity": -1.0}, r"vae\.capacity is -1\.0, but must be at least 0"),
        ({"free_bits": -1.0}, r"vae\.free_bits is -1\.0, but must be at least 0"),
        ({"importance_samples": 0}, r"vae\.importance_samples is 0, but must be at least 1"),
        ({"evaluation_samples": 0}, r"vae\.evaluation_samples is 0, but must be at least 1"),
        ({"latent_dim": 0}, r"vae\.latent_dim is 0, but must be at least 1"),
        ({"likelihood": "logistic_mixture", "mixtures": 0}, r"vae\.mixtures is 0, but must be at least 1"),
        ({"levels": 1}, r"vae\.levels is 1, but must be at least 2"),
        ({"likelihood": "bernoulli", "levels": 3}, r"vae\.levels is 3, but has no effect without a likelihood of"),
        ({"mixtures": 7}, r"vae\.mixtures is 7, but has no effect without vae\.likelihood=logistic_mixture"),
        ({"importance_samples": 2, "beta": 2.0}, r"vae\.beta is 2\.0, but has no effect without vae\.importance_s"),
        ({"importance_samples": 2, "capacity": 2.0}, r"vae\.capacity is 2\.0, but has no effect without"),
        ({"importance_samples": 2, "terms": ("mmd",)}, r"vae\.terms is .*, but has no effect without"),
        ({"importance_samples": 2, "free_bits": 0.1}, r"vae\.free_bits is 0\.1, but has no effect without"),
        ({"prior": "vamp", "free_bits": 0.1}, r"vae\.free_bits is 0\.1, but has no effect without"),
        ({"likelihood": "bernoulli", "evaluation_samples": 2}, r"vae\.evaluation_samples is 2, but has no effect"),
        ({"likelihood": "logistic", "sigma": 0.3}, r"vae\.sigma is 0\.3, but has no effect without vae\.likelihood="),
        ({"likelihood": "optimal_gaussian", "learn_sigma": False}, r"vae\.learn_sigma is False, but has no effect"),
        (
            {"likelihood": "optimal_gaussian", "importance_samples": 2},
            r"'optimal_gaussian', whose sigma is optimal for",
        ),
        ({"prior": "uniform"}, r"vae\.prior is 'uniform', but must be one of"),
        ({"prior": "vamp(components=0)"}, "both must be positive"),
        ({"prior": "vamp(deviation=0.0)"}, "both must be positive"),
        ({"terms": ("mmd", "mmd(weight=1.0)")}, r"vae\.terms has mmd twice"),
        ({"terms": ("mmd(scale=0.0)",)}, r"mmd with scale=0\.0, but it must be positive"),
        ({"terms": ("mmd(weight=-1.0)",)}, r"mmd's weight is -1\.0, but must be at least 0"),
        ({"terms": ("total_correlation(weight=1.0)",)}, r"vae\.terms=total_correlation lacks dataset_size"),
        ({"terms": ("total_correlations",)}, r"vae\.terms is 'total_correlations', but must be one of"),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        vae.make(linear_vae.config_of(**settings), SPEC, Env())


def test_pseudo_inputs_have_no_classes():
    config = linear_vae.config_of(prior="vamp", class_conditional=True)
    with pytest.raises(ValueError, match="whose pseudo-inputs have no classes"):
        vae.make(config, linear_vae.data_spec((2, 2, 1), 3), Env())


def test_a_data_set_smaller_than_a_batch_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="dataset_size=3, but a batch has 4"):
        run(monkeypatch, terms=("total_correlation(weight=1.0, dataset_size=3)",))
