"""JiT, "just image transformers" (Li and He 2025): large patches of pixels, no tokenizer; meant to predict x0."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import Need
from jaxgen.nn import checks, transformer
from jaxgen.nn.transformer import Conditioning, FinalLayer, TransformerBlock

NEEDS = {
    "context_tokens": Need("classes", lambda model: model.num_classes > 0, (0,)),
    "context_start": Need(
        "classes and model.context_tokens", lambda model: model.num_classes * model.context_tokens > 0
    ),
}


class JiT(nn.Module):
    """A transformer over large pixel patches, which enter through a bottleneck of low rank.

    What differs from DiT: RMSNorm, SwiGLU, rotary embeddings, normalized queries and keys, and class tokens that join
    the sequence at block `context_start`. Parameters are float32, computation runs in `dtype`, and the output is
    float32. The defaults are JiT-B/16; depth, width, heads, bottleneck and context_start of B, L and H are
    (12, 768, 12, 128, 4), (24, 1024, 16, 128, 8) and (32, 1280, 16, 256, 10).

    Attributes:
      out_channels: channels of the output.
      num_classes: number of classes; 0 for an unconditional network, which has no class tokens.
      patch_size: height and width of a patch.
      hidden_size: width of the tokens.
      depth: number of blocks.
      num_heads: attention heads.
      bottleneck: rank of the patch embedding.
      mlp_ratio: width of the MLPs relative to `hidden_size`, before SwiGLU's two thirds.
      context_tokens: number of class tokens; 0 for none.
      context_start: the block before which they are prepended.
      dropout: rate within both branches of the middle half of the blocks, drawn from `dropout_keys`.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      dtype: type of the computation.
    """

    out_channels: int
    num_classes: int = 0
    patch_size: int = 16
    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    bottleneck: int = 128
    mlp_ratio: float = 4.0
    context_tokens: int = 32
    context_start: int = 4
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise_label: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
        *,
        vector: Float[Array, "b f"] | None = None,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w {self.out_channels}"]:
        """Applies the network, whose arguments `networks.DiffusionNetwork` describes.

        Noise labels are times in [0, 1].

        Raises:
          ValueError: if image size, width, labels, class tokens or dropout keys do not fit the network.
        """
        self._validate(x, label)
        keys = checks.training_keys(train, self.dropout, dropout_keys)
        conditioning = Conditioning(self.hidden_size, self.num_classes, self.dtype, name="conditioning")
        emb, label_emb = conditioning(noise_label, label, vector)
        grid = (x.shape[1] // self.patch_size, x.shape[2] // self.patch_size)
        h = self._tokens(x, grid)
        angles = jnp.asarray(transformer.rotary_angles(grid, self.hidden_size // self.num_heads))
        for i in range(self.depth):
            if self._has_context and i == self.context_start:
                h = jnp.concatenate([self._context(label_emb), h], axis=1)
                angles = jnp.pad(angles, ((self.context_tokens, 0), (0, 0)))
            h = self._block(i)(h, emb, keys, angles)
        h = h[:, -grid[0] * grid[1] :]
        h = FinalLayer(self.patch_size**2 * self.out_channels, rms_norm=True, dtype=self.dtype, name="final")(h, emb)
        return transformer.unpatchify(h, self.patch_size, grid).astype(jnp.float32)

    def _tokens(self, x: Array, grid: tuple[int, int]) -> Array:
        patches = transformer.patchify(x.astype(self.dtype), self.patch_size)
        h = transformer.linear(self.bottleneck, self.dtype, "bottleneck_embedding", use_bias=False)(patches)
        h = transformer.linear(self.hidden_size, self.dtype, "patch_embedding")(h)
        return h + jnp.asarray(transformer.sincos_positions(grid, self.hidden_size), self.dtype)[None]

    def _context(self, label_emb: Array) -> Array:
        shape = (self.context_tokens, self.hidden_size)
        positions = self.param("context_positions", nn.initializers.normal(0.02), shape)
        return label_emb[:, None, :] + positions.astype(self.dtype)[None]

    def _block(self, i: int) -> TransformerBlock:
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        middle = self.depth <= 4 * i < 3 * self.depth
        return block(
            self.num_heads,
            self.mlp_ratio,
            qk_norm=True,
            rms_norm=True,
            gated=True,
            dropout=self.dropout if middle else 0.0,
            dtype=self.dtype,
            name=f"block_{i}",
        )

    @property
    def _has_context(self) -> bool:
        return self.num_classes > 0 and self.context_tokens > 0

    def _validate(self, x: Array, label: Array | None) -> None:
        transformer.validate(
            x,
            label,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_classes=self.num_classes,
        )
        if self.hidden_size // self.num_heads % 4:
            raise ValueError(
                f"Rotary embeddings need heads of a multiple of 4 channels: with hidden_size={self.hidden_size}, "
                f"num_heads={self.num_heads} leaves {self.hidden_size // self.num_heads}."
            )
        if self._has_context and self.context_start >= self.depth:
            raise ValueError(f"context_start={self.context_start} must be less than depth={self.depth}.")
