"""The masked autoencoder of MAR (Li et al. 2024): an encoder of visible tokens, a decoder of all (He et al. 2022)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.nn.checks import check_optional_label, training_keys
from jaxgen.nn.masked_transformer import BidirectionalBlock
from jaxgen.nn.transformer import linear

_NORMAL = nn.initializers.normal(0.02)
_EPS = 1e-6


class MaskedAutoencoder(nn.Module):
    """Computes for every token of real numbers a vector that depends on the visible tokens and on the class.

    The sequence begins with a buffer of copies of the class's vector, which are always visible. Positions are learned.
    Parameters are float32, computation runs in `dtype`, and the output is float32. The defaults are MAR-B; depth, width
    and heads of B, L and H are (12, 768, 12), (16, 1024, 16) and (20, 1280, 16).

    Attributes:
      num_classes: number of classes; 0 for an unconditional network, whose buffer holds the null class.
      buffer_size: number of copies of the class's vector.
      hidden_size: width of the tokens.
      depth: number of blocks of the encoder, and of the decoder.
      num_heads: attention heads.
      mlp_ratio: width of the MLPs relative to `hidden_size`.
      attention_dropout: rate of the weights of attention.
      dropout: rate of the outputs of attention, and of the hidden units and outputs of the MLPs.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      dtype: type of the computation.
    """

    num_classes: int = 0
    buffer_size: int = 64
    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    attention_dropout: float = 0.1
    dropout: float = 0.1
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        label: Int[Array, " b"] | None = None,
        *,
        max_visible: int | None = None,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n {self.hidden_size}"]:
        """Returns the vectors of all tokens.

        Args:
          tokens: real numbers; those of masked tokens have no effect.
          mask: whether a token is masked.
          label: classes in [0, num_classes]; `num_classes` is the null token; None means the null token throughout.
          max_visible: the largest number of visible tokens of an image, which the encoder is as long as; None for n.
          train: whether dropout is on.
          dropout_keys: one key an example; needed when training with dropout, unused otherwise.

        Raises:
          ValueError: if the sizes, labels or dropout keys do not fit the network.
        """
        self._validate(label)
        keys = training_keys(train, max(self.attention_dropout, self.dropout), dropout_keys)
        # The visible tokens of an image, as many as there may be: some that are masked follow those of it.
        order = jnp.argsort(mask, axis=1, stable=True)
        kept = order[:, : tokens.shape[1] if max_visible is None else max(max_visible, 1)]
        h = self._encoded(tokens, label, kept, ~jnp.take_along_axis(mask, kept, axis=1), keys)
        slots = jnp.minimum(jnp.argsort(order, axis=1), kept.shape[1] - 1)
        return self._decoded(h, mask, slots, keys).astype(jnp.float32)

    def _encoded(self, tokens: Array, label: Array | None, kept: Array, visible: Array, keys: Array | None) -> Array:
        """Returns the vectors of the buffer and of the tokens at the places `kept`, of which some are visible."""
        x = linear(self.hidden_size, self.dtype, "token_embedding")(tokens.astype(self.dtype))
        label = jnp.full(len(x), self.num_classes) if label is None else label
        classes = nn.Embed(self.num_classes + 1, self.hidden_size, self.dtype, embedding_init=_NORMAL, name="label")
        buffer = jnp.broadcast_to(classes(label)[:, None], (len(x), self.buffer_size, self.hidden_size))
        x = self._with_positions(jnp.concatenate([buffer, x], axis=1), "encoder_positions")
        x = nn.LayerNorm(_EPS, self.dtype, name="norm_in")(x)
        buffer, x = x[:, : self.buffer_size], x[:, self.buffer_size :]
        x = jnp.concatenate([buffer, jnp.take_along_axis(x, kept[..., None], axis=1)], axis=1)
        visible = jnp.pad(visible, ((0, 0), (self.buffer_size, 0)), constant_values=True)
        return nn.LayerNorm(_EPS, self.dtype, name="encoder_norm")(self._blocks("encoder", x, keys, visible))

    def _decoded(self, x: Array, mask: Array, slots: Array, keys: Array | None) -> Array:
        """Returns the vectors of all tokens; that of a visible one was at `slots` in the encoder, behind the buffer."""
        x = linear(self.hidden_size, self.dtype, "decoder_embedding")(x)
        buffer, x = x[:, : self.buffer_size], x[:, self.buffer_size :]
        mask_token = self.param("mask_token", _NORMAL, (self.hidden_size,)).astype(self.dtype)
        x = jnp.where(mask[..., None], mask_token[None, None], jnp.take_along_axis(x, slots[..., None], axis=1))
        x = self._with_positions(jnp.concatenate([buffer, x], axis=1), "decoder_positions")
        x = nn.LayerNorm(_EPS, self.dtype, name="decoder_norm")(self._blocks("decoder", x, keys, None))
        return self._with_positions(x[:, self.buffer_size :], "output_positions")

    def _with_positions(self, x: Array, name: str) -> Array:
        return x + self.param(name, _NORMAL, x.shape[1:]).astype(self.dtype)[None]

    def _blocks(self, name: str, x: Array, keys: Array | None, visible: Array | None) -> Array:
        block = nn.remat(BidirectionalBlock) if self.remat else BidirectionalBlock
        sizes = (self.num_heads, self.mlp_ratio, self.dropout, self.dtype, self.attention_dropout, self.dropout)
        for i in range(self.depth):
            x = block(*sizes, exact_gelu=True, name=f"{name}_{i}")(x, keys, visible)
        return x

    def _validate(self, label: Array | None) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}.")
        if self.buffer_size < 1:
            raise ValueError(f"buffer_size is {self.buffer_size}, but must be at least 1: it holds the class.")
        check_optional_label(label, self.num_classes)
