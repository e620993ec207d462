"""Encoder and decoder of vectors with their likelihood and prior, from the section `vae`."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.config import Need, Section, call, call_text, check_bounds
from jaxgen.core.contract import Context, Microbatch, ModelSpec, TrainState, for_classes
from jaxgen.core.schedules import Curve
from jaxgen.nn.conv_autoencoder import ConvDecoder, ConvEncoder
from jaxgen.variational.levels import LikelihoodLevels, likelihood_levels
from jaxgen.variational.likelihoods import LikelihoodName, LogLikelihood, PixelLikelihood, make_likelihood
from jaxgen.variational.priors import Posterior, Prior


class Settings(NamedTuple):
    """The section `vae`.

    Attributes:
      latent_dim: length of a latent.
      likelihood: of pixels. The decoder's outputs are the mean of a `gaussian`, so that reconstruction is squared
        error; that of an `optimal_gaussian`; the logits of a `bernoulli` over pixels in [0, 1]; mean and log-scale of a
        discretized `logistic`; or the parameters of a `logistic_mixture`.
      sigma: standard deviation of the Gaussian, of pixels in [-1, 1].
      learn_sigma: whether `sigma` is only the start, and one value for all pixels is learned (Rybkin et al. 2021). The
        optimal Gaussian has the root mean squared error of each batch instead (section 3.2), by one latent an image,
        and, for likelihoods of images, that of its running mean, which starts at `sigma`.
      mixtures: components of the mixture of logistics.
      levels: number of levels of the pixels, to the nearest of which images are rounded for the likelihood; None for
        those of the data. Of data that have fewer levels than their type, such as the digits' 17.
      prior: of latents, a function of `jaxgen.variational.priors`, such as `vamp(components=100)`.
      beta: weight of the divergence; 1 for the evidence lower bound; may be scheduled (Higgins et al. 2017).
      free_bits: nats of each latent dimension's divergence, a mean over the batch, that are free (Kingma et al. 2016,
        eq. 15).
      capacity: the divergence, in nats, whose distance to the actual one is weighted by beta in its place; may be
        scheduled (Burgess et al. 2018, eq. 8); None for 0.
      terms: what is added to the loss, functions of `jaxgen.variational.terms`, such as `mmd(weight=10.0)`.
      importance_samples: latents an image in the importance-weighted bound that is maximized (Burda et al. 2016, eq.
        8); 1 for the evidence lower bound.
      evaluation_samples: the same for `log_prob`.
      class_conditional: whether encoder and decoder see the class.
    """

    latent_dim: int = 32
    likelihood: LikelihoodName = "gaussian"
    sigma: float = 0.2
    learn_sigma: bool = True
    mixtures: int = 5
    levels: int | None = None
    prior: str = "standard_normal"
    beta: float | str = 1.0
    free_bits: float = 0.0
    capacity: float | str | None = None
    terms: tuple[str, ...] = ()
    importance_samples: int = 1
    evaluation_samples: int = 1
    class_conditional: bool = False


_GAUSSIAN = Need("vae.likelihood=gaussian", lambda vae: vae.likelihood == "gaussian")
_ONE_SAMPLE = Need("vae.importance_samples=1", lambda vae: vae.importance_samples == 1)
_OF_LEVELS = Need("a likelihood of levels", lambda vae: vae.likelihood != "bernoulli")
NEEDS = {
    "sigma": Need(
        "vae.likelihood=gaussian or optimal_gaussian", lambda vae: vae.likelihood in ("gaussian", "optimal_gaussian")
    ),
    "learn_sigma": _GAUSSIAN,
    "mixtures": Need("vae.likelihood=logistic_mixture", lambda vae: vae.likelihood == "logistic_mixture"),
    "beta": _ONE_SAMPLE,
    "capacity": _ONE_SAMPLE,
    "terms": _ONE_SAMPLE,
    "free_bits": Need(
        "vae.importance_samples=1 and vae.prior=standard_normal",
        lambda vae: vae.importance_samples == 1 and vae.prior == "standard_normal",
    ),
    "evaluation_samples": _OF_LEVELS,
    "levels": _OF_LEVELS,
}
"""Settings without an effect, unless others are as said."""


class Autoencoder(NamedTuple):
    """The two networks and the pieces beside them.

    Attributes:
      encoder: returns mean and log-variance of q(z | x).
      decoder: returns the outputs of the likelihood.
      settings: the section `vae`.
      likelihood, prior: the pieces that it names.
      beta: the schedule of the divergence's weight.
      capacity: the schedule of the divergence that is aimed at; None for none.
      levels: of the likelihood.
      spec: of the model.
    """

    encoder: ConvEncoder
    decoder: ConvDecoder
    settings: Settings
    likelihood: PixelLikelihood
    prior: Prior
    beta: Curve
    capacity: Curve | None
    levels: LikelihoodLevels
    spec: ModelSpec

    def posterior(
        self, params: PyTree, images: Float[Array, "b h w c"], label: Int[Array, " b"] | None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        """Returns mean and log-variance of q(z | x)."""
        mean, logvar = jnp.split(self.encoder.apply({"params": params["encoder"]}, images, label), 2, axis=-1)
        return mean, logvar

    def outputs(
        self, params: PyTree, latents: Float[Array, "b d"], label: Int[Array, " b"] | None
    ) -> Float[Array, "b h w o"]:
        """Returns the parameters of p(x | z)."""
        return self.decoder.apply({"params": params["decoder"]}, latents, label)

    def log_sigma(self, params: PyTree) -> Float[Array, ""]:
        """Returns the log of the Gaussian's standard deviation."""
        return jnp.asarray(params.get("log_sigma", jnp.log(jnp.float32(self.settings.sigma))))

    def of_prior(self, params: PyTree) -> tuple[PyTree, Posterior]:
        """Returns the first two arguments of the prior's functions: its parameters, and the encoder."""
        return params.get("prior", {}), lambda images: self.posterior(params, images, None)

    def score(
        self,
        likelihood: LogLikelihood,
        images: Float[Array, "b h w c"],
        outputs: Float[Array, "b h w o"],
        log_sigma: Float[Array, ""],
    ) -> Float[Array, " b"]:
        """Returns log p(x | z) of images, rounded to the likelihood's levels, in nats."""
        return likelihood(self.levels.nearest(images), outputs, log_sigma, levels=self.levels.number)

    def init(self, context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        """Returns parameters and model state to start from."""
        key, settings = context.key, self.settings
        images, label = batch["image"], conditioning.of_batch(self.spec.conditioning, batch).get("label")
        latents = jnp.zeros((len(images), settings.latent_dim))
        params = {
            "encoder": self.encoder.init(keys.stream(key, "encoder"), images, label)["params"],
            "decoder": self.decoder.init(keys.stream(key, "decoder"), latents, label)["params"],
        }
        if settings.likelihood == "gaussian" and settings.learn_sigma:
            params["log_sigma"] = jnp.log(jnp.float32(settings.sigma))
        if prior := self.prior.init(keys.stream(key, "prior"), self.spec.image_shape):
            params["prior"] = prior
        return params, {"squared_error": jnp.float32(settings.sigma**2)} if self.likelihood.optimal else {}


def variables_of(params: PyTree, state: TrainState) -> PyTree:
    """Returns parameters with the standard deviation of an optimal Gaussian, which is a part of the model state."""
    if "squared_error" not in state.model_state:
        return params
    return {**params, "log_sigma": 0.5 * jnp.log(state.model_state["squared_error"])}


def make_autoencoder(config: Section, spec: ModelSpec) -> Autoencoder:
    """Builds the networks and pieces; reads the sections vae and model (of both networks).

    Raises:
      ValueError: if a setting is wrong, or the model is to be conditional on classes that the data lacks.
    """
    settings = call(Settings, config.vae, where="vae", needs=NEEDS)
    likelihood, prior = _pieces(settings)
    spec = for_classes(spec, settings.class_conditional, where="vae")._replace(
        latent_shape=(settings.latent_dim,),
        likelihood=None if likelihood.of_levels is None else "lower_bound",
    )
    height, width, channels = spec.image_shape
    shared = {"num_classes": spec.num_classes, "dtype": config.train.compute_dtype}
    encoder = call(ConvEncoder, config.model, where="model", outputs=2 * settings.latent_dim, **shared)
    output_shape = (height, width, likelihood.outputs(channels))
    decoder = call(ConvDecoder, config.model, where="model", image_shape=output_shape, **shared)
    capacity = settings.capacity
    return Autoencoder(
        encoder,
        decoder,
        settings,
        likelihood,
        prior,
        Curve.of(settings.beta, where="vae.beta", low=0.0),
        None if capacity is None else Curve.of(capacity, where="vae.capacity", low=0.0),
        likelihood_levels(settings.levels, spec, where="vae"),
        spec,
    )


def _pieces(settings: Settings) -> tuple[PixelLikelihood, Prior]:
    bounds = ("latent_dim", "mixtures", "importance_samples", "evaluation_samples")
    check_bounds(settings, dict.fromkeys(bounds, (1, math.inf)) | {"free_bits": (0, math.inf)}, where="vae")
    if settings.sigma <= 0.0:
        raise ValueError(f"vae.sigma is {settings.sigma}, but must be positive.")
    likelihood = make_likelihood(settings.likelihood, settings.mixtures)
    if likelihood.optimal and settings.importance_samples > 1:
        raise ValueError(
            f"vae.likelihood is {settings.likelihood!r}, whose sigma is optimal for one latent an image: set "
            "vae.importance_samples to 1, or the likelihood to 'gaussian'."
        )
    prior = call_text("jaxgen.variational.priors", settings.prior, where="vae.prior")
    if not prior.standard_normal and settings.class_conditional:
        raise ValueError(
            f"vae.prior is {settings.prior!r}, whose pseudo-inputs have no classes: set vae.class_conditional to False."
        )
    return likelihood, prior
