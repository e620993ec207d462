"""The denoising MLP of MAR's diffusion loss (Li et al. 2024, section 3.2): of one token, given its vector."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.transformer import Conditioning, FinalLayer, linear, modulation


class TokenDenoiser(nn.Module):
    """Residual blocks on a noisy token, which noise label and condition modulate: adaLN-zero.

    Parameters are float32, computation runs in `dtype`, and the output is float32 and zero at first. The defaults are
    those of MAR-B; depth and width of B, L and H are (6, 1024), (8, 1280) and (12, 1536).

    Attributes:
      out_channels: numbers of the output.
      hidden_size: width.
      depth: number of blocks.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      dtype: type of the computation.
    """

    out_channels: int
    hidden_size: int = 1024
    depth: int = 6
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n c"], noise_label: Float[Array, " n"], condition: Float[Array, "n d"]
    ) -> Float[Array, "n {self.out_channels}"]:
        """Applies the network to noisy tokens, each with its noise label and its condition."""
        emb, _ = Conditioning(self.hidden_size, dtype=self.dtype, name="conditioning")(noise_label, None, None)
        emb += linear(self.hidden_size, self.dtype, "condition")(condition.astype(self.dtype))
        h = linear(self.hidden_size, self.dtype, "token_embedding")(x.astype(self.dtype))[:, None]
        block = nn.remat(ModulatedMLP) if self.remat else ModulatedMLP
        for i in range(self.depth):
            h = block(self.dtype, name=f"block_{i}")(h, emb)
        return FinalLayer(self.out_channels, dtype=self.dtype, name="final")(h, emb)[:, 0].astype(jnp.float32)


class ModulatedMLP(nn.Module):
    """Two linear layers with SiLU between them, beside a residual connection, whose gate starts at zero."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n 1 d"], emb: Float[Array, "n d"]) -> Float[Array, "n 1 d"]:
        """Transforms each token alone."""
        shift, scale, gate = modulation(emb, 3, self.dtype)
        h = nn.LayerNorm(1e-6, self.dtype, name="norm")(x) * (1.0 + scale) + shift
        h = nn.silu(linear(x.shape[-1], self.dtype, "in")(h))
        return x + gate * linear(x.shape[-1], self.dtype, "out")(h)
