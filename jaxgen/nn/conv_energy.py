"""An energy of strided convolutions: the encoder of `conv_autoencoder`."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.checks import check_required_label
from jaxgen.nn.conv_autoencoder import ConvEncoder


class ConvEnergy(nn.Module):
    """Strided 4x4 convolutions and a hidden layer with swish, to an energy for each class (Grathwohl et al. 2020).

    The energy of an image of a class is a linear function of the hidden layer, as it is a classifier's logit, negative,
    in the paper.

    Attributes:
      width, max_width, hidden, base_side, dtype: as in `ConvEncoder`.
      num_classes: number of classes; 0 for an unconditional energy.
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
        check_required_label(label, self.num_classes)
        outputs, settings = max(self.num_classes, 1), (self.width, self.max_width, self.hidden, self.base_side)
        energies = ConvEncoder(outputs, *settings, dtype=self.dtype, name="encoder")(images)
        if label is None:
            return energies[:, 0]
        return jnp.take_along_axis(energies, label[:, None], axis=1)[:, 0]
