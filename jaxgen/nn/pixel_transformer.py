"""Decoder-only transformers over pixels, or over codes of a tokenizer as LlamaGen (Sun et al. 2024)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import images
from jaxgen.nn import checks
from jaxgen.nn.attention import attend
from jaxgen.nn.autoregressive import RasterPlace
from jaxgen.nn.layers import Dropout
from jaxgen.nn.transformer import rotary_angles, rotate

_NORMAL = nn.initializers.normal(0.02)
_RMS_EPS = 1e-5


def rotary_table(
    grid: tuple[int, int], elements: int, head_dim: int
) -> tuple[Float[np.ndarray, "t {head_dim}//2"], Float[np.ndarray, " t"]]:
    """Returns angles and factors of the queries and keys of the class token and of all elements but the last.

    Those of an element are the angles of its pixel, and 1. The class token's query and key are multiplied by 0, as in
    the official code, where the cosines and sines of its row of the table are zero.
    """
    angles = np.repeat(rotary_angles(grid, head_dim), elements, axis=0)[:-1]
    factors = np.ones(len(angles) + 1, np.float32)
    factors[0] = 0.0
    return np.pad(angles, ((1, 0), (0, 0))), factors


class CausalAttention(nn.Module):
    """Self-attention to the element itself and to those before it, with rotated queries and keys; no biases.

    Attributes:
      num_heads: attention heads.
      length: of the sequence, and of the cache.
      dtype: type of the computation.
    """

    num_heads: int
    length: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], angles: Float[Array, "t a"], factors: Float[Array, " t"], number: Array | None
    ) -> Float[Array, "b t d"]:
        """Mixes the elements of a sequence; or the one of a number with those before it, which the cache holds."""
        b, t, d = x.shape
        features = (3, self.num_heads, d // self.num_heads)
        qkv = nn.DenseGeneral(features, use_bias=False, dtype=self.dtype, kernel_init=_NORMAL, name="qkv")(x)
        scaled = factors.astype(self.dtype)[None, :, None, None]
        q, k, v = rotate(qkv[:, :, 0], angles) * scaled, rotate(qkv[:, :, 1], angles) * scaled, qkv[:, :, 2]
        if number is None:
            mixed = attend(q, k, v, is_causal=True)
        else:
            k, v = self._remembered("key", k, number), self._remembered("value", v, number)
            known = (jnp.arange(self.length) <= number)[None, None, None]
            mixed = attend(q, k, v, mask=known)
        out = nn.Dense(d, False, dtype=self.dtype, kernel_init=_NORMAL, name="out")
        return out(mixed.reshape(b, t, d))

    def _remembered(self, name: str, x: Array, number: Array) -> Array:
        cache = self.variable("cache", name, jnp.zeros, (len(x), self.length, *x.shape[2:]), x.dtype)
        cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, x, number, axis=1)
        return cache.value


class DecoderBlock(nn.Module):
    """Attention, then an MLP with SwiGLU (Shazeer 2020), both after RMSNorm and beside a residual connection.

    Attributes:
      num_heads: attention heads.
      length: of the sequence.
      mlp_features: hidden width of the MLP.
      dropout: rate of what is added to the residual stream.
      dtype: type of the computation.
    """

    num_heads: int
    length: int
    mlp_features: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        angles: Float[Array, "t a"],
        factors: Float[Array, " t"],
        number: Array | None,
        keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b t d"]:
        """Applies both, to a sequence or to its element of a number."""
        h = nn.RMSNorm(_RMS_EPS, self.dtype, name="attention_norm")(x)
        h = CausalAttention(self.num_heads, self.length, self.dtype, name="attention")(h, angles, factors, number)
        x += Dropout(self.dropout, name="attention_dropout")(h, keys)
        h = nn.RMSNorm(_RMS_EPS, self.dtype, name="mlp_norm")(x)
        features = (2, self.mlp_features)
        both = nn.DenseGeneral(features, use_bias=False, dtype=self.dtype, kernel_init=_NORMAL, name="mlp_in")(h)
        h = nn.silu(both[:, :, 0]) * both[:, :, 1]
        h = nn.Dense(x.shape[-1], False, dtype=self.dtype, kernel_init=_NORMAL, name="mlp_out")(h)
        return x + Dropout(self.dropout, name="mlp_dropout")(h, keys)


class PixelTransformer(nn.Module):
    """A transformer that predicts each element from a class token and the elements before it.

    Parameters are float32, computation runs in `dtype`, and the output is float32 and zero at first. Levels are tokens
    where channels are elements; otherwise pixels enter through a linear layer. The defaults are LlamaGen-B; depth,
    width and heads of B, L and XL are (12, 768, 12), (24, 1024, 16) and (36, 1280, 20).

    Attributes:
      image_shape: height, width, channels of the images.
      num_outputs: parameters of the distribution of an element.
      channelwise: whether each channel of a pixel is an element of the sequence, or the pixel is.
      levels: number of levels of the images: codes of a tokenizer, as images of one channel.
      num_classes: number of classes; 0 for an unconditional network, which begins with the null token.
      hidden_size: width of the tokens.
      depth: number of blocks.
      num_heads: attention heads.
      multiple_of: the MLP's width is 8/3 of `hidden_size`, rounded up to a multiple of it.
      dropout: rate of tokens, and within each block, drawn from `dropout_keys`.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    num_outputs: int
    channelwise: bool
    levels: int
    num_classes: int = 0
    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    multiple_of: int = 256
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self._validate()
        embed = {"dtype": self.dtype, "embedding_init": _NORMAL}
        linear = {"use_bias": False, "dtype": self.dtype}
        self.classes = nn.Embed(self.num_classes + 1, self.hidden_size, **embed)
        if self.channelwise:
            self.tokens = nn.Embed(self.levels, self.hidden_size, **embed)
        else:
            self.pixels = nn.Dense(self.hidden_size, kernel_init=_NORMAL, dtype=self.dtype)
        if self.elements > 1:
            self.channels = nn.Embed(self.elements, self.hidden_size, **embed)
        width = math.ceil(int(8 * self.hidden_size / 3) / self.multiple_of) * self.multiple_of
        block = nn.remat(DecoderBlock) if self.remat else DecoderBlock
        self.blocks = [block(self.num_heads, self.length, width, self.dropout, self.dtype) for _ in range(self.depth)]
        self.drop = Dropout(self.dropout)
        self.norm = nn.RMSNorm(_RMS_EPS, self.dtype)
        self.out = nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros_init(), **linear)

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
        earlier = self._tokens(self._sequence(x)[:, :-1], jnp.arange(self.length - 1))
        tokens = jnp.concatenate([self._class_token(label, len(x)), earlier], axis=1)
        out = self._outputs(tokens, *self._rotary, None, keys)
        return out.reshape(len(x), *self.image_shape[:2], self.elements, self.num_outputs)

    def begin_row(self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace) -> None:
        """Does nothing: to a sequence, rows are nothing special."""

    def step(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace
    ) -> Float[Array, "b {self.num_outputs}"]:
        """Returns the outputs of one element; see `AutoregressiveNetwork`."""
        number = place.number(self.image_shape[1], self.elements)
        before = jnp.maximum(number - 1, 0)
        value = jax.lax.dynamic_slice_in_dim(self._sequence(x), before, 1, axis=1)
        token = jnp.where(number > 0, self._tokens(value, before[None]), self._class_token(label, len(x)))
        angles, factors = (jax.lax.dynamic_slice_in_dim(table, number, 1) for table in self._rotary)
        return self._outputs(token, angles, factors, number, None)[:, 0]

    @property
    def elements(self) -> int:
        """The number of elements in a pixel."""
        return self.image_shape[-1] if self.channelwise else 1

    @property
    def length(self) -> int:
        """The number of elements in an image, which are as many as the class token and all elements but the last."""
        return math.prod(self.image_shape[:2]) * self.elements

    @property
    def _rotary(self) -> tuple[Array, Array]:
        angles, factors = rotary_table(self.image_shape[:2], self.elements, self.hidden_size // self.num_heads)
        return jnp.asarray(angles), jnp.asarray(factors)

    def _sequence(self, x: Array) -> Array:
        """Returns the levels of all elements [b, t], or their values [b, t, c] where pixels are elements."""
        return (
            images.indices(x, self.levels).reshape(len(x), -1)
            if self.channelwise
            else x.reshape(len(x), self.length, -1)
        )

    def _tokens(self, values: Array, numbers: Array) -> Array:
        """Returns the tokens of elements of some numbers."""
        if not self.channelwise:
            return self.pixels(values.astype(self.dtype))
        tokens = self.tokens(values)
        return tokens + self.channels(numbers % self.elements)[None] if self.elements > 1 else tokens

    def _class_token(self, label: Array | None, count: int) -> Array:
        checks.check_optional_label(label, self.num_classes)
        return self.classes(jnp.full(count, self.num_classes) if label is None else label)[:, None]

    def _outputs(self, tokens: Array, angles: Array, factors: Array, number: Array | None, keys: Array | None) -> Array:
        h = self.drop(tokens, keys)
        for block in self.blocks:
            h = block(h, angles, factors, number, keys)
        return self.out(self.norm(h)).astype(jnp.float32)

    def _validate(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 4:
            raise ValueError(
                f"model.hidden_size is {self.hidden_size}, but must be a multiple of 4 * num_heads, "
                f"{4 * self.num_heads}, for rotary embeddings of rows and columns."
            )
        if self.multiple_of < 1:
            raise ValueError(f"model.multiple_of is {self.multiple_of}, but must be at least 1.")
