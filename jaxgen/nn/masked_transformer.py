"""A bidirectional transformer over tokens of which some are masked (Chang et al. 2022)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.nn.checks import check_optional_label, training_keys
from jaxgen.nn.layers import Dropout
from jaxgen.nn.transformer import FeedForward, SelfAttention

_NORMAL = nn.initializers.truncated_normal(0.02)


class MaskedTransformer(nn.Module):
    """Predicts every token from those that are not masked, by self-attention over all places.

    Normalizations precede the branches (Chang et al. follow BERT, where they come after); positions are learned; the
    class is a token of its own before the others; the last layer shares the table of tokens. Parameters are float32,
    computation runs in `dtype`, logits are float32. The defaults are the paper's.

    Attributes:
      vocabulary: number of tokens; the integer `vocabulary` itself stands for a masked one.
      num_classes: number of classes; 0 for an unconditional network.
      hidden_size: width of the tokens.
      depth: number of blocks.
      num_heads: attention heads.
      mlp_ratio: width of the MLPs relative to `hidden_size`.
      dropout: rate after the embedding and within both branches of each block.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      dtype: type of the computation.
    """

    vocabulary: int
    num_classes: int = 0
    hidden_size: int = 768
    depth: int = 24
    num_heads: int = 8
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b n"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n {self.vocabulary}"]:
        """Returns the logits of every token.

        Args:
          tokens: integers in [0, vocabulary].
          label: classes in [0, num_classes]; `num_classes` is the null token; None means the null token throughout.
          train: whether dropout is on.
          dropout_keys: one key an example; needed when training with dropout, unused otherwise.

        Raises:
          ValueError: if the width, labels or dropout keys do not fit the network.
        """
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}.")
        check_optional_label(label, self.num_classes)
        keys = training_keys(train, self.dropout, dropout_keys)
        table = nn.Embed(self.vocabulary + 1, self.hidden_size, embedding_init=_NORMAL, dtype=self.dtype, name="tokens")
        h = table(tokens)
        h += self.param("positions", _NORMAL, (tokens.shape[1], self.hidden_size)).astype(self.dtype)[None]
        if self.num_classes:
            label = jnp.full(len(tokens), self.num_classes) if label is None else label
            classes = nn.Embed(
                self.num_classes + 1, self.hidden_size, embedding_init=_NORMAL, dtype=self.dtype, name="label"
            )
            h = jnp.concatenate([classes(label)[:, None], h], axis=1)
        h = Dropout(self.dropout, name="dropout")(h, keys)
        block = nn.remat(BidirectionalBlock) if self.remat else BidirectionalBlock
        for i in range(self.depth):
            h = block(self.num_heads, self.mlp_ratio, self.dropout, self.dtype, name=f"block_{i}")(h, keys)
        return self._logits(h[:, -tokens.shape[1] :], table)

    def _logits(self, h: Float[Array, "b n d"], table: nn.Embed) -> Float[Array, "b n v"]:
        h = nn.LayerNorm(dtype=self.dtype, name="norm_out")(h)
        h = nn.gelu(nn.Dense(self.hidden_size, dtype=self.dtype, kernel_init=_NORMAL, name="out")(h))
        h = nn.LayerNorm(dtype=self.dtype, name="norm_logits")(h)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.vocabulary,))
        return table.attend(h)[..., : self.vocabulary].astype(jnp.float32) + bias[None, None]


class BidirectionalBlock(nn.Module):
    """Self-attention and an MLP, each added to what it gets, which is normalized for it.

    Attributes:
      num_heads: attention heads.
      mlp_ratio: width of the MLP relative to the tokens'.
      dropout: rate of the output of attention and of the MLP's hidden units.
      dtype: type of the computation.
      attention_dropout: rate of the weights of attention.
      out_dropout: rate of the MLP's output.
      exact_gelu: use GELU itself, not its approximation by a tanh.
    """

    num_heads: int
    mlp_ratio: float
    dropout: float
    dtype: DTypeLike
    attention_dropout: float = 0.0
    out_dropout: float = 0.0
    exact_gelu: bool = False

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "b n d"],
        dropout_keys: Key[Array, " b"] | None,
        visible: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Applies attention, to the tokens that are `visible`, then the MLP."""
        of_attention = {"dropout": self.dropout, "attention_dropout": self.attention_dropout, "dtype": self.dtype}
        attention = SelfAttention(self.num_heads, **of_attention, name="attention")
        h = h + attention(nn.LayerNorm(dtype=self.dtype, name="norm_0")(h), dropout_keys, visible=visible)
        of_mlp = {"dropout": self.dropout, "out_dropout": self.out_dropout, "exact_gelu": self.exact_gelu}
        mlp = FeedForward(self.mlp_ratio, **of_mlp, dtype=self.dtype, name="mlp")
        return h + mlp(nn.LayerNorm(dtype=self.dtype, name="norm_1")(h), dropout_keys)
