"""Spectral normalization (Miyato et al. 2018): layers whose weights are divided by their largest singular value.

The singular value is estimated by power iteration on the weights as a matrix with one row for each output. The vectors
of the iteration lie in the collection `spectral`; since they follow from the weights alone, they are the same on all
devices. Weights are normalized in float32, computation runs in `dtype`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.layers import TORCH

_EPS = 1e-12
_default_init = TORCH.kernel()


class PowerIteration(NamedTuple):
    """The estimate u^T W v of the largest singular value of W (Miyato et al. 2018, algorithm 1).

    Attributes:
      stores_v: whether v is stored beside u, and both are used unchanged outside of training, as by PyTorch's
        `spectral_norm`. Otherwise, as in BigGAN's code, u alone is stored, one iteration from it is done outside of
        training without storing its result, and the last estimate of training is stored as `sigma`.
      iterations: iterations of each call in training, the last of which is stored; at least 1.
    """

    stores_v: bool
    iterations: int = 1


def largest_singular_value(
    module: nn.Module, matrix: Float[Array, "rows columns"], power_iteration: PowerIteration, *, train: bool
) -> Float[Array, ""]:
    """Returns the estimate for the weights of a module, in whose collection `spectral` the vectors are stored.

    Gradients flow through W, not through u and v (Miyato et al. 2018, eq. 12).

    Args:
      module: the layer, which calls this in its compact method.
      matrix: its weights W.
      power_iteration: the convention.
      train: whether the iterations of training are done, and their result is stored.

    Raises:
      ValueError: if there are no iterations in training.
    """
    if power_iteration.iterations < 1:
        raise ValueError(f"power_iterations is {power_iteration.iterations}, but must be at least 1.")
    fixed = jax.lax.stop_gradient(matrix)
    stored = module.variable("spectral", "u", _draw_unit_vector, module, len(matrix))
    u, v = _iterate(fixed, stored.value, power_iteration.iterations if train else 1)
    if power_iteration.stores_v:
        other = module.variable("spectral", "v", lambda: v)
        u, v = (u, v) if train else (stored.value, other.value)
    else:
        other = module.variable("spectral", "sigma", jnp.ones, ())
    sigma = _dot(u, _dot(matrix, v))
    if train and not module.is_initializing():
        stored.value = u
        other.value = v if power_iteration.stores_v else jax.lax.stop_gradient(sigma)
    return sigma


class SpectralConv(nn.Module):
    """A 3x3 convolution whose kernel is divided by its largest singular value.

    Attributes:
      features: channels of the output.
      power_iteration: the convention of the estimate; None for a convolution without normalization.
      kernel_init: initializer of the kernel, [3, 3, in, out]; biases start as PyTorch's.
      dtype: type of the computation.
      halves: whether the output is the averages of 2x2 pixels, of even heights and widths. They and the convolution are
        one of 4x4 pixels and stride 2, with less than half of the products.
    """

    features: int
    power_iteration: PowerIteration | None
    kernel_init: nn.initializers.Initializer = _default_init
    dtype: DTypeLike = jnp.float32
    halves: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the convolution to a map with one zero around it."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        kernel = _normalized_kernel(self, kernel, train=train)
        kernel, strides = (_averaged(kernel), (2, 2)) if self.halves else (kernel, (1, 1))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        layout, around = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
        y = jax.lax.conv_general_dilated(x, kernel, strides, around, dimension_numbers=layout)
        return y + _bias(self, 9 * x.shape[-1], y.ndim)


def _averaged(kernel: Float[Array, "h w c d"]) -> Float[Array, "h+1 w+1 c d"]:
    """The kernel of a convolution and the averages of 2x2 pixels behind it: the average of its four places."""
    places = [((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)) for a in range(2) for b in range(2)]
    return jnp.stack([jnp.pad(kernel, place) for place in places]).mean(0)


class SpectralDense(nn.Module):
    """A linear layer, or 1x1 convolution, whose kernel is divided by its largest singular value.

    Attributes:
      features: length of an output.
      power_iteration: as in `SpectralConv`.
      kernel_init: initializer of the kernel, [in, out]; biases start as PyTorch's.
      use_bias: whether to add a bias.
      dtype: type of the computation.
    """

    features: int
    power_iteration: PowerIteration | None
    kernel_init: nn.initializers.Initializer = _default_init
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, train: bool) -> Float[Array, "*b {self.features}"]:
        """Applies the layer to the last axis."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ _normalized_kernel(self, kernel, train=train).astype(self.dtype)
        return y + _bias(self, x.shape[-1], y.ndim) if self.use_bias else y


class SpectralEmbed(nn.Module):
    """A table of one vector for each class, divided by its largest singular value; u has one entry for each class.

    Attributes:
      num_classes: number of classes.
      features: length of a vector.
      power_iteration: as in `SpectralConv`.
      embedding_init: initializer of the table, [num_classes, features].
    """

    num_classes: int
    features: int
    power_iteration: PowerIteration | None
    embedding_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, label: Int[Array, " b"] | None, *, train: bool) -> Float[Array, "b {self.features}"]:
        """Returns the vectors of some classes, or of all of them, in float32."""
        table = self.param("embedding", self.embedding_init, (self.num_classes, self.features))
        if self.power_iteration is not None:
            table = table / largest_singular_value(self, table, self.power_iteration, train=train)
        return table if label is None else table[label]


def unit_norm(x: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Divides the vectors along the last axis by their norms, or by 1e-12; the gradient at zero is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), _EPS**2))


def _normalized_kernel(
    layer: SpectralConv | SpectralDense, kernel: Float[Array, "*in out"], *, train: bool
) -> Float[Array, "*in out"]:
    if layer.power_iteration is None:
        return kernel
    matrix = kernel.reshape(-1, kernel.shape[-1]).T
    return kernel / largest_singular_value(layer, matrix, layer.power_iteration, train=train)


def _bias(layer: SpectralConv | SpectralDense, fan_in: int, ndim: int) -> Float[Array, "..."]:
    bias = layer.param("bias", TORCH.bias(fan_in), (layer.features,), jnp.float32)
    return bias.astype(layer.dtype).reshape((1,) * (ndim - 1) + (-1,))


def _draw_unit_vector(module: nn.Module, length: int) -> Float[Array, " {length}"]:
    return unit_norm(jax.random.normal(module.make_rng("params"), (length,)))


def _iterate(
    matrix: Float[Array, "rows columns"], u: Float[Array, " rows"], iterations: int
) -> tuple[Float[Array, " rows"], Float[Array, " columns"]]:
    v = unit_norm(_dot(u, matrix))
    u = unit_norm(_dot(matrix, v))
    return (u, v) if iterations == 1 else _iterate(matrix, u, iterations - 1)


def _dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.dot(a, b, precision="highest")  # accelerators would round to fewer bits
