"""PixelCNN++ (Salimans et al. 2017): two streams of gated residual blocks at three resolutions, with short-cuts."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks
from jaxgen.nn.autoregressive import RasterPlace
from jaxgen.nn.layers import Dropout, one_hot
from jaxgen.nn.masked_conv import POINT, Geometry, causal_conv, first_conv

Sides: TypeAlias = tuple[int, int]
Activations: TypeAlias = list[list[Array]]
"""By resolution, from the finest, and by block."""

VERTICAL = Geometry((2, 3), (1, 1))
"""The row of the vertical stream, which knows the rows above, and the one before."""
HORIZONTAL = Geometry((2, 2), (1, 1))
"""The pixel and its neighbors above, left, and above left."""


def concat_elu(x: Float[Array, "*b c"]) -> Float[Array, "*b 2*c"]:
    """Returns ELUs of the features and of their negatives."""
    return jax.nn.elu(jnp.concatenate([x, -x], axis=-1))


def weight_norm(module: nn.Module, shape: tuple[int, ...], *, axis: int = -1, scale: float = 1.0) -> Array:
    """Returns the kernel g v / |v| (Salimans and Kingma 2016, eq. 2), with a norm for each index of an axis.

    It starts at `scale` times v, of variance 1 / fan-in: without the first pass over data of the official code.
    """
    axis %= len(shape)
    others = tuple(i for i in range(len(shape)) if i != axis)

    def norm(v: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.square(v), axis=others))

    v = module.param("kernel", nn.initializers.lecun_normal(), shape)
    g = module.param("g", lambda _: scale * norm(v))
    return v * jnp.expand_dims(g / norm(v), others)


class ShiftedConv(nn.Module):
    """A causal convolution with weight normalization.

    Attributes:
      features: number of outputs.
      geometry: of the kernel.
      sides: height and width of the map.
      scale: of the kernel at first.
      dtype: type of the computation.
    """

    features: int
    geometry: Geometry
    sides: Sides
    scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], place: RasterPlace | None = None, *, cut: bool = False
    ) -> Float[Array, "b h2 w2 f"]:
        """Applies the convolution as `causal_conv` does."""
        shape = (*self.geometry.kernel_size, x.shape[-1], self.features)
        kernel = weight_norm(self, shape, scale=self.scale).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)).astype(self.dtype)
        return (
            causal_conv(self, x, kernel, self.geometry, sides=self.sides, place=place, cut=cut) + bias[None, None, None]
        )


class WeightNormUpsample(nn.Module):
    """A transposed convolution with weight normalization, which doubles height and width.

    A row makes two; the kernel has two columns, of which a pixel makes two, or three, of which the first and the last
    lie over the pixels before and after these (the official crop by one column).

    Attributes:
      features: number of outputs.
      columns: of the kernel.
      norm: of the weights of each output, as in the original code, or of each input, as in the PyTorch port.
      dtype: type of the computation.
    """

    features: int
    columns: Literal[2, 3]
    norm: Literal["output", "input"] = "output"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], place: RasterPlace | None = None) -> Float[Array, "b h2 w2 f"]:
        """Returns the map, or its pixel or row at a place, from the pixel or row x that it lies in."""
        shape = (2, self.columns, x.shape[-1], self.features)
        kernel = weight_norm(self, shape, axis=-1 if self.norm == "output" else -2).astype(self.dtype)
        taps = jnp.einsum("bhwc,ijcf->bhiwjf", x, kernel)
        if self.columns == 3:
            following = jnp.pad(taps[:, :, :, 1:, 0], ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)))
            taps = jnp.stack([taps[:, :, :, :, 1], taps[:, :, :, :, 2] + following], axis=4)
        b, h, _, w, _, f = taps.shape
        out = taps.reshape(b, 2 * h, 2 * w, f)
        out += self.param("bias", nn.initializers.zeros_init(), (f,)).astype(self.dtype)[None, None, None]
        if place is not None:
            out = jax.lax.dynamic_slice_in_dim(out, place.row % 2, 1, axis=1)
        if place is not None and place.column is not None:
            out = jax.lax.dynamic_slice_in_dim(out, place.column % 2, 1, axis=2)
        return out


class GatedResidualBlock(nn.Module):
    """Two convolutions of concatenated ELUs, a short-cut after the first, a gate after the second.

    Attributes:
      geometry: of the convolutions.
      sides: height and width of the map.
      conditional: whether there are classes.
      dropout: rate between the convolutions.
      dtype: type of the computation.
    """

    geometry: Geometry
    sides: Sides
    conditional: bool = False
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w f"],
        short_cut: Float[Array, "b h w a"] | None,
        classes: Float[Array, "b k"],
        place: RasterPlace | None,
        keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b h w f"]:
        """Applies the block to a map, or to its pixel or row at a place."""
        f, given = x.shape[-1], {"sides": self.sides, "dtype": self.dtype}
        h = ShiftedConv(f, self.geometry, name="conv_in", **given)(concat_elu(x), place)
        if short_cut is not None:
            h += ShiftedConv(f, POINT, name="short_cut", **given)(concat_elu(short_cut))
        h = Dropout(self.dropout, name="dropout")(concat_elu(h), keys)
        h = ShiftedConv(2 * f, self.geometry, scale=0.1, name="conv_out", **given)(h, place)
        if self.conditional:
            h += nn.Dense(2 * f, use_bias=False, dtype=self.dtype, name="classes")(classes)[:, None, None]
        values, gates = jnp.split(h, 2, axis=-1)
        return x + values * jax.nn.sigmoid(gates)


class Stream(nn.Module):
    """The layers of one of the two streams, by resolution from the finest, and by block.

    Attributes:
      geometry: of its convolutions.
      columns: of the kernels of its transposed convolutions.
      filters: number of features.
      num_blocks: on the way down at each resolution.
      sides: height and width of the maps at each resolution.
      conditional: whether there are classes.
      dropout: rate within blocks.
      transposed_norm: of weights in transposed convolutions.
      dtype: type of the computation.
    """

    geometry: Geometry
    columns: Literal[2, 3]
    filters: int
    num_blocks: int
    sides: tuple[Sides, ...]
    conditional: bool
    dropout: float
    transposed_norm: Literal["output", "input"]
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        n, last, f = self.num_blocks, len(self.sides) - 1, self.filters
        halving = self.geometry._replace(stride=2)
        self.down = [[self._block(s) for _ in range(n)] for s in range(last + 1)]
        self.up = [[self._block(s) for _ in range(n + (s < last))] for s in range(last + 1)]
        self.halve = [ShiftedConv(f, halving, self.sides[s], dtype=self.dtype) for s in range(last)]
        self.double = [WeightNormUpsample(f, self.columns, self.transposed_norm, self.dtype) for _ in range(last)]

    def _block(self, s: int) -> GatedResidualBlock:
        return GatedResidualBlock(self.geometry, self.sides[s], self.conditional, self.dropout, self.dtype)


class PixelCNNpp(nn.Module):
    """The network of PixelCNN++: a U of two streams, of the rows above, and of what is left of the pixel as well.

    Parameters are float32, computation runs in `dtype`, and the output is float32. The defaults are those of CIFAR-10.
    In incremental evaluation a coarse pixel is computed again for each of its fine ones.

    Attributes:
      image_shape: height, width, channels of the images.
      num_outputs: parameters of the distribution of an element.
      channelwise: whether each channel of a pixel is an element; only images of one channel can be.
      levels: number of levels of the images, which enter as numbers.
      num_classes: number of classes; 0 for an unconditional network. A class shifts the gates' inputs of all blocks.
      filters: number of features.
      num_blocks: residual blocks of each stream at each resolution on the way down; on the way up one more, but for the
        coarsest.
      resolutions: number of resolutions, each half of the one before.
      dropout: rate within blocks, drawn from `dropout_keys`.
      transposed_norm: of weights in transposed convolutions, see `WeightNormUpsample`.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    num_outputs: int
    channelwise: bool
    levels: int
    num_classes: int = 0
    filters: int = 160
    num_blocks: int = 5
    resolutions: int = 3
    dropout: float = 0.5
    transposed_norm: Literal["output", "input"] = "output"
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self._validate()
        height, width, _ = self.image_shape
        sides = tuple((height >> s, width >> s) for s in range(self.resolutions))
        given = (self.filters, self.num_blocks, sides, self.num_classes > 0, self.dropout, self.transposed_norm)
        self.vertical = Stream(VERTICAL, 3, *given, dtype=self.dtype)
        self.horizontal = Stream(HORIZONTAL, 2, *given, dtype=self.dtype)
        firsts = [Geometry((2, 3), (2, 1)), Geometry((1, 3), (1, 1)), Geometry((2, 1), (1, 1))]
        self.first_above, self.first_row_above, self.first_left = (
            ShiftedConv(self.filters, geometry, sides[0], dtype=self.dtype) for geometry in firsts
        )
        self.out = ShiftedConv(self.num_outputs, POINT, sides[0], dtype=self.dtype)

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
        classes = self._classes(label, len(x))
        down, up = self._vertical(x, classes, None, keys)
        return self._horizontal(x, down, up, classes, None, keys)

    def begin_row(self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace) -> None:
        """Applies the vertical stream to a row, once the rows above are known."""
        self.put_variable("cache", "vertical_rows", self._vertical(x, self._classes(label, len(x)), place, None))

    def step(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace
    ) -> Float[Array, "b {self.num_outputs}"]:
        """Returns the outputs of one element; see `AutoregressiveNetwork`."""
        rows, column = self.get_variable("cache", "vertical_rows"), place.corner[1]

        def pixels(activations: Activations) -> Activations:
            return [
                [jax.lax.dynamic_slice_in_dim(row, column >> s, 1, axis=2) for row in rows_of_s]
                for s, rows_of_s in enumerate(activations)
            ]

        down, up = map(pixels, rows)
        return self._horizontal(x, down, up, self._classes(label, len(x)), place, None)[:, 0, 0, 0]

    def _classes(self, label: Array | None, count: int) -> Array:
        checks.check_optional_label(label, self.num_classes)
        return one_hot(label, self.num_classes, count).astype(self.dtype)

    def _vertical(
        self, x: Array, classes: Array, place: RasterPlace | None, keys: Array | None
    ) -> tuple[Activations, Activations]:
        """Returns the activations of the vertical stream after its blocks, on the way down and on the way up."""
        stream, last = self.vertical, self.resolutions - 1
        places = _places(place, last)
        u = self._first(self.first_above, x, place, axis=0)
        down: Activations = [[] for _ in range(last + 1)]
        up: Activations = [[] for _ in range(last + 1)]
        entries = []
        for s in range(last + 1):
            entries.append(u)
            for block in stream.down[s]:
                u = block(u, None, classes, places[s], keys)
                down[s].append(u)
            u = stream.halve[s](u, places[s]) if s < last else u
        for s in reversed(range(last + 1)):
            seen = [entries[s], *down[s]] if s < last else [entries[s], *down[s][:-1]]
            for block, short_cut in zip(stream.up[s], reversed(seen), strict=True):
                u = block(u, short_cut, classes, places[s], keys)
                up[s].append(u)
            u = stream.double[s - 1](u, places[s - 1]) if s else u
        return down, up

    def _horizontal(
        self,
        x: Array,
        down: Activations,
        up: Activations,
        classes: Array,
        place: RasterPlace | None,
        keys: Array | None,
    ) -> Array:
        """Returns the outputs of the horizontal stream, given the activations of the vertical one."""
        stream, last = self.horizontal, self.resolutions - 1
        places = _places(place, last)
        h = self._first(self.first_row_above, x, place, axis=0) + self._first(self.first_left, x, place, axis=1)
        seen = []
        for s in range(last + 1):
            seen.append(h)
            for block, u in zip(stream.down[s], down[s], strict=True):
                h = block(h, u, classes, places[s], keys)
                seen.append(h)
            h = stream.halve[s](h, places[s]) if s < last else seen.pop()
        for s in reversed(range(last + 1)):
            for block, u in zip(stream.up[s], up[s], strict=True):
                h = block(h, jnp.concatenate([u, seen.pop()], axis=-1), classes, places[s], keys)
            h = stream.double[s - 1](h, places[s - 1]) if s else h
        return self.out(jax.nn.elu(h))[:, :, :, None].astype(jnp.float32)

    def _first(self, conv: ShiftedConv, x: Array, place: RasterPlace | None, *, axis: Literal[0, 1]) -> Array:
        """Applies a first convolution, whose outputs the official code shifts: zeros come in, without the bias."""

        def with_ones(images: Array) -> Array:
            return jnp.concatenate([images, jnp.ones_like(images[..., :1])], axis=-1).astype(self.dtype)

        out = first_conv(conv, with_ones, x, place)
        if place is not None:
            return jnp.where(place.corner[axis] > 0, out, 0.0)
        return out.at[:, 0].set(0.0) if axis == 0 else out.at[:, :, 0].set(0.0)

    def _validate(self) -> None:
        if self.channelwise and self.image_shape[-1] > 1:
            raise ValueError(
                f"PixelCNN++ sees no channel of a pixel of {self.image_shape[-1]} before the others: set "
                "autoregressive.distribution='logistic_mixture', whose elements are pixels."
            )
        if min(self.num_blocks, self.resolutions, self.filters) < 1:
            raise ValueError("model.num_blocks, model.resolutions and model.filters must be at least 1.")
        advice = f"use fewer than {self.resolutions} resolutions (model.resolutions)"
        checks.check_halvings(self.image_shape[:2], self.resolutions - 1, advice=advice)


def _places(place: RasterPlace | None, halvings: int) -> list[RasterPlace | None]:
    """Returns a place at each resolution, from the finest."""
    places = [place]
    for _ in range(halvings):
        places.append(None if place is None else places[-1].halved())  # type: ignore[union-attr]
    return places
