"""Normalizing flows by name: invertible networks that take the same arguments, so that one method trains them all."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.named_networks import fields_of, make_named_network


class FlowGuidance(NamedTuple):
    """Guidance of the inverse of an autoregressive flow (TarFlow, Zhai et al. 2024).

    Shifts and log-scales of an image are moved away from those of the null condition: u + s (v - u), for the
    conditional value v and the null one u. The weight w of the paper is s - 1.

    Attributes:
      scale: s; 1 for no guidance.
      of: the values that are guided: `a`, the log-scales, `b`, the shifts, or both.
      annealed: whether s grows from 1 to `scale` along the sequence, rather than being constant.
      attention_temperature: by which the attention logits of the null condition are divided; with values other than 1
        there is guidance without classes.
    """

    scale: float
    of: Literal["ab", "a", "b"] = "ab"
    annealed: bool = False
    attention_temperature: float = 1.0


@runtime_checkable
class FlowNetwork(Protocol):
    """A Flax module with the fields `image_shape`, `num_classes` and `dtype`: a map between images and latents.

    Latents are vectors of as many numbers as an image has, and standard normal under the model: learned priors are a
    last standardization. So log p(x) = log N(latents; 0, I) + log_det. Log-determinants are float32, whatever `dtype`
    is. Constants beside the parameters lie in the collection `buffers`.
    """

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], Float[Array, " b"]]:
        """Returns the latents of images, and log |det| of the Jacobian, in nats.

        Where the network has parameters that start from data, it is to be initialized with images of the data.

        Args:
          x: images of continuous values.
          label: classes in [0, num_classes]; `num_classes` is the null condition; None means it throughout.
          dropout_keys: one key an image, with which the networks in the layers have dropout; None for none.
        """
        ...

    def inverse(self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None = None) -> Float[Array, "b h w c"]:
        """Returns the images of latents."""
        ...

    def check(self) -> None:
        """Refuses images and fields that do not fit each other.

        Raises:
          ValueError: says what is allowed.
        """
        ...


@runtime_checkable
class GuidedFlowNetwork(FlowNetwork, Protocol):
    """A flow network whose inverse can be guided."""

    def guided_inverse(
        self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None, guidance: FlowGuidance
    ) -> Float[Array, "b h w c"]:
        """Returns the images of latents under guidance, which are no longer distributed as the model's."""
        ...


_FIELDS = {"image_shape", "num_classes", "dtype"}


def make_flow_network(
    section: Mapping[str, Any], *, image_shape: tuple[int, int, int], num_classes: int, dtype: DTypeLike
) -> nn.Module:
    """Builds the flow that a section names: `name` is module.Class below `jaxgen.nn`, the rest are its fields.

    `NEEDS` of the module, where there is one, says which fields have an effect only beside others.

    Raises:
      ValueError: if there is no such network, a field is unknown or of a wrong type, or images do not fit.
    """
    given: dict[str, Any] = {"image_shape": image_shape, "num_classes": num_classes, "dtype": dtype}
    made = make_named_network(section, _is_flow, where="model", **given)
    made.check()
    return made


def _is_flow(network: type) -> bool:
    return fields_of(network) >= _FIELDS and issubclass(network, FlowNetwork)
