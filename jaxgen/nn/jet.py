"""Jet (Kolesnikov et al. 2024): affine couplings of patches by vision transformers, at one resolution."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.flow_layers import FlowContext, affine, check_numbers, context_of, through
from jaxgen.nn.flow_transformer import FlowTransformerLayer, check_tokens, projection, token_norm
from jaxgen.nn.transformer import patchify, unpatchify

Tokens = Float[Array, "b n d"]
SpatialSplit = Literal["checkerboard", "columns", "rows"]
"""The patches that are kept: those of one color of a checkerboard, or every second column or row."""

_SCALE_FACTOR = 2.0


class JetNet(nn.Module):
    """A vision transformer from tokens to two outputs of the same shape as its input, which are zero at first.

    Attributes:
      width, depth, num_heads: of the transformer.
      dropout: rate within its layers.
      dtype: type of the computation.
    """

    width: int
    depth: int
    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, context: FlowContext) -> tuple[Tokens, Tokens]:
        """Applies the network."""
        dim = x.shape[-1]
        h = projection(self.width, dim, self.dtype, "in")(x.astype(self.dtype))
        positions = nn.initializers.normal(1.0 / math.sqrt(self.width))
        h += self.param("position_embedding", positions, (x.shape[1], self.width)).astype(self.dtype)[None]
        if context.classes is not None:
            of_class = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="class")(context.classes)
            h += of_class[:, None, :]
        for i in range(self.depth):
            layer = FlowTransformerLayer(
                self.num_heads, causal=False, dropout=self.dropout, dtype=self.dtype, name=f"layer_{i}"
            )
            h, _ = layer(h, context.dropout_keys)
        zeros = nn.initializers.zeros_init()
        out = nn.Dense(2 * dim, dtype=self.dtype, kernel_init=zeros, name="out")(token_norm(h, "norm", self.dtype))
        shift, raw = jnp.split(out.astype(jnp.float32), 2, axis=-1)
        return shift, raw


class JetCoupling(nn.Module):
    """A coupling of tokens, half of whose values are kept: (x + shift) * 2 sigmoid(h) of the others.

    Attributes:
      net: of the kept values.
      kept: places that are kept, then all others; of tokens or, with `channels`, of values in a token.
      channels: whether tokens are split, rather than their sequence.
    """

    net: nn.Module
    kept: tuple[int, ...]
    channels: bool

    @nn.compact
    def __call__(self, x: Tokens, context: FlowContext, *, inverse: bool = False) -> tuple[Tokens, Float[Array, " b"]]:
        """Applies the coupling, or its inverse."""
        axis, order = 2 if self.channels else 1, np.array(self.kept)
        first, second = jnp.split(jnp.take(x, order, axis=axis), 2, axis=axis)
        shift, raw = self.net(first, context)
        log_scale = jax.nn.log_sigmoid(raw) + math.log(_SCALE_FACTOR)
        second, log_det = affine(second, shift, log_scale, shift_first=True, inverse=inverse)
        merged = jnp.concatenate([first, second], axis=axis)
        return jnp.take(merged, np.argsort(order), axis=axis), log_det


class Jet(nn.Module):
    """Jet, without the paper's unused variants: all latents are those of the last coupling.

    Of each five couplings, four split the values of patches by a fixed random permutation, and one the patches. Unlike
    in the official code, a transformer sees half of the patches then, not as many as there are, of half the length.

    Attributes:
      image_shape: height, width, channels of the images.
      num_classes: number of classes that the couplings are conditioned on; 0 for none.
      patch_size: height and width of a patch.
      couplings: number of couplings.
      channel_couplings: couplings that split values between two that split patches.
      width: of the transformers.
      depth: number of layers of each.
      num_heads: attention heads.
      dropout: rate within the layers, which the paper does not have.
      dtype: type of the transformers.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    patch_size: int = 4
    couplings: int = 32
    channel_couplings: int = 4
    width: int = 512
    depth: int = 2
    num_heads: int = 8
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def check(self) -> None:
        """Refuses images that cannot be cut into an even number of patches, and fields that are out of range.

        Raises:
          ValueError: says what is allowed.
        """
        check_numbers(self, "couplings", "channel_couplings", "width", "depth", "num_heads")
        check_tokens(
            self.image_shape,
            patch_size=self.patch_size,
            width=self.width,
            num_heads=self.num_heads,
            heads_by=f"model.num_heads={self.num_heads}",
        )
        rows, columns = self._grid
        if rows % 2 or columns % 2 or math.prod(self.image_shape) // (rows * columns) % 2:
            raise ValueError(
                f"Images {self.image_shape} have {rows}x{columns} patches of {self.patch_size}x{self.patch_size}, but "
                "need an even number of rows, of columns, and of values in a patch: choose another model.patch_size."
            )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ..."],
        label: Int[Array, " b"] | None = None,
        *,
        dropout_keys: Key[Array, " b"] | None = None,
        inverse: bool = False,
    ) -> tuple[Float[Array, "b ..."], Float[Array, " b"]]:
        """Returns latents and log |det|, as `FlowNetwork` says; with `inverse`, images of latents, and log |det|."""
        rows, columns = self._grid
        context = context_of(self, label, dropout_keys, len(x))
        chain = [self._coupling(i) for i in range(self.couplings)]
        tokens = x.reshape(len(x), rows * columns, -1) if inverse else patchify(x, self.patch_size)
        tokens, log_det = through(chain, tokens, context, inverse=inverse)
        if inverse:
            return unpatchify(tokens, self.patch_size, self._grid), log_det
        return tokens.reshape(len(x), -1), log_det

    def inverse(self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None = None) -> Float[Array, "b h w c"]:
        """Returns the images of latents."""
        return self(latents, label, inverse=True)[0]

    @property
    def _grid(self) -> tuple[int, int]:
        height, width, _ = self.image_shape
        return height // self.patch_size, width // self.patch_size

    def _coupling(self, i: int) -> JetCoupling:
        net = JetNet(self.width, self.depth, self.num_heads, self.dropout, self.dtype, parent=None)
        period = self.channel_couplings + 1
        name = f"coupling_{i}"
        if i % period < self.channel_couplings:
            dim = self.image_shape[-1] * self.patch_size**2
            order = np.random.default_rng(i).permutation(dim)
            return JetCoupling(net, tuple(map(int, order)), channels=True, name=name)
        splits: tuple[SpatialSplit, ...] = ("checkerboard", "columns", "rows")
        number = i // period
        order = spatial_order(self._grid, splits[number // 2 % 3], parity=number % 2)
        return JetCoupling(net, tuple(map(int, order)), channels=False, name=name)


def spatial_order(grid: tuple[int, int], split: SpatialSplit, *, parity: int) -> Int[np.ndarray, " n"]:
    """Returns the places of patches that are kept, then of all others; parity 1 exchanges the two."""
    rows, columns = np.indices(grid).reshape(2, -1)
    color = {"checkerboard": rows + columns, "columns": columns, "rows": rows}[split]
    return np.argsort((color + parity) % 2, kind="stable")
