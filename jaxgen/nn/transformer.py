"""Layers of the diffusion transformers: patches, fixed position tables, conditioning, attention, adaLN-zero blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core import keys as keylib
from jaxgen.nn.attention import attend
from jaxgen.nn.checks import check_optional_label
from jaxgen.nn.layers import Dropout, frequency_embedding

_XAVIER = nn.initializers.xavier_uniform()
_ZEROS = nn.initializers.zeros_init()
_NORMAL = nn.initializers.normal(0.02)


def patchify(x: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b n d"]:
    """Cuts images into square patches, row by row, each flattened as [patch_size, patch_size, c]."""
    b, h, w, c = x.shape
    p = patch_size
    patches = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)
    return patches.reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(tokens: Float[Array, "b n d"], patch_size: int, grid: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Returns the images of `grid` = (rows, columns) patches: the inverse of `patchify`."""
    (rows, columns), p = grid, patch_size
    patches = tokens.reshape(len(tokens), rows, columns, p, p, -1).swapaxes(2, 3)
    return patches.reshape(len(tokens), rows * p, columns * p, patches.shape[-1])


def sincos_positions(grid: tuple[int, int], dim: int) -> Float[np.ndarray, "n {dim}"]:
    """Returns the fixed position table of DiT: the first half of `dim` encodes the column, the second the row.

    Each half holds dim/4 sines, then dim/4 cosines, of the position times 10000^(-4i/dim).
    """
    rows, columns = np.indices(grid).reshape(2, -1)
    freqs = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))
    angles = [positions[:, None] * freqs[None, :] for positions in (columns, rows)]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def rotary_angles(grid: tuple[int, int], head_dim: int) -> Float[np.ndarray, "n {head_dim}//2"]:
    """Returns angles of 2-D rotary embeddings: head_dim/4 grow with the row, then as many with the column."""
    freqs = 10_000.0 ** (-np.arange(head_dim // 4) / (head_dim // 4))
    rows_and_columns = np.indices(grid).reshape(2, -1)
    return np.concatenate([p[:, None] * freqs[None, :] for p in rows_and_columns], axis=1).astype(np.float32)


def rotate(x: Float[Array, "b n heads d"], angles: Float[Array, "n d//2"]) -> Float[Array, "b n heads d"]:
    """Rotates each pair of adjacent channels by its token's angle (RoFormer, Su et al. 2021, section 3.2)."""
    cos, sin = (f(angles)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    first, second = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def linear(features: int, dtype: DTypeLike, name: str, *, zero_init: bool = False, use_bias: bool = True) -> nn.Dense:
    """Returns a linear layer with DiT's initialization: Xavier uniform, or zero for a branch that starts at zero."""
    return nn.Dense(features, use_bias, dtype=dtype, kernel_init=_ZEROS if zero_init else _XAVIER, name=name)


class Conditioning(nn.Module):
    """The sum of the embeddings of noise label, class and further conditioning, which modulates every block."""

    hidden_size: int
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, noise_label: Float[Array, " b"], label: Int[Array, " b"] | None, vector: Float[Array, "b f"] | None
    ) -> tuple[Float[Array, "b {self.hidden_size}"], Float[Array, "b {self.hidden_size}"]]:
        """Returns the sum, and the class's part of it alone, which is zero where there are no classes."""
        emb = frequency_embedding(noise_label).astype(self.dtype)
        for i in range(2):
            emb = nn.Dense(self.hidden_size, dtype=self.dtype, kernel_init=_NORMAL, name=f"time_{i}")(emb)
            emb = nn.silu(emb) if i == 0 else emb
        label_emb = jnp.zeros_like(emb)
        if self.num_classes:
            label = jnp.full(noise_label.shape, self.num_classes) if label is None else label
            table = nn.Embed(
                self.num_classes + 1, self.hidden_size, dtype=self.dtype, embedding_init=_NORMAL, name="label"
            )
            label_emb = table(label)
        if vector is not None:
            emb += linear(self.hidden_size, self.dtype, "vector", use_bias=False)(vector)
        return emb + label_emb, label_emb


class SelfAttention(nn.Module):
    """Self-attention over tokens; queries and keys are normalized if `qk_norm`, and rotated if there are angles.

    Dropout is of the output, `attention_dropout` of the weights of tokens.
    """

    num_heads: int
    qk_norm: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention_dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        dropout_keys: Key[Array, " b"] | None = None,
        angles: Float[Array, "n a"] | None = None,
        visible: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Mixes tokens; `angles` are those of `rotary_angles`. The tokens that are not `visible` have no weight."""
        b, n, d = x.shape
        # Heads have an axis of their own, so that they can be split over devices.
        features = (3, self.num_heads, d // self.num_heads)
        qkv = nn.DenseGeneral(features, dtype=self.dtype, kernel_init=_XAVIER, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:
            q, k = (nn.RMSNorm(1e-6, self.dtype, name=name)(h) for h, name in ((q, "q_norm"), (k, "k_norm")))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        mask = None if visible is None else visible[:, None, None]
        if self.attention_dropout > 0.0 and dropout_keys is not None:
            mixed = self._mixed_by_some(q, k, v, mask, dropout_keys)
        else:
            mixed = attend(q, k, v, mask=mask)
        out = linear(d, self.dtype, "out")(mixed.reshape(b, n, d))
        return Dropout(self.dropout, name="dropout")(out, dropout_keys)

    def _mixed_by_some(self, q: Array, k: Array, v: Array, mask: Array | None, dropout_keys: Array) -> Array:
        """Mixes values after dropout of the weights; these are float32 before the softmax, as without dropout."""
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(logits, where=mask).astype(v.dtype)
        weights = Dropout(self.attention_dropout, name="attention_dropout")(weights, dropout_keys)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, or, gated, with SwiGLU (Shazeer 2020) at two thirds of the width.

    Dropout is of the hidden units, `out_dropout` of the output. GELU is approximated by a tanh unless `exact_gelu`.
    """

    ratio: float = 4.0
    gated: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    out_dropout: float = 0.0
    exact_gelu: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], dropout_keys: Key[Array, " b"] | None = None) -> Float[Array, "b n d"]:
        """Transforms each token alone."""
        width = int(x.shape[-1] * self.ratio)
        if self.gated:
            features = (2, 2 * width // 3)
            both = nn.DenseGeneral(features, dtype=self.dtype, kernel_init=_XAVIER, name="in")(x)
            h = nn.silu(both[:, :, 0]) * both[:, :, 1]
        else:
            h = nn.gelu(linear(width, self.dtype, "in")(x), approximate=not self.exact_gelu)
        out = linear(x.shape[-1], self.dtype, "out")(Dropout(self.dropout, name="dropout")(h, dropout_keys))
        return Dropout(self.out_dropout, name="out_dropout")(out, dropout_keys)


class TransformerBlock(nn.Module):
    """A transformer block whose normalizations and residual branches a conditioning vector modulates: adaLN-zero.

    Both branches are multiplied by gates that start at zero, so that the block starts as the identity (Peebles and Xie
    2023, section 3.2).

    Attributes:
      num_heads: attention heads.
      mlp_ratio: width of the MLP relative to the tokens'.
      qk_norm: normalize queries and keys by their root mean square.
      rms_norm: normalize tokens by RMSNorm with a learned scale, instead of LayerNorm without.
      gated: use SwiGLU instead of GELU.
      dropout: rate within both branches.
      dtype: type of the computation.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    rms_norm: bool = False
    gated: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        emb: Float[Array, "b d"],
        dropout_keys: Key[Array, " b"] | None = None,
        angles: Float[Array, "n a"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Applies attention, then the MLP."""
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = modulation(emb, 6, self.dtype)
        h = _norm("norm_0", self.rms_norm, self.dtype)(x) * (1.0 + scale_0) + shift_0
        attention = SelfAttention(self.num_heads, self.qk_norm, self.dropout, self.dtype, name="attention")
        x += gate_0 * attention(h, dropout_keys, angles)
        h = _norm("norm_1", self.rms_norm, self.dtype)(x) * (1.0 + scale_1) + shift_1
        mlp = FeedForward(self.mlp_ratio, self.gated, self.dropout, self.dtype, name="mlp")
        return x + gate_1 * mlp(h, dropout_keys)


class FinalLayer(nn.Module):
    """A modulated normalization and a linear layer, both zero at first."""

    features: int
    rms_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], emb: Float[Array, "b d"]) -> Float[Array, "b n {self.features}"]:
        """Maps tokens to patches."""
        shift, scale = modulation(emb, 2, self.dtype)
        x = _norm("norm", self.rms_norm, self.dtype)(x) * (1.0 + scale) + shift
        return linear(self.features, self.dtype, "linear", zero_init=True)(x)


def validate(
    x: Array, label: Array | None, *, patch_size: int, hidden_size: int, num_heads: int, num_classes: int
) -> None:
    """Checks that images and labels fit a transformer, and its width the position tables and heads.

    Raises:
      ValueError: says what does not fit.
    """
    if x.shape[1] % patch_size or x.shape[2] % patch_size:
        raise ValueError(
            f"Images of {x.shape[1]}x{x.shape[2]} pixels cannot be cut into patches of patch_size={patch_size}: both "
            "sides must be multiples of it."
        )
    if hidden_size % 4 or hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} must be a multiple of 4 and of num_heads={num_heads}.")
    check_optional_label(label, num_classes)


def layer_keys(dropout_keys: Array | None, layer: int | Array) -> Array | None:
    """Returns the dropout keys of one of several layers that share parameter paths."""
    return None if dropout_keys is None else keylib.fold_each(dropout_keys, layer)


def modulation(emb: Array, parts: int, dtype: DTypeLike) -> list[Array]:
    """Returns shifts, scales and gates for all tokens of an example; to be called in a compact module."""
    shifts = linear(parts * emb.shape[-1], dtype, "modulation", zero_init=True)(nn.silu(emb))
    return jnp.split(shifts[:, None, :], parts, axis=-1)


def _norm(name: str, rms_norm: bool, dtype: DTypeLike) -> nn.Module:
    if rms_norm:
        return nn.RMSNorm(1e-6, dtype, name=name)
    return nn.LayerNorm(1e-6, dtype, use_bias=False, use_scale=False, name=name)
