"""An energy of strided convolutions, the encoder of `conv_autoencoder`, whose gradients are fast on CPUs, too."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.conv_autoencoder import ConvEncoder


class ConvEnergy(nn.Module):
    """Strided 4x4 convolutions, a hidden layer and a linear one to one number; swish between them.

    A shallow network of strided convolutions such as that of Nijkamp et al. 2019, appendix.

    Attributes:
      width, max_width, hidden, base_side, num_classes, dtype: as in `ConvEncoder`; the hidden layer sees the class.
    """

    width: int = 64
    max_width: int = 512
    hidden: int = 256
    base_side: int = 4
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def energies(
        self, images: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Returns the energies of images; see `energy.EnergyNetwork`.

        Raises:
          ValueError: if labels and classes do not go together, or the image does not fit `base_side`.
        """
        del train
        settings = (self.width, self.max_width, self.hidden, self.base_side, self.num_classes, self.dtype)
        return ConvEncoder(1, *settings, name="encoder")(images, label)[:, 0]
