"""The neural spline flow of images (Durkan et al. 2019): Glow's steps with spline couplings."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks
from jaxgen.nn.coupling_net import CouplingNet
from jaxgen.nn.flow_layers import (
    ActNorm,
    ConditionalPrior,
    FlowLayer,
    FlowLevel,
    InvertibleConv,
    check_numbers,
    latent_shape,
    multi_scale,
    squeeze,
    standard_prior,
)
from jaxgen.nn.spline_coupling import SplineCoupling


class SplineFlow(nn.Module):
    """Levels of steps of activation normalization, 1x1 convolution and spline coupling.

    Attributes:
      image_shape: height, width, channels of the images.
      num_classes: number of classes that the couplings are conditioned on; 0 for none.
      levels: number of levels; each of them halves height and width.
      steps: number of steps in each level.
      width: channels within the couplings' networks.
      blocks: residual blocks in each of them.
      bins: bins of each spline.
      bound: splines transform the interval [-bound, bound].
      split_prior: whether the latents that a level gives away have a Gaussian prior given the channels that it keeps,
        as in Glow, rather than a standard normal one.
      dropout: rate in the couplings' networks.
      dtype: type of the couplings' networks.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    levels: int = 3
    steps: int = 7
    width: int = 96
    blocks: int = 3
    bins: int = 4
    bound: float = 3.0
    split_prior: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def check(self) -> None:
        """Refuses images that cannot be halved so often, and numbers that are out of range.

        Raises:
          ValueError: says what is allowed.
        """
        check_numbers(self, "levels", "steps", "width", "blocks", "bins")
        if not self.bound > 0.0:
            raise ValueError(f"model.bound is {self.bound}, but must be positive.")
        checks.check_halvings(self.image_shape[:2], self.levels, advice="use fewer model.levels")

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
        last = i == self.levels - 1
        shape = latent_shape(self.image_shape, i, last=last)
        channels = shape[-1] // 2 if last else shape[-1]  # half of those in the level's steps
        chain: list[FlowLayer] = [squeeze]
        for j in range(self.steps):
            net = self._net(channels * (3 * self.bins - 1))
            name = f"level_{i}_step_{j}"
            chain += [
                ActNorm(name=f"{name}_norm"),
                InvertibleConv(lu=True, name=f"{name}_mix"),
                SplineCoupling(net, self.bins, self.bound, name=f"{name}_coupling"),
            ]
        if last or not self.split_prior:
            return FlowLevel(chain, standard_prior, shape)
        return FlowLevel(chain, ConditionalPrior(self._net(2 * channels), name=f"level_{i}_prior"), shape)

    def _net(self, outputs: int) -> CouplingNet:
        return CouplingNet(outputs, self.width, self.blocks, self.dropout, self.dtype, parent=None)
