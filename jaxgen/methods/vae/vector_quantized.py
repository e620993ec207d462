"""Tokenizers: autoencoders whose latents are codes, such as VQ-VAE (van den Oord et al. 2017) and FSQ.

With a discriminator of patches it is a VQ-GAN (Esser et al. 2021). The quantizer is a piece with a section of its own.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxgen.adversarial import patches
from jaxgen.adversarial.patches import PATCH_NEEDS, PatchSettings
from jaxgen.core import conditioning, keys, trees
from jaxgen.core.builders import InitVariables, Player, one_player, two_player
from jaxgen.core.config import Section, call
from jaxgen.core.contract import (
    CONSTANT,
    Batch,
    Conditioning,
    Context,
    Decode,
    Encode,
    Env,
    GenerativeModel,
    Init,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    Phase,
    Posterior,
    TrainState,
    Update,
)
from jaxgen.losses import quantization as losses
from jaxgen.nn.patch_discriminator import PatchDiscriminator
from jaxgen.nn.quantization import Quantized, Statistics, make_quantizer, perplexity
from jaxgen.nn.tokenizers import make_tokenizer_network
from jaxgen.optim.optimizers import make_optimizer, make_player_optimizers

_ERRORS = {"squared": jnp.square, "absolute": jnp.abs}


class Settings(NamedTuple):
    """The section `tokenizer`.

    Attributes:
      error: of a pixel value in [-1, 1], whose mean is the reconstruction loss: `squared` or `absolute`.
      codebook_weight: of the loss that draws chosen codes to vectors; 0 for codebooks that are averages.
      commitment_weight: of the loss that draws vectors to their codes.
      entropy_weight: of the loss for sure choices among codes that are all in use.
      entropy_temperature: of the choices that it is about.
    """

    error: Literal["squared", "absolute"] = "squared"
    codebook_weight: float = 0.0
    commitment_weight: float = 0.0
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01


class Tokenizer(NamedTuple):
    """The networks, the quantizer and their settings."""

    network: nn.Module
    quantizer: nn.Module
    discriminator: PatchDiscriminator
    settings: Settings
    gan: PatchSettings
    batch_size: int
    axis_name: str | None

    def features(self, params: PyTree, images: Float[Array, "n h w c"]) -> Float[Array, "n h_z w_z d"]:
        """Returns vectors before quantization."""
        return self.network.apply({"params": params["network"]}, images, method="encode")

    def quantize(self, params: PyTree, codebooks: PyTree, z: Float[Array, "n h_z w_z d"]) -> Quantized:
        """Returns quantized vectors."""
        return self.quantizer.apply(self._variables(params, codebooks), z)

    def lookup(self, params: PyTree, codebooks: PyTree, codes: Int[Array, "n h_z w_z k"]) -> Array:
        """Returns the vectors of codes."""
        return self.quantizer.apply(self._variables(params, codebooks), codes, method="lookup")

    def decode(self, network: PyTree, z: Float[Array, "n h_z w_z d"]) -> Float[Array, "n h w c"]:
        """Returns images, not clipped, from the parameters of the networks."""
        return self.network.apply({"params": network}, z, method="decode")

    def _variables(self, params: PyTree, codebooks: PyTree) -> PyTree:
        return {"params": params.get("quantizer", {}), "codebooks": codebooks}


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a tokenizer; reads the sections tokenizer, quantizer, gan, model, discriminator and optimizer.

    - The parameters are `{"network": ..., "quantizer": ...}`; with a discriminator, of the player `generator`, and
      `optimizer` has a subsection for each player. Codebooks that are averages lie in the model state.
    - `encode` returns codes [n, h, w, codes of a vector], int32, and makes no use of its keys. `posterior` returns the
      vectors before quantization, and deviations of zero. `decode` takes either.
    - `sample` decodes codes drawn uniformly, which is no measure of the tokenizer: their distribution is left to a
      second model.
    - The metrics `codes/perplexity` and `codes/used` are of the codes of the whole batch, means over codebooks.

    Raises:
      ValueError: if a setting has no effect, or its value is out of range.
    """
    tokenizer = _tokenizer(config, spec, env)
    grid = _grid(tokenizer, spec)
    init, update = _learning(tokenizer, config, env)

    def eval_variables(state: TrainState) -> PyTree:
        params = state.params["generator"] if tokenizer.gan.weight else state.params
        return {"params": params, "codebooks": state.model_state.get("codebooks", {})}

    posterior, encode, decode = _functions(tokenizer)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        codes = keys.integers(sample_keys, grid, high=tokenizer.quantizer.num_codes)
        return decode(variables, codes, cond)

    return GenerativeModel(
        spec._replace(
            conditioning=conditioning.NONE,
            latent_shape=grid,
            latent_levels=tokenizer.quantizer.num_codes,
            code_dim=tokenizer.quantizer.code_dim,
        ),
        init,
        update,
        sample,
        eval_variables,
        encode=encode,
        decode=decode,
        posterior=posterior,
        microbatches=config.train.microbatches,
    )


def _functions(tokenizer: Tokenizer) -> tuple[Posterior, Encode, Decode]:
    def posterior(
        variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n h_z w_z d"], Float[Array, "n h_z w_z d"]]:
        conditioning.complete(conditioning.NONE, cond, len(images))
        z = tokenizer.features(variables["params"], images)
        return z, jnp.zeros_like(z)

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Int[Array, "n h_z w_z k"]:
        del sample_keys
        z, _ = posterior(variables, images, cond)
        return tokenizer.quantize(variables["params"], variables["codebooks"], z).codes

    def decode(
        variables: PyTree, latents: Shaped[Array, "n h_z w_z _"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        conditioning.complete(conditioning.NONE, cond, len(latents))
        params, codebooks = variables["params"], variables["codebooks"]
        if jnp.issubdtype(latents.dtype, jnp.integer):
            vectors = tokenizer.lookup(params, codebooks, latents)
        else:
            vectors = tokenizer.quantize(params, codebooks, latents).output
        return jnp.clip(tokenizer.decode(params["network"], vectors), -1.0, 1.0)

    return posterior, encode, decode


def _tokenizer(config: Section, spec: ModelSpec, env: Env) -> Tokenizer:
    dtype, channels = config.train.compute_dtype, spec.image_shape[-1]
    quantizer = make_quantizer(config.quantizer)
    settings = call(Settings, config.tokenizer, where="tokenizer")
    _check(settings, quantizer.losses)
    return Tokenizer(
        make_tokenizer_network(config.model, image_channels=channels, code_dim=quantizer.code_dim, dtype=dtype),
        quantizer,
        call(PatchDiscriminator, config.discriminator, where="discriminator", dtype=dtype),
        settings,
        call(PatchSettings, config.gan, where="gan", needs=PATCH_NEEDS),
        config.data.batch_size,
        env.axis_name,
    )


def _check(settings: Settings, losses: tuple[str, ...]) -> None:
    """Refuses weights of losses that the quantizer does not have, and a codebook that nothing would train."""
    for name in ("codebook", "commitment", "entropy"):
        weight = getattr(settings, f"{name}_weight")
        if weight and name not in losses:
            has = ", ".join(losses) or "none"
            raise ValueError(
                f"tokenizer.{name}_weight is {weight}, but has no effect: the quantizer has the losses: {has}. Set it "
                "to 0."
            )
        if weight < 0.0:
            raise ValueError(f"tokenizer.{name}_weight is {weight}, but must be at least 0.")
    if "codebook" in losses and not settings.codebook_weight:
        raise ValueError("tokenizer.codebook_weight is 0, but nothing else trains the codebook: set it, or decay.")
    if not settings.entropy_temperature > 0.0:
        raise ValueError(f"tokenizer.entropy_temperature is {settings.entropy_temperature}, but must be positive.")
    default = Settings().entropy_temperature
    if not settings.entropy_weight and settings.entropy_temperature != default:
        raise ValueError(
            f"tokenizer.entropy_temperature is {settings.entropy_temperature}, but has no effect without "
            f"tokenizer.entropy_weight: set it to {default}."
        )


def _grid(tokenizer: Tokenizer, spec: ModelSpec) -> tuple[int, int, int]:
    """Height and width of a feature map, and the codes of each of its vectors."""
    height, width, _ = spec.image_shape
    stride = tokenizer.network.stride
    return height // stride, width // stride, tokenizer.quantizer.codes_per_vector


def _learning(tokenizer: Tokenizer, config: Section, env: Env) -> tuple[Init, Update]:
    reconstruct, microbatches = _reconstruct(tokenizer), config.train.microbatches
    if not tokenizer.gan.weight:
        optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
        player = Player(_objective(reconstruct), optimizer)
        init, update = one_player(_init_variables(tokenizer), player, microbatches=microbatches, env=env)
        return init, _with_codebooks(tokenizer, update)
    discriminator, gan = tokenizer.discriminator, tokenizer.gan
    learned = patches.generator_objective(reconstruct, discriminator, gan, axis_name=env.axis_name)
    optimizers = make_player_optimizers(
        config.optimizer, "generator", "discriminator", num_steps=config.train.num_steps
    )
    init, update = two_player(
        patches.init_players(_init_variables(tokenizer), discriminator),
        generator=Player(learned, optimizers["generator"]),
        discriminator=Player(
            patches.discriminator_objective(reconstruct, discriminator, gan), optimizers["discriminator"]
        ),
        microbatches=microbatches,
        env=env,
    )
    return init, _with_codebooks(tokenizer, update)


def _init_variables(tokenizer: Tokenizer) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        network = tokenizer.network.init(keys.stream(context.key, "network"), batch["image"])["params"]
        z = tokenizer.features({"network": network}, batch["image"])
        found = tokenizer.quantizer.init(keys.stream(context.key, "quantizer"), z)
        params = {"network": network, "quantizer": found.get("params", {})}
        quantized = tokenizer.quantize(params, found.get("codebooks", {}), z)
        model_state = {
            "codebooks": found.get("codebooks", {}),
            "batch": jax.tree.map(jnp.zeros_like, _statistics(tokenizer, context, batch, quantized)),
        }
        return _without_empty(params), _without_empty(model_state)

    return init_variables


def _without_empty(tree: dict[str, PyTree]) -> dict[str, PyTree]:
    return {name: value for name, value in tree.items() if jax.tree.leaves(value)}


def _objective(reconstruct: patches.Reconstruct) -> Objective:
    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        made, model_state = reconstruct(context, params, model_state, batch)
        return made.loss, (model_state, made.metrics)

    return objective


def _reconstruct(tokenizer: Tokenizer) -> patches.Reconstruct:
    """Reconstructions, and their loss: mean error and the losses of codebooks (van den Oord et al. 2017, eq. 3).

    The model state is passed on with the statistics of the batch added to it.
    """
    error = _ERRORS[tokenizer.settings.error]

    def reconstruct(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[patches.Reconstruction, PyTree]:
        z = tokenizer.features(params, batch["image"])
        quantized = tokenizer.quantize(params, model_state.get("codebooks", {}), z)

        def of_images(images: Float[Array, "b h w c"]) -> Float[Array, ""]:
            return jnp.mean(error(batch["image"] - images))

        def decode(network: PyTree) -> Float[Array, "b h w c"]:
            return tokenizer.decode(network, jax.lax.stop_gradient(quantized.output))

        images = tokenizer.decode(params["network"], quantized.output)
        loss, metrics = _codebook_losses(tokenizer, quantized)
        metrics["loss/reconstruction"] = of_images(images)
        metrics["absolute_error"] = jnp.mean(jnp.abs(batch["image"] - images))
        statistics = _statistics(tokenizer, context, batch, quantized)
        model_state = {**model_state, "batch": jax.tree.map(jnp.add, model_state["batch"], statistics)}
        loss += metrics["loss/reconstruction"]
        return patches.Reconstruction(images, loss, metrics, of_images, decode, params["network"]), model_state

    return reconstruct


def _codebook_losses(tokenizer: Tokenizer, quantized: Quantized) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the losses of codebooks, and each of these without its weight, summed over codebooks."""
    settings, metrics = tokenizer.settings, {}
    total = jnp.zeros(())
    for name in tokenizer.quantizer.losses:
        weight = getattr(settings, f"{name}_weight")
        if weight:
            metrics[f"loss/{name}"] = sum(
                (_LOSSES[name](stage, tokenizer) for stage in quantized.stages), start=jnp.zeros(())
            )
            total += weight * metrics[f"loss/{name}"]
    return total, metrics


_LOSSES = {
    "codebook": lambda stage, _: jnp.mean(losses.codebook_loss(stage.inputs, stage.vectors)),
    "commitment": lambda stage, _: jnp.mean(losses.commitment_loss(stage.inputs, stage.vectors)),
    "entropy": lambda stage, tokenizer: losses.entropy_loss(
        stage.distances, temperature=tokenizer.settings.entropy_temperature, axis_name=tokenizer.axis_name
    ),
}
"""Losses of one codebook by name."""


def _statistics(tokenizer: Tokenizer, context: Context, batch: Microbatch, quantized: Quantized) -> Statistics:
    index, key = batch["index"], keys.stream(context.key, "codes")
    return jax.lax.stop_gradient(tokenizer.quantizer.statistics(quantized, index, key, tokenizer.batch_size))


def _with_codebooks(tokenizer: Tokenizer, update: Update) -> Update:
    """The update, then that of the codebooks that are averages, by the statistics of the whole batch."""

    def with_codebooks(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        state, metrics = update(key, state, batch, phase=phase)
        statistics = state.model_state["batch"]
        if tokenizer.axis_name is not None:
            statistics = jax.lax.psum(statistics, tokenizer.axis_name)
        counts = [leaf for name, leaf in trees.named_leaves(statistics).items() if name.endswith("counts")]
        metrics["codes/perplexity"] = jnp.mean(jnp.stack([perplexity(own) for own in counts]))
        metrics["codes/used"] = jnp.mean(jnp.stack([jnp.sum(own > 0.0) for own in counts]).astype(jnp.float32))
        model_state = {
            "codebooks": tokenizer.quantizer.updated(state.model_state.get("codebooks", {}), statistics),
            "batch": jax.tree.map(jnp.zeros_like, statistics),
        }
        return state._replace(model_state=_without_empty(model_state)), metrics

    return with_codebooks
