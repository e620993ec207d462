"""The deep variational information bottleneck (Alemi et al. 2017): a classifier of latents that have a price.

A latent z of an image x is drawn from a Gaussian q(z | x), and the class y is predicted from it alone. The loss is the
distortion plus beta times the rate (eq. 17), in nats:

- the distortion E[-log p(y | z)] is at least H(Y | Z), so that I(Z; Y) is at least H(Y) less the distortion;
- the rate E[KL(q(z | x) || N(0, I))] is at least I(Z; X).

Encoder, draws and rate are those of the variational autoencoder; the decoder predicts a class instead of an image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.builders import InitVariables
from jaxgen.core.contract import Context, Metrics, Microbatch, Objective
from jaxgen.core.schedules import Curve
from jaxgen.losses.divergence import kl_to_standard_normal
from jaxgen.nn.conv_autoencoder import ConvEncoder
from jaxgen.variational.inference import draw


class BottleneckTerms(NamedTuple):
    """The two terms of each image, in nats, and its class.

    Attributes:
      rate: KL(q(z | x) || N(0, I)).
      distortion: -log p(y | z), a mean over draws of z.
      probabilities: p(y | x), the mean of p(y | z) over draws of z.
    """

    rate: Float[Array, " b"]
    distortion: Float[Array, " b"]
    probabilities: Float[Array, "b k"]


class InformationBottleneck(NamedTuple):
    """The encoder, whose outputs are mean and log-variance of a latent, and the linear classifier of latents."""

    encoder: ConvEncoder
    classifier: nn.Dense

    @classmethod
    def of(cls, encoder: ConvEncoder, num_classes: int) -> "InformationBottleneck":
        """Returns the model of an encoder of 2 d outputs, for latents of length d.

        Raises:
          ValueError: if the encoder has an odd number of outputs, or there are not at least two classes.
        """
        if encoder.outputs % 2 or encoder.outputs < 2:
            raise ValueError(
                f"The encoder has {encoder.outputs} outputs, but must have an even number: mean and log-variance of "
                "each dimension."
            )
        if num_classes < 2:
            raise ValueError(f"There are {num_classes} classes, but a classifier needs at least 2.")
        return cls(encoder, nn.Dense(num_classes))

    def init(self, key: Key[Array, ""], images: Float[Array, "b h w c"]) -> PyTree:
        """Returns the parameters to start from."""
        latents = jnp.zeros((len(images), self.encoder.outputs // 2))
        return {
            "encoder": self.encoder.init(keys.stream(key, "encoder"), images)["params"],
            "classifier": self.classifier.init(keys.stream(key, "classifier"), latents)["params"],
        }

    def posterior(
        self, params: PyTree, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        """Returns mean and log-variance of q(z | x)."""
        mean, logvar = jnp.split(self.encoder.apply({"params": params["encoder"]}, images), 2, axis=-1)
        return mean, logvar

    def terms(
        self,
        params: PyTree,
        example_keys: Key[Array, " b"],
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"],
        *,
        num_draws: int = 1,
    ) -> BottleneckTerms:
        """Returns the terms of images in [-1, 1] of some classes, by draws of the latent from each image's key."""
        mean, logvar = self.posterior(params, images)

        def one(number: Int[Array, ""]) -> tuple[Float[Array, " b"], Float[Array, "b k"]]:
            latents = draw(mean, logvar, keys.fold_each(example_keys, number))
            logits = self.classifier.apply({"params": params["classifier"]}, latents)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label), jax.nn.softmax(logits)

        distortion, probabilities = jax.lax.map(one, jnp.arange(num_draws))
        rate = kl_to_standard_normal(mean, logvar)
        return BottleneckTerms(rate, jnp.mean(distortion, axis=0), jnp.mean(probabilities, axis=0))


def make_init(bottleneck: InformationBottleneck) -> InitVariables:
    """Returns what `core.builders.one_player` takes to start from."""

    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        return bottleneck.init(context.key, batch["image"]), {}

    return init_variables


def make_objective(bottleneck: InformationBottleneck, beta: float | str) -> Objective:
    """Returns distortion + beta rate (eq. 17) as an objective of `core.builders.one_player`; batches have `label`.

    Args:
      bottleneck: the model.
      beta: the price of a nat, at least 0; may be scheduled (see `core.schedules`).

    Raises:
      ValueError: if beta is negative at some step, or no schedule.
    """
    price = Curve.of(beta, where="beta", low=0.0)

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        terms = bottleneck.terms(params, example_keys, batch["image"], batch["label"])
        rate, distortion = jnp.mean(terms.rate), jnp.mean(terms.distortion)
        return distortion + price(context.step) * rate, (
            model_state,
            {"loss/rate": rate, "loss/distortion": distortion},
        )

    return objective
