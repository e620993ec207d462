"""Glow (Kingma and Dhariwal 2018): activation normalization, invertible 1x1 convolutions and affine couplings."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import Need
from jaxgen.nn import checks, layers
from jaxgen.nn.flow_layers import (
    LOG_SCALE_FACTOR,
    ActNorm,
    AffineCoupling,
    ConditionalPrior,
    FlowContext,
    FlowLayer,
    FlowLevel,
    InvertibleConv,
    check_numbers,
    latent_shape,
    multi_scale,
    squeeze,
    standard_prior,
    through,
)
from jaxgen.nn.transformer import layer_keys

NEEDS = {"remat": Need("model.scan_layers=True", lambda model: model.scan_layers)}
"""Fields that have an effect only beside others, with the condition of each."""

_NORMAL = nn.initializers.normal(0.05)
_ZEROS = nn.initializers.zeros_init()
_ONE_EACH_SIDE = ((0, 0), (1, 1), (1, 1), (0, 0))


class GlowConv(nn.Module):
    """A convolution that sees where the image ends, followed by activation normalization in the place of a bias.

    Attributes:
      features: channels of the output.
      kernel_size: height and width of the kernel, odd.
      plain: pad with zeros alone, and add a bias, as the port to PyTorch does. Otherwise a channel more says, by ones,
        which pixels are padding, unless there is none.
      dtype: type of the computation.
    """

    features: int
    kernel_size: int
    plain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        """Applies the convolution."""
        of_all = {"kernel_init": _NORMAL, "dtype": self.dtype, "name": "conv"}
        size = (self.kernel_size, self.kernel_size)
        if self.plain:
            return nn.Conv(self.features, size, **of_all)(x)
        if self.kernel_size == 1:
            x = nn.Conv(self.features, size, use_bias=False, **of_all)(x)
        else:
            x = EdgeConv(self.features, self.kernel_size, use_bias=False, **of_all)(x)
        return ActNorm(name="norm")(x.astype(jnp.float32))[0].astype(self.dtype)


class ZeroConv(nn.Module):
    """A 3x3 convolution that starts at zero, with a learned scale of each output (section 3.3).

    Attributes:
      features: channels of the output.
      plain: pad with ones, as the port to PyTorch does, in the place of the channel that says what is padding.
      dtype: type of the computation.
    """

    features: int
    plain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        """Applies the convolution."""
        of_all = {"kernel_init": _ZEROS, "dtype": self.dtype, "name": "conv"}
        if self.plain:
            padded = jnp.pad(x, _ONE_EACH_SIDE, constant_values=1.0)
            x = nn.Conv(self.features, (3, 3), padding="VALID", **of_all)(padded)
        else:
            x = EdgeConv(self.features, 3, **of_all)(x)
        log_scale = self.param("log_scale", _ZEROS, (self.features,))
        return x.astype(jnp.float32) * jnp.exp(LOG_SCALE_FACTOR * log_scale)[None, None, None]


class EdgeConv(nn.Module):
    """A convolution with zeros around the image and a channel more, the last, that is 1 there and 0 inside.

    What that channel adds is the same for all images: it is computed once, and no image is copied to have it.

    Attributes:
      features: channels of the output.
      kernel_size: height and width of the kernel, odd.
      kernel_init: initializer of the kernel, [height, width, channels + 1, features].
      use_bias: whether to add a bias.
      dtype: type of the computation.
    """

    features: int
    kernel_size: int
    kernel_init: nn.initializers.Initializer
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        """Applies the convolution."""
        size, around = self.kernel_size, self.kernel_size // 2
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1] + 1, self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        inside = jnp.zeros((1, *x.shape[1:3], 1), self.dtype)
        edge = jnp.pad(inside, [(0, 0), (around, around), (around, around), (0, 0)], constant_values=1.0)
        convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        out = convolve(x, kernel[:, :, :-1], (1, 1), "SAME") + convolve(edge, kernel[:, :, -1:], (1, 1), "VALID")
        if not self.use_bias:
            return out
        return out + self.param("bias", _ZEROS, (self.features,)).astype(self.dtype)[None, None, None]


class GlowNet(nn.Module):
    """The network of a coupling: convolutions of 3x3, 1x1 and 3x3 pixels, the last one zero at first (section 3.3).

    Attributes:
      width: channels between them.
      outputs: channels of the output.
      dropout: rate before the last one.
      plain, dtype: as of `GlowConv`.
    """

    width: int
    outputs: int
    dropout: float = 0.0
    plain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], context: FlowContext) -> Float[Array, "b h w {self.outputs}"]:
        """Applies the network."""
        h = x.astype(self.dtype)
        for i, kernel_size in enumerate((3, 1)):
            h = nn.relu(GlowConv(self.width, kernel_size, self.plain, self.dtype, name=f"conv_{i}")(h))
        h = layers.Dropout(self.dropout, name="dropout")(h, context.dropout_keys)
        return ZeroConv(self.outputs, self.plain, self.dtype, name="out")(h)


class GlowPriorNet(nn.Module):
    """Mean and log-deviation of a prior: a convolution of the given channels, and a layer of the class, zero at first.

    Attributes:
      outputs: channels of the output.
      convolution: whether there is the convolution.
      plain, dtype: as of `ZeroConv`.
    """

    outputs: int
    convolution: bool = True
    plain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], context: FlowContext) -> Float[Array, "b h w {self.outputs}"]:
        """Applies the network."""
        h = jnp.zeros((*x.shape[:3], self.outputs))
        if self.convolution:
            h += ZeroConv(self.outputs, self.plain, self.dtype, name="conv")(x.astype(self.dtype))
        if context.classes is not None:
            of_class = nn.Dense(self.outputs, kernel_init=_ZEROS, name="class")(context.classes)
            log_scale = self.param("log_scale", _ZEROS, (self.outputs,))
            h += (of_class * jnp.exp(LOG_SCALE_FACTOR * log_scale)[None])[:, None, None, :]
        return h


class GlowStep(nn.Module):
    """A step of flow: activation normalization, 1x1 convolution, affine coupling (fig. 2a).

    Attributes:
      width: channels within the coupling's network.
      lu: whether the 1x1 convolution is a product of triangular matrices.
      dropout, plain, dtype: as of `GlowNet`.
    """

    width: int
    lu: bool = False
    dropout: float = 0.0
    plain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: FlowContext, *, inverse: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
        """Applies the step, or its inverse."""
        net = GlowNet(self.width, x.shape[-1], self.dropout, self.plain, self.dtype, parent=None)
        parts: list[FlowLayer] = [
            ActNorm(self.plain, name="norm"),
            InvertibleConv(self.lu, name="mix"),
            AffineCoupling(net, name="coupling"),
        ]
        return through(parts, x, context, inverse=inverse)


class ScannedSteps(nn.Module):
    """Steps of flow with stacked parameters, of which one is compiled; those that start from data do so in turn.

    Attributes:
      steps: number of steps.
      remat: recompute their activations in the backward pass.
      width, lu, dropout, plain, dtype: as of `GlowStep`.
    """

    steps: int
    remat: bool
    width: int
    lu: bool = False
    dropout: float = 0.0
    plain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: FlowContext, *, inverse: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
        """Applies the steps or, from the last to the first, their inverses."""

        def step(module: GlowStep, carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            own = context._replace(dropout_keys=layer_keys(context.dropout_keys, i))
            y, log_det = module(carry[0], own, inverse=True) if inverse else module(carry[0], own)
            return (y, carry[1] + log_det), None

        axes = {"params": 0, "buffers": 0}
        scan = nn.scan(step, variable_axes=axes, split_rngs={"params": True}, length=self.steps, reverse=inverse)
        cls = nn.remat(GlowStep, prevent_cse=False) if self.remat and not inverse else GlowStep
        module = cls(self.width, self.lu, self.dropout, self.plain, self.dtype, name="step")
        return scan(module, (x, jnp.zeros(len(x))), jnp.arange(self.steps))[0]


class Glow(nn.Module):
    """Glow, whose defaults are the official settings but for width and depth.

    Attributes:
      image_shape: height, width, channels of the images.
      num_classes: number of classes, which the prior of the last latents is conditioned on; 0 for none.
      levels: number of levels L; each of them halves height and width.
      steps: number of steps of flow K in each level.
      width: channels within the couplings' networks.
      lu: whether the 1x1 convolutions are products of triangular matrices.
      learn_prior: whether the prior of the last latents is learned, a mean and a deviation of each.
      dropout: rate in the couplings' networks, which the official code does not have.
      plain: the convolutions, and the normalization, of the port to PyTorch by rosinality: see `GlowConv`, `ZeroConv`
        and `ActNorm`.
      scan_layers: compile one step of each level and loop over stacked parameters: `level_0_steps` instead of
        `level_0_step_0`, `level_0_step_1`, ...
      remat: recompute the activations of scanned steps in the backward pass, trading time for memory.
      dtype: type of the couplings' networks.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    levels: int = 3
    steps: int = 32
    width: int = 512
    lu: bool = False
    learn_prior: bool = True
    dropout: float = 0.0
    plain: bool = False
    scan_layers: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def check(self) -> None:
        """Refuses images that cannot be halved so often, and numbers that are not positive.

        Raises:
          ValueError: says what is allowed.
        """
        check_numbers(self, "levels", "steps", "width")
        checks.check_halvings(self.image_shape[:2], self.levels, advice="use fewer model.levels")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ..."],
        label: Int[Array, " b"] | None = None,
        *,
        dropout_keys: Key[Array, " b"] | None = None,
        inverse: bool = False,
    ) -> tuple[Float[Array, "b ..."], Float[Array, " b"]]:
        """Returns latents and log |det|, as `FlowNetwork` says; with `inverse`, images of latents, and zeros."""
        return multi_scale(self, [self._level(i) for i in range(self.levels)], x, label, dropout_keys, inverse=inverse)

    def inverse(self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None = None) -> Float[Array, "b h w c"]:
        """Returns the images of latents."""
        return self(latents, label, inverse=True)[0]

    def _level(self, i: int) -> FlowLevel:
        last = i == self.levels - 1
        shape = latent_shape(self.image_shape, i, last=last)
        options = {"dropout": self.dropout, "plain": self.plain, "dtype": self.dtype}
        steps: list[FlowLayer]
        if self.scan_layers:
            steps = [ScannedSteps(self.steps, self.remat, self.width, self.lu, name=f"level_{i}_steps", **options)]
        else:
            steps = [GlowStep(self.width, self.lu, name=f"level_{i}_step_{j}", **options) for j in range(self.steps)]
        if last and not (self.learn_prior or self.num_classes):
            return FlowLevel([squeeze, *steps], standard_prior, shape)
        outputs = 2 * shape[-1]
        convolution = self.learn_prior or not last
        net = GlowPriorNet(outputs, convolution, self.plain, self.dtype, parent=None)
        zeros = shape[-1] if self.plain else outputs
        return FlowLevel([squeeze, *steps], ConditionalPrior(net, zeros, name=f"level_{i}_prior"), shape)
