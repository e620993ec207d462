"""Masked autoregressive generation of continuous tokens with a diffusion head: MAR (Li et al. 2024).

A transformer computes a vector for each masked token from the others; a small MLP, conditioned on it, is the denoiser
of a diffusion model of that token alone. Tokens are patches of pixels, or of the latents of an autoencoder.

There is no likelihood: that of a token would be a bound by hundreds of evaluations, that of an image a mean over orders
of sums of such, and the paper has neither.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxgen.autoregressive import masking
from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Need, Section, call, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    Sample,
    TrainState,
    for_classes,
)
from jaxgen.diffusion.process import algebra
from jaxgen.diffusion.process.noise_process import NoiseProcess, make_process
from jaxgen.diffusion.process.prediction import Prediction, read_output
from jaxgen.diffusion.sampling import denoisers
from jaxgen.diffusion.sampling import sampler as diffusion_sampler
from jaxgen.diffusion.training import noising, terms
from jaxgen.nn.masked_autoencoder import MaskedAutoencoder
from jaxgen.nn.tarflow import from_tokens, to_tokens
from jaxgen.nn.token_denoiser import TokenDenoiser
from jaxgen.optim.optimizers import make_optimizer


class Settings(NamedTuple):
    """The section `masked`.

    Attributes:
      patch_size: height and width of the patches that are tokens.
      mask_ratio_mean: of the normal distribution of the part of an image's tokens that is masked in training.
      mask_ratio_std: its standard deviation.
      mask_ratio_min: the least part that is masked, at which the distribution is truncated, as it is at 1.
      class_conditional: whether the network sees the class.
      label_dropout: probability of label dropout, for classifier-free guidance.
    """

    patch_size: int = 1
    mask_ratio_mean: float = 1.0
    mask_ratio_std: float = 0.25
    mask_ratio_min: float = 0.7
    class_conditional: bool = False
    label_dropout: float = 0.0


class DiffusionSettings(NamedTuple):
    """The section `diffusion`, of the diffusion of a token. The first six name pieces, as in `denoising.diffusion`.

    Attributes:
      path: a function in `diffusion.process.paths`.
      parameterization: one in `diffusion.process.parameterizations`.
      schedule: one in `diffusion.process.schedules`.
      noise_label: one in `diffusion.process.noise_labels`.
      times: one in `diffusion.process.times`.
      weighting: one in `diffusion.process.weightings`.
      learned_variance: for discrete schedules, predict reverse variances, too, by L_hybrid (Nichol & Dhariwal 2021).
      repeats: draws of noise and noise level for each token in a step of training, which share the token's vector.
    """

    path: str = "variance_preserving"
    parameterization: str = "eps"
    schedule: str = "cosine"
    noise_label: str = "timestep"
    times: str = "uniform"
    weighting: str = "uniform"
    learned_variance: bool = True
    repeats: int = 4


class Sampler(NamedTuple):
    """The section `sampler`. The first four are those of the diffusion of each token, as in `denoising.diffusion`.

    Attributes:
      name: a sampler in `diffusion.sampling.samplers`, or a call such as `ancestral_learned(temperature=0.95)`.
      levels: a function in `diffusion.process.levels`.
      num_steps: the number of noise levels, apart from the 0 at the end.
      clip: True to keep estimates of tokens in [-1, 1]; not for latents.
      num_iterations: evaluations of the transformer, in each of which at least one token is decided.
      guidance_scale: of classifier-free guidance of the denoiser; 1 for none.
      guidance_schedule: whether the scale is the same in all iterations, or grows from 1 with the part of known tokens.
    """

    name: str = "ancestral_learned"
    levels: str = "timesteps(spacing='linspace')"
    num_steps: int = 100
    clip: bool = True
    num_iterations: int = 64
    guidance_scale: float = 1.0
    guidance_schedule: Literal["linear", "constant"] = "linear"


NEEDS = {"label_dropout": Need("masked.class_conditional=True", lambda masked: masked.class_conditional, off=(0.0,))}
SAMPLER_NEEDS = {
    "guidance_schedule": Need("a sampler.guidance_scale other than 1", lambda sampler: sampler.guidance_scale != 1.0)
}
"""Settings without an effect, unless others are as said."""


class MaskedDiffusion(NamedTuple):
    """The networks, the process, the tokens of an image, and the settings."""

    network: MaskedAutoencoder
    denoiser: TokenDenoiser
    process: NoiseProcess
    spec: ModelSpec
    settings: Settings
    diffusion: DiffusionSettings

    @property
    def token_dim(self) -> int:
        """The number of numbers in a token."""
        return self.settings.patch_size**2 * self.spec.image_shape[-1]

    @property
    def num_tokens(self) -> int:
        """The number of tokens of an image."""
        return math.prod(self.spec.image_shape) // self.token_dim

    @property
    def max_visible(self) -> int:
        """The largest number of tokens that are not masked in training."""
        return self.num_tokens - masking.least_masked(self.settings.mask_ratio_min, self.num_tokens)

    def tokens(self, x: Float[Array, "n h w c"]) -> Float[Array, "n t p"]:
        """Returns the patches of images, row by row, whose numbers are in the order channel, row, column."""
        return to_tokens(x, self.settings.patch_size)

    def images(self, tokens: Float[Array, "n t p"]) -> Float[Array, "n h w c"]:
        """Returns the images of patches: the inverse of `tokens`."""
        return from_tokens(tokens, self.settings.patch_size, self.spec.image_shape)

    def vectors(
        self,
        params: PyTree,
        tokens: Float[Array, "n t p"],
        mask: Bool[Array, "n t"],
        cond: Mapping[str, Array],
        *,
        max_visible: int | None = None,
        dropout_keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n t d"]:
        """Returns the vectors of all tokens, with dropout where there are keys."""
        options = {"max_visible": max_visible, "train": dropout_keys is not None, "dropout_keys": dropout_keys}
        return self.network.apply({"params": params["network"]}, tokens, mask, cond.get("label"), **options)

    def predict(
        self, params: PyTree, vectors: Float[Array, "n d"], x: Float[Array, "n 1 1 p"], sigma: Float[Array, " n"]
    ) -> Prediction:
        """Applies the denoiser to x = clean + sigma * noise, where x are tokens as images of one pixel."""
        mixture = self.process.mixture(sigma)
        x_t = algebra.per_image(mixture.alpha) * x
        told = (self.process.label(sigma), vectors)
        out = self.denoiser.apply({"params": params["denoiser"]}, x_t[:, 0, 0], *told)[:, None, None]
        return read_output(mixture, x_t, out, learned_variance=self.diffusion.learned_variance)


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a masked autoregressive model; reads the sections masked, diffusion, model, denoiser, sampler, optimizer.

    Parameters are {"network": ..., "denoiser": ...}. The model can draw samples, and has no other capability.

    Raises:
      ValueError: if a setting has no effect, or its value is out of range or does not fit the images.
    """
    model = _model(config, spec)
    sampler = _sampler_settings(config, model)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    objective = _objective(model)
    init, update = one_player(
        _init_variables(model), Player(objective, optimizer), microbatches=config.train.microbatches, env=env
    )
    draw, nonfinite_hint = _draw_tokens(model, sampler, latents="autoencoder" in env.frozen)

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    return GenerativeModel(
        model.spec,
        init,
        update,
        _sample(model, sampler, draw),
        eval_variables,
        objective=objective,
        microbatches=config.train.microbatches,
        nonfinite_hint=nonfinite_hint,
    )


def _model(config: Section, spec: ModelSpec) -> MaskedDiffusion:
    settings = call(Settings, config.masked, where="masked", needs=NEEDS)
    _check(settings, spec)
    diffusion = call(DiffusionSettings, config.diffusion, where="diffusion")
    check_bounds(diffusion, {"repeats": (1, math.inf)}, where="diffusion")
    pieces = ("path", "parameterization", "schedule", "noise_label", "times", "weighting")
    process = make_process(**{piece: getattr(diffusion, piece) for piece in pieces})
    if diffusion.learned_variance:
        process.schedule.timesteps(by="diffusion.learned_variance=True")
    spec = for_classes(spec, settings.class_conditional, where="masked", dropout=settings.label_dropout)
    spec = spec._replace(sigma_data=process.sigma_data, likelihood=None)
    dtype, channels = config.train.compute_dtype, settings.patch_size**2 * spec.image_shape[-1]
    network = call(MaskedAutoencoder, config.model, where="model", num_classes=spec.num_classes, dtype=dtype)
    out_channels = 2 * channels if diffusion.learned_variance else channels
    denoiser = call(TokenDenoiser, config.denoiser, where="denoiser", out_channels=out_channels, dtype=dtype)
    return MaskedDiffusion(network, denoiser, process, spec, settings, diffusion)


def _check(settings: Settings, spec: ModelSpec) -> None:
    check_bounds(settings, {"label_dropout": (0, 1), "mask_ratio_min": (0, 1)}, where="masked")
    if not settings.mask_ratio_std > 0.0:
        raise ValueError(f"masked.mask_ratio_std is {settings.mask_ratio_std}, but must be positive.")
    height, width, _ = spec.image_shape
    if settings.patch_size < 1 or height % settings.patch_size or width % settings.patch_size:
        raise ValueError(
            f"masked.patch_size is {settings.patch_size}, but must divide the height and width of the images, "
            f"{height} and {width}."
        )


def _sampler_settings(config: Section, model: MaskedDiffusion) -> Sampler:
    sampler = call(Sampler, config.sampler, where="sampler", needs=SAMPLER_NEEDS)
    check_bounds(sampler, {"num_iterations": (1, model.num_tokens)}, where="sampler")
    masking.check_guidance(sampler.guidance_scale, label_dropout=model.settings.label_dropout)
    return sampler


def _init_variables(model: MaskedDiffusion) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        label = conditioning.of_batch(model.spec.conditioning, batch).get("label")
        tokens = model.tokens(batch["image"])
        mask = jnp.ones(tokens.shape[:2], bool)
        network = model.network.init(keys.stream(context.key, "network"), tokens, mask, label, train=False)
        vectors = jnp.zeros((len(tokens), model.network.hidden_size))
        denoiser_key = keys.stream(context.key, "denoiser")
        denoiser = model.denoiser.init(denoiser_key, tokens[:, 0], jnp.zeros(len(tokens)), vectors)
        return {"network": network["params"], "denoiser": denoiser["params"]}, {}

    return init_variables


def _objective(model: MaskedDiffusion) -> Objective:
    """The diffusion loss of masked tokens given the others (Li et al. 2024, eq. 1), a mean over those of an image.

    Each image has a ratio of its own. The official code draws one for the batch of a device, with the same mean loss.
    """
    settings = model.settings
    ratios = {"mean": settings.mask_ratio_mean, "std": settings.mask_ratio_std, "least_ratio": settings.mask_ratio_min}

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        cond = conditioning.dropped(example_keys, model.spec.conditioning, batch, probability=settings.label_dropout)
        tokens = model.tokens(batch["image"])
        ratio_keys, mask_keys = keys.fold_each(example_keys, "mask_ratio"), keys.fold_each(example_keys, "mask")
        number = masking.truncated_normal_numbers(ratio_keys, model.num_tokens, **ratios)
        mask = masking.drawn_mask(mask_keys, number, model.num_tokens)
        dropout_keys = keys.fold_each(example_keys, "dropout")
        vectors = model.vectors(params, tokens, mask, cond, max_visible=model.max_visible, dropout_keys=dropout_keys)
        by_name = _token_losses(model, params, keys.fold_each(example_keys, "diffusion"), tokens, vectors)
        losses = {name: jnp.mean(masking.mean_over(mask, value)) for name, value in by_name.items()}
        metrics = {f"loss/{name}": value for name, value in losses.items()} if len(losses) > 1 else {}
        return jnp.sum(jnp.stack([*losses.values()])), (model_state, metrics)

    return objective


def _token_losses(
    model: MaskedDiffusion,
    params: PyTree,
    example_keys: Key[Array, " n"],
    tokens: Float[Array, "n t p"],
    vectors: Float[Array, "n t d"],
) -> dict[str, Float[Array, "n t"]]:
    """The terms of the diffusion loss of each token, means over `repeats` draws of noise and noise level."""
    shape = (len(tokens), model.diffusion.repeats, model.num_tokens)
    token_keys = _keys_within(_keys_within(example_keys, shape[1]).reshape(-1), shape[2]).reshape(-1)
    repeated = (jnp.broadcast_to(x[:, None], (*shape, x.shape[-1])).reshape(-1, x.shape[-1]) for x in (tokens, vectors))
    clean, vectors = repeated
    noised = noising.add_noise(model.process, example_keys[0], token_keys, {"image": clean[:, None, None]})
    prediction = model.predict(params, vectors, noised.x, noised.sigma)
    by_name = terms.loss_terms(model.process, noised, prediction, levels=model.spec.levels)
    return {name: jnp.mean(value.reshape(shape), axis=1) for name, value in by_name.items()}


def _keys_within(example_keys: Key[Array, " n"], count: int) -> Key[Array, "n {count}"]:
    return jax.vmap(lambda key: keys.per_example(key, jnp.arange(count)))(example_keys)


DrawTokens = Callable[[Array, PyTree, list[Array], Array], Array]
"""`(keys [n], variables, vectors, scale) -> tokens [n, p]`. The vectors [n, d] are those with the class and, for
guidance by the scale, those without."""


def _draw_tokens(model: MaskedDiffusion, sampler: Sampler, *, latents: bool) -> tuple[DrawTokens, str]:
    """Returns the sampler of tokens, and the hint on samples that are not finite."""
    own = diffusion_sampler.Sampler(sampler.name, sampler.levels, sampler.num_steps, clip=sampler.clip)
    process, learned = model.process, model.diffusion.learned_variance
    run, sigmas = diffusion_sampler.make_sampler(own, process.schedule, learned_variance=learned, latents=latents)
    diffusion_sampler.check_schedule(own, process, schedule=model.diffusion.schedule, shift=1.0)
    shape, preserving = (1, 1, model.token_dim), process.variance_preserving

    def draw(
        token_keys: Key[Array, " n"], variables: PyTree, vectors: list[Float[Array, "n d"]], scale: Array
    ) -> Float[Array, "n p"]:
        def denoise(x: Array, sigma: Array) -> Array | tuple[Array, Array | None]:
            count = len(vectors)
            told = (jnp.concatenate(vectors), jnp.concatenate([x] * count), jnp.concatenate([sigma] * count))
            prediction = model.predict(variables, *told)
            clean, *null = jnp.split(prediction.clean, count)
            if null:
                clean = null[0] + scale * (clean - null[0])
            clean = jnp.clip(clean, -1.0, 1.0) if sampler.clip else clean
            if not own.learns_variance:
                return clean
            assert prediction.interpolation is not None
            return clean, prediction.interpolation[: len(x)]

        x = denoisers.initial_noise(token_keys, shape, float(sigmas[0]), variance_preserving=preserving)
        return run(keys=token_keys, denoise=denoise, x=x, sigmas=sigmas)[:, 0, 0]

    return draw, diffusion_sampler.nonfinite_hint(own, run, sigmas)


def _sample(model: MaskedDiffusion, sampler: Sampler, draw: DrawTokens) -> Sample:
    """Decoding in a random order of each image's tokens, some at a time, by the cosine schedule."""
    total, conditions = model.num_tokens, model.spec.conditioning
    left = masking.masked_after_steps("cosine", sampler.num_iterations, total)
    before = np.append(total, left[:-1])
    scales = guidance_scales(sampler, left, total)

    def vectors_of(params: PyTree, tokens: Array, mask: Array, cond: Mapping[str, Array]) -> list[Array]:
        if sampler.guidance_scale == 1.0:
            return [model.vectors(params, tokens, mask, cond)]
        twice = (jnp.concatenate([tokens, tokens]), jnp.concatenate([mask, mask]))
        return jnp.split(model.vectors(params, *twice, conditioning.doubled(conditions, cond)), 2)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        told = conditioning.complete(conditions, cond, len(sample_keys))
        order = jnp.argsort(keys.uniform(keys.fold_each(sample_keys, "order"), (total,)), axis=-1)
        ranks, all_keys = jnp.argsort(order, axis=-1), _keys_within(keys.fold_each(sample_keys, "token"), total)

        def step(tokens: Float[Array, "n t p"], of_step: tuple[Array, ...]) -> tuple[Float[Array, "n t p"], None]:
            first, last, scale = of_step
            # Those decided now have the ranks first to last - 1. There is room for as many as in any iteration.
            chosen = first + jnp.arange(max(before - left))
            places = order[:, jnp.minimum(chosen, total - 1)]
            vectors = vectors_of(variables, tokens, ranks < last, told)
            flat = [jnp.take_along_axis(v, places[..., None], axis=1).reshape(-1, v.shape[-1]) for v in vectors]
            token_keys = jnp.take_along_axis(all_keys, places, axis=1).reshape(-1)
            drawn = draw(token_keys, variables, flat, scale).reshape(*places.shape, -1)
            rows, beyond = jnp.arange(len(tokens))[:, None], (chosen >= last)[None]
            return tokens.at[rows, jnp.where(beyond, total, places)].set(drawn, mode="drop"), None

        start = jnp.zeros((len(sample_keys), total, model.token_dim))
        tokens, _ = jax.lax.scan(step, start, tuple(map(jnp.asarray, (left, before, scales))))
        images = model.images(tokens)
        return jnp.clip(images, -1.0, 1.0) if sampler.clip else images

    return sample


def guidance_scales(sampler: Sampler, left: Int[np.ndarray, " s"], num_tokens: int) -> Float[np.ndarray, " s"]:
    """Returns the guidance scale of each iteration, after which so many tokens are `left`.

    The linear schedule grows from 1 with the part of the tokens that is known then; it counts one as left after the
    last iteration, as the official code does.
    """
    if sampler.guidance_schedule == "constant":
        return np.full(len(left), sampler.guidance_scale, np.float32)
    known = 1.0 - np.maximum(left, 1) / num_tokens
    return (1.0 + (sampler.guidance_scale - 1.0) * known).astype(np.float32)
