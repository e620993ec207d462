"""The last layers of discriminators: from features to a logit and to what tells classes apart."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.core.config import Need, Needs
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.checks import check_optional_label, check_required_label
from jaxgen.nn.layers import GLOROT
from jaxgen.nn.spectral_norm import PowerIteration, SpectralDense, SpectralEmbed, unit_norm

Conditioning: TypeAlias = Literal["none", "projection", "classifier", "cosine"]
"""The use that a discriminator makes of classes, where there are any.

- `none`: no use; images are discriminated whatever their class.
- `projection`: the logit has the inner product of the features and a vector of the class added (Miyato and Koyama 2018,
  eq. 5).
- `classifier`: scores for each class (AC-GAN, Odena et al. 2017; also those of a multi-class hinge loss).
- `cosine`: an embedding of unit norm, and its cosines with a vector of unit norm for each class (ReACGAN, Kang et al.
  2021, eq. 6).
"""

NEEDS_OF_CONDITIONING: Needs = {
    "conditioning": Need("classes (gan.class_conditional=True)", lambda network: network.num_classes > 0, ("none",)),
    "embedding_dim": Need(
        "conditioning='cosine' and classes",
        lambda network: network.num_classes > 0 and network.conditioning == "cosine",
    ),
}
"""The needs of the fields `conditioning` and `embedding_dim` of a discriminator that ends in a `CriticHead`."""


class CriticHead(nn.Module):
    """Linear layers from the features of an image to a `Critique`.

    Attributes:
      num_classes: number of classes; 0 for an unconditional discriminator.
      conditioning: the use of classes; without effect if there are none.
      embedding_dim: length of the embedding of `cosine`.
      power_iteration: the convention of spectral normalization; None for none.
      kernel_init: initializer of all layers and tables.
      use_bias: whether the logit and the embedding have a bias; scores of classes have none.
      dtype: type of the computation; results are float32.
    """

    num_classes: int = 0
    conditioning: Conditioning = "projection"
    embedding_dim: int = 512
    power_iteration: PowerIteration | None = None
    kernel_init: nn.initializers.Initializer = GLOROT.kernel()
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b d"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Critique:
        """Maps features to logits, and to scores of the classes or an embedding, as `conditioning` says.

        Raises:
          ValueError: if the projection lacks labels, there are labels but no classes, or the embedding has no length.
        """
        conditioning = self.conditioning if self.num_classes else "none"
        check_optional_label(label, self.num_classes)
        logits = self._dense(features, 1, "out", train, use_bias=self.use_bias)[:, 0]
        critique = Critique(logits, features.astype(jnp.float32))
        if conditioning == "projection":
            return critique._replace(logits=logits + self._projection(critique.features, label, train))
        if conditioning == "classifier":
            return critique._replace(classes=self._dense(features, self.num_classes, "classes", train, use_bias=False))
        if conditioning == "cosine":
            embedding = self._embedding(features, train)
            proxies = unit_norm(self._table(self.embedding_dim, "proxies")(None, train=train))
            return critique._replace(classes=embedding @ proxies.T, embedding=embedding)
        return critique

    def _projection(
        self, features: Float[Array, "b d"], label: Int[Array, " b"] | None, train: bool
    ) -> Float[Array, " b"]:
        check_required_label(label, self.num_classes)
        return jnp.sum(self._table(features.shape[-1], "label")(label, train=train) * features, axis=-1)

    def _embedding(self, features: Float[Array, "b d"], train: bool) -> Float[Array, "b {self.embedding_dim}"]:
        if self.embedding_dim < 1:
            raise ValueError(f"discriminator.embedding_dim is {self.embedding_dim}, but must be at least 1.")
        return unit_norm(self._dense(features, self.embedding_dim, "embedding", train, use_bias=self.use_bias))

    def _table(self, features: int, name: str) -> SpectralEmbed:
        return SpectralEmbed(self.num_classes, features, self.power_iteration, self.kernel_init, name=name)

    def _dense(
        self, x: Float[Array, "b d"], features: int, name: str, train: bool, *, use_bias: bool
    ) -> Float[Array, "b {features}"]:
        layer = SpectralDense(
            features, self.power_iteration, self.kernel_init, use_bias=use_bias, dtype=self.dtype, name=name
        )
        return layer(x, train=train).astype(jnp.float32)
