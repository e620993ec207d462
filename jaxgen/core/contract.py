"""The contract between a generative model and everything that trains, samples or judges it.

A model is a `GenerativeModel`: a NamedTuple of pure functions. The training loop, the parallel layer, checkpoints, the
sampler command and the evaluation see nothing else, so they never learn which family a model belongs to. A capability
that a model lacks is `None`.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree

Batch = Mapping[str, Array]
"""A training batch. Every array has the leading axes [K, B] (microbatches, examples):

- `image`: uint8 [K, B, H, W, C] as it comes from the host; float32 in [-1, 1] once `with_preprocessing` has seen it.
  Of cached latents, float32 [K, B, h, w, 2c], which `with_latents` makes [K, B, h, w, c] of the model's
  `ModelSpec.sigma_data`;
- `index`: int32 [K, B], the position of the example in the step's global batch; all per-example randomness hangs on it;
- `label`: int32 [K, B], for data that has classes.
"""

Microbatch = Mapping[str, Array]
"""One slice of a `Batch` along its first axis: what an objective sees. Images are float32 in [-1, 1]."""

Conditioning = Mapping[str, Array] | None
"""What a sample is asked to be, e.g. `{"label": int32 [N]}`; `None` for an unconditional draw."""

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
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    model_state: PyTree
    ema: PyTree = ()


class ModelSpec(NamedTuple):
    """Static facts about a model, known before any array exists.

    Attributes:
      image_shape: height, width, channels of one image.
      num_classes: number of classes that the model can be conditioned on; 0 for an unconditional model.
      latent_shape: shape of what `encode` makes of one image, and `decode` takes; None where latents are shaped as
        images, or there are none.
      likelihood: what `log_prob` returns, if there is one.
      sigma_data: standard deviation of the data that the model's preconditioning assumes; None for a model that assumes
        none. Latents are brought to it, or to 1 if it is None.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    latent_shape: tuple[int, ...] | None = None
    likelihood: Literal["exact", "lower_bound"] | None = None
    sigma_data: float | None = None


def for_classes(spec: ModelSpec, class_conditional: bool, *, where: str) -> ModelSpec:
    """The spec of a model of this data, which sees the classes or does not, as `where`.class_conditional says.

    Raises:
      ValueError: if it is to see classes, and there are none.
    """
    if class_conditional and not spec.num_classes:
        raise ValueError(f"{where}.class_conditional is True, but the data has no classes: set it to False.")
    return spec if class_conditional else spec._replace(num_classes=0)


class Env(NamedTuple):
    """What cuts across all models and comes from the run, not from the method.

    Attributes:
      axis_name: the mapped axis to average gradients and batch statistics over; set on the pmap path only.
      frozen: what was trained before and stays as it is: the `core.latents.Autoencoder` that a model of latents needs.
      teacher: the finished run that a few-step model is distilled from.
      guide: the finished run that samples are guided away from.
      norms_depth: how many levels of the parameters' names are told apart in the norms among the metrics; 0 for none.
    """

    axis_name: str | None = None
    frozen: Any = None
    teacher: "Trained | None" = None
    guide: "Trained | None" = None
    norms_depth: int = 0


@runtime_checkable
class Init(Protocol):
    """Makes the state to start from."""

    def __call__(self, key: Key[Array, ""], batch: Batch) -> TrainState:
        """Returns the state at step 0. The batch serves for its shapes (and, rarely, for data-dependent values)."""
        ...


@runtime_checkable
class Update(Protocol):
    """Learns from one batch."""

    def __call__(
        self, key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Hashable = None
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
    """Picks from a state what the functions below need."""

    def __call__(self, state: TrainState) -> Variables:
        """Returns what the functions below need to run: parameters (EMA ones where kept) and model state."""
        ...


@runtime_checkable
class LogProb(Protocol):
    """Scores images."""

    def __call__(self, keys: Key[Array, " n"], /, variables: Variables, batch: Microbatch) -> Float[Array, " n"]:
        """Returns log-likelihoods in nats per image, exact or a lower bound as `ModelSpec.likelihood` says."""
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
    ) -> Float[Array, "n ..."]:
        """Returns the latents of images in [-1, 1]."""
        ...


@runtime_checkable
class Decode(Protocol):
    """Maps latents to images."""

    def __call__(
        self, variables: Variables, latents: Float[Array, "n ..."], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        """Returns the images, in [-1, 1], of latents."""
        ...


@runtime_checkable
class Denoise(Protocol):
    """Removes noise."""

    def __call__(
        self, variables: Variables, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        """Returns an estimate of the clean images from x = clean + sigma * noise, noise standard normal."""
        ...


def constant_phase(step: int) -> Hashable:
    """The phase of a model that trains the same way from first to last."""
    del step
    return None


class Trained(NamedTuple):
    """A finished run whose denoiser serves another one.

    Attributes:
      denoise: that of its model.
      variables: what it was trained to.
      num_classes: those that it is conditioned on, 0 for none.
      sigma_data: standard deviation of the data that its preconditioning assumes; None if it assumes none.
    """

    denoise: Denoise
    variables: Variables
    num_classes: int = 0
    sigma_data: float | None = None


class GenerativeModel(NamedTuple):
    """A generative model: pure functions over `TrainState` and variables. See the protocols above for each.

    Attributes:
      phase: maps a step (a Python int) to a hashable, static argument of `update`, such as the resolution in
        progressive growing; a change of phase is a new compilation.
      microbatches: K, the leading axis of every training batch: gradient accumulation, or `n_critic`.
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
    phase: Callable[[int], Hashable] = constant_phase
    microbatches: int = 1


@runtime_checkable
class Make(Protocol):
    """What every file under `methods/` exports as `make`."""

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
