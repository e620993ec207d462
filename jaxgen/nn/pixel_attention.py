"""Self-attention over the pixels of a feature map, of the U-Nets that normalize in groups."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.attention import attend
from jaxgen.nn.block_style import BlockStyle, group_norm
from jaxgen.nn.layers import dense


class PixelAttention(nn.Module):
    """Residual self-attention over pixels (Ho et al. 2020, appendix B); the softmax is in float32."""

    num_heads: int
    style: BlockStyle

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the features plus what attention gathers for each pixel, times `style.skip_scale`.

        Raises:
          ValueError: if the channels cannot be shared equally among the heads.
        """
        (b, h, w, c), s = x.shape, self.style
        if c % self.num_heads:
            raise ValueError(
                f"Attention over {c} channels needs a number of heads that divides them, not {self.num_heads}."
            )
        tokens = group_norm(x, s, name="norm").reshape(b, h * w, c)
        mixed = attend(*self._queries_keys_values(tokens)).reshape(x.shape)
        return (x + dense(mixed, c, s.out_init, name=s.names.out, dtype=s.dtype)) * s.skip_scale

    def _queries_keys_values(self, tokens: Float[Array, "b n c"]) -> list[Float[Array, "b n heads d"]]:
        (b, n, c), s = tokens.shape, self.style
        sizes = {"3": 3, "h": self.num_heads, "d": c // self.num_heads}
        if len(s.names.qkv) == 3:
            parts = (dense(tokens, c, s.qkv_init, name=name, dtype=s.dtype) for name in s.names.qkv)
            return [part.reshape(b, n, sizes["h"], sizes["d"]) for part in parts]
        qkv = dense(tokens, 3 * c, s.qkv_init, name=s.names.qkv[0], dtype=s.dtype)
        qkv = qkv.reshape(b, n, *(sizes[axis] for axis in s.qkv_order))
        return list(jnp.moveaxis(qkv, 2 + s.qkv_order.index("3"), 0))
