"""The contract between a generative model and everything that trains, samples or evaluates it.

A model is a `GenerativeModel`: a NamedTuple of pure functions. The training loop, the parallel layer, checkpoints, the
sampler command and the evaluation see nothing else, so they never learn which family a model belongs to. A capability
that a model lacks is `None`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxgen.core import conditioning as conditions
from jaxgen.core.conditioning import Conditions
from jaxgen.core.latent_coding import LatentCoding

Batch = Mapping[str, Array]
"""A training batch. Every array has the leading axes [K, B] (microbatches, examples):

- `image`: uint8 or uint16 [K, B, H, W, C] as it comes from the host; float32 in [-1, 1] once `with_preprocessing` has
  seen it.
  Of cached latents, float32 [K, B, h, w, 2c], which `with_latents` makes [K, B, h, w, c] of the model's
  `ModelSpec.sigma_data`, or [K, B, h, w, c], or int32 codes, which it makes levels in [-1, 1];
- `index`: int32 [K, B], the position of the example in the step's global batch; all per-example randomness hangs on it;
- an array [K, B, ...] for each condition that the model names in `ModelSpec.conditioning`, such as `label`, int32.
"""

Microbatch = Mapping[str, Array]
"""One slice of a `Batch` along its first axis: what an objective sees. Images are float32 in [-1, 1]."""

Conditioning = Mapping[str, Array] | None
"""Conditions of examples, by the names of `ModelSpec.conditioning`, e.g. `{"label": int32 [N]}`; see
`core.conditioning`. `None` stands for the null conditions."""

Metrics = dict[str, Float[Array, ""]]
Variables: TypeAlias = PyTree


class TrainState(NamedTuple):
    """All that a run has learned: a pytree of arrays, nothing else.

    Attributes:
      step: number of update calls done, int32.
      params: trainable parameters; keyed by player (`generator`, `discriminator`) where several are trained.
      opt_state: the optax state, or a dict of them keyed like `params`.
      model_state: what changes without a gradient: batch statistics, spectral-norm vectors, codebooks.
      ema: exponential moving averages, kept by the `with_ema` wrapper.
      frozen: what training reads and never changes, by role: the variables of a teacher, a guide, an autoencoder. They
        lie on the devices as parameters do, and are never averaged, differentiated or saved again.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    model_state: PyTree
    ema: PyTree = ()
    frozen: PyTree = ()


class ModelSpec(NamedTuple):
    """Static facts about a model, known before any array exists.

    Attributes:
      image_shape: height, width, channels of one image.
      conditioning: the conditions that the model takes, by name; of data, those that it has.
      latent_shape: shape of one image's latents, which `encode` returns and `decode` takes; None where latents are
        shaped as images, or there are none.
      likelihood: what `log_prob` returns, if there is one.
      sigma_data: standard deviation of the data that the model's preconditioning assumes; None for a model that assumes
        none. Latents are brought to it, or to 1 if it is None.
      levels: number of levels of a pixel, which divide [-1, 1] evenly: 256 of 8 bits, 65,536 of 16. Samples are rounded
        to them, and likelihoods are probabilities of them.
      continuous: whether the values are real numbers rather than levels: of models of latents that are no codes.
      latent_levels: number of values of an integer of the latents, which are then codes in [0, latent_levels); of data,
        of cached codes. None of latents that are real numbers, and of images.
      code_dim: length of the vectors that codes stand for; None where there are no codes.
    """

    image_shape: tuple[int, int, int]
    conditioning: Conditions = conditions.NONE
    latent_shape: tuple[int, ...] | None = None
    likelihood: Literal["exact", "lower_bound"] | None = None
    sigma_data: float | None = None
    levels: int = 256
    continuous: bool = False
    latent_levels: int | None = None
    code_dim: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes that the model is conditioned on, or that the data has; 0 for none."""
        return conditions.number_of_classes(self.conditioning)


def for_classes(spec: ModelSpec, class_conditional: bool, *, where: str, dropout: float = 0.0) -> ModelSpec:
    """Returns the spec of a model of this data, class-conditional or unconditional.

    Args:
      spec: of the data.
      class_conditional: whether the model is conditioned on the class.
      where: the section that says so, for the error message.
      dropout: probability of label dropout in training; if positive, the model accepts the null condition.

    Raises:
      ValueError: if it is to be class-conditional, and the data has no classes.
    """
    if not class_conditional:
        return spec._replace(conditioning=conditions.NONE)
    if "label" not in spec.conditioning:
        raise ValueError(f"{where}.class_conditional is True, but the data has no classes: set it to False.")
    return spec._replace(conditioning={"label": spec.conditioning["label"]._replace(null=dropout > 0.0)})


def check_levels(spec: ModelSpec, *, by: str) -> None:
    """Refuses data that are no levels, for a model that predicts these.

    Raises:
      ValueError: if the data are latents that are no codes.
    """
    if spec.continuous:
        raise ValueError(
            f"{by} predicts levels or codes, but these latents are real numbers: encode those of a tokenizer, such as "
            "configs/vqvae.py."
        )


class Phase(NamedTuple):
    """The static part of an update: every distinct phase is compiled to a program of its own.

    Attributes:
      regularized: the players whose updates are each followed by one on their regularizer.
      resolution: height and width of the images that are trained on; None for those of the data.
      batch_size: examples behind one gradient, at most the config's `data.batch_size`; None for that.
    """

    regularized: tuple[str, ...] = ()
    resolution: int | None = None
    batch_size: int | None = None


CONSTANT = Phase()
"""The phase of a model that trains the same way from first to last."""


def constant_phase(step: int) -> Phase:
    """Returns `CONSTANT` at every step."""
    del step
    return CONSTANT


class Context(NamedTuple):
    """The moment of an update, for objectives.

    Attributes:
      key: of this update (and player) alone.
      step: number of updates done before; schedules of anything are functions of it.
      phase: the static part of the update.
      frozen: `TrainState.frozen`, by role.
    """

    key: Key[Array, ""]
    step: Int[Array, ""]
    phase: Phase = CONSTANT
    frozen: PyTree = ()


Objective = Callable[[Context, PyTree, PyTree, Microbatch], tuple[Array, tuple[PyTree, Metrics]]]
"""`(context, params, model_state, microbatch) -> (loss, (new model_state, metrics))`; the loss is a mean over
examples."""


@runtime_checkable
class Init(Protocol):
    """Makes the state to start from."""

    def __call__(self, key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        """Returns the state at step 0, `frozen` included.

        The batch serves for its shapes (and, rarely, for data-dependent values).
        """
        ...


@runtime_checkable
class Update(Protocol):
    """Learns from one batch."""

    def __call__(
        self, key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        """Does one optimizer update (of every player). `key` belongs to this step alone; `phase` is static."""
        ...


@runtime_checkable
class Sample(Protocol):
    """Draws images."""

    def __call__(
        self, keys: Key[Array, " n"], /, variables: Variables, cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        """Draws n images in [-1, 1]. Image i depends on `keys[i]` and `cond[i]` alone, not on how calls are split."""
        ...


@runtime_checkable
class EvalVariables(Protocol):
    """Selects from a state the variables that the functions below take."""

    def __call__(self, state: TrainState) -> Variables:
        """Returns the variables that the functions below take: parameters (EMA ones where kept) and model state."""
        ...


@runtime_checkable
class LogProb(Protocol):
    """Scores images."""

    def __call__(
        self,
        keys: Key[Array, " n"],
        /,
        variables: Variables,
        images: Float[Array, "n h w c"],
        cond: Conditioning = None,
    ) -> Float[Array, " n"]:
        """Returns log-likelihoods of images in [-1, 1], in nats, exact or a bound as `ModelSpec.likelihood` says."""
        ...


@runtime_checkable
class Encode(Protocol):
    """Maps images to latents."""

    def __call__(
        self,
        keys: Key[Array, " n"],
        /,
        variables: Variables,
        images: Float[Array, "n h w c"],
        cond: Conditioning = None,
    ) -> Shaped[Array, "n ..."]:
        """Returns the latents of images in [-1, 1]: real numbers or, of `ModelSpec.latent_levels`, integers."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """Maps images to distributions of latents."""

    def __call__(
        self, variables: Variables, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n ..."], Float[Array, "n ..."]]:
        """Returns mean and standard deviation of the latents of images in [-1, 1]; `encode` returns the mean.

        Of models whose latents are codes, they are those of the vectors before quantization, which have no spread.
        """
        ...


@runtime_checkable
class Decode(Protocol):
    """Maps latents to images."""

    def __call__(
        self, variables: Variables, latents: Shaped[Array, "n ..."], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        """Returns the images, in [-1, 1], of latents.

        Models whose latents are codes take either these, integers, or vectors such as `Posterior` returns, real numbers
        with a last axis of `ModelSpec.code_dim`, which are quantized first (Rombach et al. 2022, section 3.1).
        """
        ...


@runtime_checkable
class Styles(Protocol):
    """Maps latents to styles, of a generator whose every layer has one (Karras et al. 2019)."""

    def __call__(
        self, variables: Variables, latents: Float[Array, "n d"], cond: Conditioning = None
    ) -> Float[Array, "n layers width"]:
        """Returns the styles of latents, one for each of l layers, from the coarsest on; truncated as in `Decode`."""
        ...


@runtime_checkable
class Synthesize(Protocol):
    """Maps styles to images."""

    def __call__(self, variables: Variables, styles: Float[Array, "n layers width"]) -> Float[Array, "n h w c"]:
        """Returns the images, in [-1, 1], of styles such as `Styles` returns; noise is constant, as in `Decode`."""
        ...


@runtime_checkable
class Denoise(Protocol):
    """Removes noise."""

    def __call__(
        self, variables: Variables, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        """Returns an estimate of the clean images from x = clean + sigma * noise, noise standard normal."""
        ...


@runtime_checkable
class LevelLogProbs(Protocol):
    """Predicts one channel of one pixel from those before it, for an entropy coder."""

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "n h w c"],
        position: Int[Array, ""],
        cond: Conditioning = None,
    ) -> Float[Array, "n levels"]:
        """Returns the log-probabilities, in nats, of all levels of the channel at a position.

        They sum up to `log_prob` over the positions 0 to h * w * c - 1, which are those of the flattened image. What
        images hold from `position` on has no effect, so that encoder and decoder compute the same.
        """
        ...


class GenerativeModel(NamedTuple):
    """A generative model: pure functions over `TrainState` and variables. See the protocols above for each.

    Attributes:
      styles, synthesize: the two halves of `decode`, of generators of styles; its images are `synthesize` of `styles`.
      level_log_probs: the distribution of each channel of each pixel, given those before it in raster order.
      latent_coding: the distributions of latents and of levels given latents, for entropy coders.
      phase: maps a step (a Python int) to the static argument of `update`.
      frozen: the roles in `Env.frozen` that the model makes use of.
      objective: what `update` descends on, of models with one player that others may build on; None of others.
      microbatches: K, the leading axis of every training batch: gradient accumulation, or `n_critic`.
      nonfinite_hint: the likely cause of images from `sample` that are not finite, and the settings to change; empty if
        the method knows of none.
    """

    spec: ModelSpec
    init: Init
    update: Update
    sample: Sample
    eval_variables: EvalVariables
    log_prob: LogProb | None = None
    encode: Encode | None = None
    decode: Decode | None = None
    denoise: Denoise | None = None
    posterior: Posterior | None = None
    styles: Styles | None = None
    synthesize: Synthesize | None = None
    level_log_probs: LevelLogProbs | None = None
    latent_coding: LatentCoding | None = None
    phase: Callable[[int], Phase] = constant_phase
    frozen: tuple[str, ...] = ()
    objective: Objective | None = None
    microbatches: int = 1
    nonfinite_hint: str = ""


class Env(NamedTuple):
    """The facts that every method needs and that come from the run, not from its own config sections.

    Attributes:
      axis_name: the mapped axis to average gradients and batch statistics over; set on the pmap path only.
      frozen: finished models by the role that they have for this one, such as `teacher`, `guide` or `autoencoder`.
        Their variables are those of `TrainState.frozen`, by the same names.
      norms_depth: how many levels of the parameters' names are told apart in the norms among the metrics; 0 for none.
    """

    axis_name: str | None = None
    frozen: Mapping[str, GenerativeModel] = MappingProxyType({})
    norms_depth: int = 0


@runtime_checkable
class Make(Protocol):
    """The function `make` that every file under `methods/` exports."""

    def __call__(self, config: Any, spec: ModelSpec, env: Env) -> GenerativeModel:
        """Builds the model from the run's whole config and the shape and classes of its data."""
        ...


def require(model: GenerativeModel, *capabilities: str, by: str) -> None:
    """Refuses a model that lacks a capability, at start-up.

    Raises:
      ValueError: if any of the named functions of the model is None.
    """
    missing = [name for name in capabilities if getattr(model, name) is None]
    if missing:
        raise ValueError(f"{by} needs a model with {', '.join(missing)}, which this method does not have.")
