"""WaveNet (van den Oord et al. 2016c) over the elements of an image in raster order."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks
from jaxgen.nn.autoregressive import LevelInput, RasterPlace
from jaxgen.nn.gated_pixelcnn import gate
from jaxgen.nn.layers import Dropout, one_hot


class DilatedConv(nn.Module):
    """A causal convolution with a kernel of two: an element, and the one `dilation` before it.

    Attributes:
      features: number of outputs.
      dilation: distance of the two.
      dtype: type of the computation.
    """

    features: int
    dilation: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], number: Int[Array, ""] | None) -> Float[Array, "b t f"]:
        """Returns the outputs of a sequence, or of its element of a number, after those before it."""
        own = nn.Dense(self.features, dtype=self.dtype, name="own")
        earlier = nn.Dense(self.features, use_bias=False, dtype=self.dtype, name="earlier")
        return own(x) + earlier(self._delayed(x, number))

    def _delayed(self, x: Array, number: Array | None) -> Array:
        d = self.dilation
        if number is None:
            return jnp.pad(x, ((0, 0), (d, 0), (0, 0)))[:, : x.shape[1]]
        # A queue: the place of the element d before is taken by the one at hand.
        queue = self.variable("cache", "queue", jnp.zeros, (len(x), d, x.shape[-1]), x.dtype)
        delayed = jax.lax.dynamic_slice_in_dim(queue.value, number % d, 1, axis=1)
        queue.value = jax.lax.dynamic_update_slice_in_dim(queue.value, x, number % d, axis=1)
        return delayed


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates, residual and skip connections, over a sequence of elements.

    Parameters are float32, computation runs in `dtype`, and the output is float32. A learned vector for each place is
    added to the input, since a sequence does not show where rows begin (a local condition, section 2.5).

    Attributes:
      image_shape: height, width, channels of the images.
      num_outputs: parameters of the distribution of an element.
      channelwise: whether each channel of a pixel is an element of the sequence, or the pixel is.
      levels: number of levels of the images.
      num_classes: number of classes; 0 for an unconditional network (a global condition, section 2.5).
      features: of the residual connections.
      skip_features: of the skip connections and the head.
      dilations: of the layers in turn. The network sees as many elements back as they sum up to, and one.
      level_features: if positive, levels enter as learned vectors of this length, as codes of a tokenizer must.
      dropout: rate of the gated features, drawn from `dropout_keys`.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    num_outputs: int
    channelwise: bool
    levels: int
    num_classes: int = 0
    features: int = 64
    skip_features: int = 256
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) * 2
    level_features: int = 0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"model.dilations is {self.dilations}, but must be one or more positive numbers.")
        f, dtype, layers = self.features, self.dtype, range(len(self.dilations))
        self.levels_in = LevelInput(self.levels, self.level_features, dtype)
        self.first = nn.Dense(f, dtype=dtype)
        self.positions = self.param("positions", nn.initializers.normal(0.02), (self.length, f))
        self.dilated = [DilatedConv(2 * f, d, dtype) for d in self.dilations]
        if self.num_classes:
            self.class_shift = [nn.Dense(2 * f, False, dtype=dtype) for _ in layers]
        self.drop = [Dropout(self.dropout) for _ in layers]
        self.residual = [nn.Dense(f, dtype=dtype) for _ in layers]
        self.skip = [nn.Dense(self.skip_features, dtype=dtype) for _ in layers]
        self.head = nn.Dense(self.skip_features, dtype=dtype)
        self.out = nn.Dense(self.num_outputs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w u o"]:
        """Returns the outputs of all elements; see `AutoregressiveNetwork`.

        Raises:
          ValueError: if settings, labels or dropout keys do not fit the network.
        """
        keys = checks.training_keys(train, self.dropout, dropout_keys)
        height, width, _ = self.image_shape
        values = self._values(x)
        earlier = jnp.pad(values, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        out = self._outputs(earlier, self.positions, label, None, keys)
        return out.reshape(len(x), height, width, self.elements, self.num_outputs)

    def begin_row(self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace) -> None:
        """Does nothing: to a sequence, rows are nothing special."""

    def step(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace
    ) -> Float[Array, "b {self.num_outputs}"]:
        """Returns the outputs of one element; see `AutoregressiveNetwork`."""
        number = place.number(self.image_shape[1], self.elements)
        before = jnp.maximum(number - 1, 0)
        value = jnp.where(number > 0, self._values(x, before), 0.0)
        position = jax.lax.dynamic_slice_in_dim(self.positions, number, 1)
        return self._outputs(value, position, label, number, None)[:, 0]

    @property
    def elements(self) -> int:
        """The number of elements in a pixel."""
        return self.image_shape[-1] if self.channelwise else 1

    @property
    def length(self) -> int:
        """The number of elements in an image."""
        return math.prod(self.image_shape[:2]) * self.elements

    def _values(self, x: Array, number: Array | None = None) -> Array:
        """Returns the inputs of all elements, or of the one of a number."""
        sequence = x.reshape(len(x), self.length, 1, -1)
        if number is not None:
            sequence = jax.lax.dynamic_slice_in_dim(sequence, number, 1, axis=1)
        return self.levels_in(sequence)[:, :, 0]

    def _outputs(
        self, values: Array, positions: Array, label: Array | None, number: Array | None, keys: Array | None
    ) -> Array:
        checks.check_optional_label(label, self.num_classes)
        h = self.first(values) + positions.astype(self.dtype)[None]
        classes = one_hot(label, self.num_classes, len(values)).astype(self.dtype)
        skips = jnp.zeros((), self.dtype)
        for i in range(len(self.dilations)):
            z = self.dilated[i](h, number)
            if self.num_classes:
                z += self.class_shift[i](classes)[:, None]
            z = self.drop[i](gate(z), keys)
            skips = skips + self.skip[i](z)
            h += self.residual[i](z)
        return self.out(jax.nn.relu(self.head(jax.nn.relu(skips)))).astype(jnp.float32)
