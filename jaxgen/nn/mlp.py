"""A multilayer perceptron, with the ReLU or maxout units and the dropout of the first GANs (Goodfellow et al. 2014)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxgen.nn.layers import Dropout


class MLP(nn.Module):
    """Hidden layers of the given widths, then a linear one.

    Parameters are float32, computation runs in `dtype`, and the output is float32.

    Attributes:
      outputs: length of the output.
      hidden: width of each hidden layer.
      pieces: linear pieces of a maxout unit (Goodfellow et al. 2013); 1 for ReLU units.
      dropout: rate after every hidden layer, drawn from `dropout_keys`.
      dtype: type of the computation.
    """

    outputs: int
    hidden: tuple[int, ...] = (256, 256)
    pieces: int = 1
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *shape"], *, dropout_keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b {self.outputs}"]:
        """Flattens its input and applies the layers; without `dropout_keys`, one key an example, dropout is off."""
        h = x.reshape(x.shape[0], -1).astype(self.dtype)
        for i, features in enumerate(self.hidden):
            h = nn.Dense(features * self.pieces, dtype=self.dtype, name=f"hidden_{i}")(h)
            h = nn.relu(h) if self.pieces == 1 else jnp.max(h.reshape(-1, features, self.pieces), axis=-1)
            h = Dropout(self.dropout, name=f"dropout_{i}")(h, dropout_keys)
        return nn.Dense(self.outputs, dtype=self.dtype, name="out")(h).astype(jnp.float32)
