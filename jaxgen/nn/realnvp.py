"""RealNVP (Dinh et al. 2017): affine couplings with checkerboard and channel-wise masks, at several scales."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks
from jaxgen.nn.coupling_net import CouplingNet
from jaxgen.nn.flow_layers import (
    ActNorm,
    FlowLayer,
    FlowLevel,
    MaskedCoupling,
    check_numbers,
    latent_shape,
    multi_scale,
    squeeze,
    standard_prior,
)


class RealNVP(nn.Module):
    """RealNVP; a level has as many couplings of either mask, the last one a checkerboard more alone (section 3.6).

    The paper's batch normalization makes an image's likelihood depend on its batch, so that activation normalization
    has its place. Networks of couplings see the class.

    Attributes:
      image_shape: height, width, channels of the images.
      num_classes: number of classes that the couplings are conditioned on; 0 for none.
      levels: number of scales; each but the last one halves height and width, and gives half of its channels away.
      couplings: number of couplings of either mask in a level.
      width: channels within the couplings' networks at the first level, doubled from level to level.
      blocks: residual blocks in each of them.
      actnorm: whether activation normalization follows each coupling.
      dropout: rate in the couplings' networks, which the paper does not have.
      dtype: type of the couplings' networks.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    levels: int = 2
    couplings: int = 3
    width: int = 64
    blocks: int = 8
    actnorm: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def check(self) -> None:
        """Refuses images that cannot be halved so often, and numbers that are not positive.

        Raises:
          ValueError: says what is allowed.
        """
        check_numbers(self, "levels", "couplings", "width", "blocks")
        checks.check_halvings(self.image_shape[:2], self.levels - 1, advice="use fewer model.levels")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ..."],
        label: Int[Array, " b"] | None = None,
        *,
        dropout_keys: Key[Array, " b"] | None = None,
        inverse: bool = False,
    ) -> tuple[Float[Array, "b ..."], Float[Array, " b"]]:
        """Returns latents and log |det|, as `FlowNetwork` says; with `inverse`, images of latents, and zeros."""
        return multi_scale(self, [self._level(i) for i in range(self.levels)], x, label, dropout_keys, inverse=inverse)

    def inverse(self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None = None) -> Float[Array, "b h w c"]:
        """Returns the images of latents."""
        return self(latents, label, inverse=True)[0]

    def _level(self, i: int) -> FlowLevel:
        last, channels = i == self.levels - 1, self.image_shape[-1] * 2**i
        shape = latent_shape(self.image_shape, i, last=last, squeezed=not last)
        chain: list[FlowLayer] = []
        for j in range(self.couplings + last):
            chain += self._coupling(i, f"checkerboard_{j}", channels, j % 2)
        if not last:
            chain.append(squeeze)
            for j in range(self.couplings):
                chain += self._coupling(i, f"channels_{j}", 4 * channels, j % 2)
        return FlowLevel(chain, standard_prior, shape)

    def _coupling(self, level: int, name: str, channels: int, parity: int) -> list[FlowLayer]:
        net = CouplingNet(2 * channels, self.width * 2**level, self.blocks, self.dropout, self.dtype, parent=None)
        name, mask = f"level_{level}_{name}", "checkerboard" if "checkerboard" in name else "channels"
        norm = [ActNorm(name=f"{name}_norm")] if self.actnorm else []
        return [MaskedCoupling(net, mask, parity, name=name), *norm]
