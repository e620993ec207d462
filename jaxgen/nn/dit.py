"""The diffusion transformer, DiT (Peebles and Xie 2023); trained by flow matching, it is SiT (Ma et al. 2024)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks, transformer
from jaxgen.nn.transformer import Conditioning, FinalLayer, TransformerBlock


class DiT(nn.Module):
    """A transformer over patches of images or latents, conditioned by adaLN-zero.

    Parameters are float32, computation runs in `dtype`, and the output is float32. The position table is fixed, and
    made for the image at hand. The defaults are DiT-S/2; depth, width and heads of S, B, L and XL are (12, 384, 6),
    (12, 768, 12), (24, 1024, 16) and (28, 1152, 16).

    Attributes:
      out_channels: channels of the output.
      num_classes: number of classes; 0 for an unconditional network.
      patch_size: height and width of a patch.
      hidden_size: width of the tokens.
      depth: number of blocks.
      num_heads: attention heads.
      mlp_ratio: width of the MLPs relative to `hidden_size`.
      qk_norm: normalize queries and keys, which keeps attention stable in low precision (not in the papers).
      dropout: rate within both branches of each block, drawn from `dropout_keys`.
      scan_layers: compile one block and loop over stacked parameters, `blocks` instead of `block_0`, `block_1`, ...
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      dtype: type of the computation.
    """

    out_channels: int
    num_classes: int = 0
    patch_size: int = 2
    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    dropout: float = 0.0
    scan_layers: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise_label: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
        *,
        vector: Float[Array, "b f"] | None = None,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
        deep: Float[Array, "b t d"] | None = None,
    ) -> Float[Array, "b h w {self.out_channels}"]:
        """Applies the network, whose arguments `networks.DiffusionNetwork` and `CachingNetwork` describe.

        Noise labels are timesteps in [0, 1000) for DiT, times in [0, 1] for SiT.

        Raises:
          ValueError: if image size, width, labels or dropout keys do not fit the network.
        """
        keys = checks.training_keys(train, self.dropout, dropout_keys)
        return self._evaluate(x, noise_label, label, vector, keys, deep)[0]

    def deep_features(
        self, x: Float[Array, "b h w c"], noise_label: Float[Array, " b"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b t d"]:
        """Returns the sum of the residual branches of all blocks but the last (Chen et al. 2024, Delta-DiT).

        Raises:
          ValueError: if the blocks cannot be told apart, or there is one alone.
        """
        if self.scan_layers or self.depth < 2:
            raise ValueError(
                f"sampler.cache_interval above 1 needs model.scan_layers=False and a model.depth of at least 2, not "
                f"{self.scan_layers} and {self.depth}: the last block is evaluated without the others."
            )
        return self._evaluate(x, noise_label, label, None, None, None)[1]

    @nn.compact
    def _evaluate(
        self,
        x: Array,
        noise_label: Array,
        label: Array | None,
        vector: Array | None,
        keys: Array | None,
        deep: Array | None,
    ) -> tuple[Array, Array | None]:
        """The output, and what the blocks but the last add to the embedded patches, unless it is given."""
        transformer.validate(
            x,
            label,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_classes=self.num_classes,
        )
        conditioning = Conditioning(self.hidden_size, self.num_classes, self.dtype, name="conditioning")
        emb, _ = conditioning(noise_label, label, vector)
        grid = (x.shape[1] // self.patch_size, x.shape[2] // self.patch_size)
        patches = transformer.patchify(x.astype(self.dtype), self.patch_size)
        embedded = transformer.linear(self.hidden_size, self.dtype, "patch_embedding")(patches)
        embedded += jnp.asarray(transformer.sincos_positions(grid, self.hidden_size), self.dtype)[None]
        if self.scan_layers:
            h = self._scanned(embedded, emb, keys)
        else:
            before = self._unrolled(embedded, emb, keys) if deep is None else embedded + deep
            deep = before - embedded
            h = self._block(f"block_{self.depth - 1}")(before, emb, keys)
        h = FinalLayer(self.patch_size**2 * self.out_channels, dtype=self.dtype, name="final")(h, emb)
        return transformer.unpatchify(h, self.patch_size, grid).astype(jnp.float32), deep

    def _unrolled(self, h: Array, emb: Array, keys: Array | None) -> Array:
        """All blocks but the last."""
        for i in range(self.depth - 1):
            h = self._block(f"block_{i}")(h, emb, keys)
        return h

    def _scanned(self, h: Array, emb: Array, keys: Array | None) -> Array:
        def step(block: TransformerBlock, h: Array, layer: Array) -> tuple[Array, None]:
            return block(h, emb, transformer.layer_keys(keys, layer)), None

        scan = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        return scan(self._block("blocks"), h, jnp.arange(self.depth))[0]

    def _block(self, name: str) -> TransformerBlock:
        # A scan already keeps XLA from merging the recomputation with the forward pass.
        block = nn.remat(TransformerBlock, prevent_cse=not self.scan_layers) if self.remat else TransformerBlock
        return block(
            self.num_heads,
            self.mlp_ratio,
            qk_norm=self.qk_norm,
            dropout=self.dropout,
            dtype=self.dtype,
            name=name,
        )
