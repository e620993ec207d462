"""A multilayer perceptron, with the ReLU or maxout units and the dropout of the first GANs (Goodfellow et al. 2014)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.adversarial import Critique
from jaxgen.nn.checks import check_required_label
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

    def __call__(
        self, x: Float[Array, "b *shape"], *, dropout_keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b {self.outputs}"]:
        """Flattens its input and applies the layers; without `dropout_keys`, one key an example, dropout is off."""
        return self.features_and_output(x, dropout_keys=dropout_keys)[1]

    @nn.compact
    def features_and_output(
        self, x: Float[Array, "b *shape"], *, dropout_keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b {self.outputs}"]]:
        """Returns the activations of the last hidden layer, too."""
        h = x.reshape(x.shape[0], -1).astype(self.dtype)
        for i, features in enumerate(self.hidden):
            h = nn.Dense(features * self.pieces, dtype=self.dtype, name=f"hidden_{i}")(h)
            h = nn.relu(h) if self.pieces == 1 else jnp.max(h.reshape(-1, features, self.pieces), axis=-1)
            h = Dropout(self.dropout, name=f"dropout_{i}")(h, dropout_keys)
        return h.astype(jnp.float32), nn.Dense(self.outputs, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class Generator(nn.Module):
    """The first GAN's generator: ReLU units, then tanh, pixels row by row.

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: length of a latent, standard normal.
      hidden: width of each hidden layer.
      pieces: of a maxout unit; 1 for ReLU units.
      num_classes: number of classes, appended to the latent as ones and zeros (Mirza and Osindero 2014).
      axis_name: unused; all networks of games have it.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 100
    hidden: tuple[int, ...] = (256, 256)
    pieces: int = 1
    num_classes: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b {self.latent_dim}"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps latents to images in [-1, 1]; see `adversarial.GeneratorNetwork`."""
        del train, keys
        height, width, colors = self.image_shape
        network = MLP(height * width * colors, self.hidden, self.pieces, dtype=self.dtype, name="mlp")
        pixels = network(_with_class(latents, label, self.num_classes))
        return jnp.tanh(pixels).reshape(-1, *self.image_shape)


class Discriminator(nn.Module):
    """The first GAN's discriminator: maxout units with dropout, then one logit.

    Attributes:
      hidden: width of each hidden layer.
      pieces: of a maxout unit; 1 for ReLU units.
      dropout: rate after every hidden layer, in training.
      num_classes: number of classes, appended to the pixels.
      axis_name, dtype: as in `Generator`.
    """

    hidden: tuple[int, ...] = (256, 256)
    pieces: int = 1
    dropout: float = 0.0
    num_classes: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Critique:
        """Judges images in [-1, 1]; see `adversarial.DiscriminatorNetwork`."""
        pixels = _with_class(images.reshape(len(images), -1), label, self.num_classes)
        network = MLP(1, self.hidden, self.pieces, self.dropout, self.dtype, name="mlp")
        features, logits = network.features_and_output(pixels, dropout_keys=keys if train else None)
        return Critique(logits[:, 0], features)


def _with_class(x: Float[Array, "b d"], label: Int[Array, " b"] | None, num_classes: int) -> Float[Array, "b d2"]:
    check_required_label(label, num_classes)
    return x if label is None else jnp.concatenate([x, jax.nn.one_hot(label, num_classes, dtype=x.dtype)], axis=1)
