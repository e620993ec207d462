"""The call of a few-step model's network, the same for consistency models and mean flows."""

from collections.abc import Mapping

from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree


def apply_network(
    network: nn.Module,
    params: PyTree,
    x: Float[Array, "n h w c"],
    noise_label: Float[Array, " n"],
    cond: Mapping[str, Array],
    *,
    vector: Float[Array, "n f"] | None = None,
    dropout_keys: Key[Array, " n"] | None = None,
) -> Float[Array, "n h w c"]:
    """Returns the output of a network for noisy images.

    Args:
      network: the network.
      params: the model's parameters; the network's are `params["network"]`.
      x: noisy images, in the network's scale.
      noise_label: the network's input of the noise level.
      cond: the conditions of the images, all that the model takes.
      vector: further features of each image; None for none.
      dropout_keys: one key an image, with which dropout is on; None for no dropout.
    """
    return network.apply(
        {"params": params["network"]},
        x,
        noise_label,
        cond.get("label"),
        vector=vector,
        train=dropout_keys is not None,
        dropout_keys=dropout_keys,
    )
