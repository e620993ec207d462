"""The calls of U-Nets whose deep features samplers keep (DeepCache, Ma et al. 2024)."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks


class CachingUNet(nn.Module):
    """A U-Net that is a `networks.CachingNetwork`: its last block joins the deep features and the outermost skip.

    Subclasses have the fields `out_channels` and `dropout`, and the method `_evaluate`.
    """

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise_label: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
        *,
        vector: Float[Array, "b f"] | None = None,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
        deep: Float[Array, "b h2 w2 d"] | None = None,
    ) -> Float[Array, "b h w {self.out_channels}"]:
        """Applies the network, whose arguments `networks.DiffusionNetwork` and `CachingNetwork` describe.

        Raises:
          ValueError: if the image size, a label, the dropout keys or a field do not fit the others.
        """
        keys = checks.training_keys(train, self.dropout, dropout_keys)
        return self._evaluate(x, noise_label, label, vector, keys, deep)[0]

    def deep_features(
        self, x: Float[Array, "b h w c"], noise_label: Float[Array, " b"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 d"]:
        """Returns all that the last block sees beside the outermost skip: the features of DeepCache's first branch."""
        return self._evaluate(x, noise_label, label, None, None, None)[1]

    def _evaluate(
        self, x: Array, noise_label: Array, label: Array | None, vector: Array | None, keys: Array | None, deep: Any
    ) -> tuple[Array, Array]:
        """The output, and the deep features: those that are given, or else those of the images."""
        raise NotImplementedError
