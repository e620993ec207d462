"""The style of a U-Net: what all its residual blocks and attention layers have in common.

Karras et al. 2022, table 7, lists how the architectures differ.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.layers import TORCH, ZERO, LayerInit


class LayerNames(NamedTuple):
    """Names of the layers of a block, which are a part of parameter paths, and so of checkpoints and initial values.

    `qkv` has one name for a joint projection to queries, keys and values, or three names for three projections.
    """

    norm_0: str = "norm0"
    conv_0: str = "conv0"
    emb: str = "affine"
    norm_1: str = "norm1"
    conv_1: str = "conv1"
    shortcut: str = "skip"
    qkv: tuple[str, ...] = ("qkv",)
    out: str = "proj"


DDPM_NAMES = LayerNames("norm_0", "conv_0", "emb", "norm_1", "conv_1", "shortcut", ("query", "key", "value"), "out")


class BlockStyle(NamedTuple):
    """The options that all blocks of a network share.

    Attributes:
      init: initialization of most layers.
      last_init: that of the last convolution of each residual block.
      qkv_init: that of the projections to queries, keys and values.
      out_init: that of the projection of what attention has gathered.
      epsilon: of the group normalizations.
      num_groups: their groups; fewer where these would have less than `min_group_channels` channels.
      min_group_channels: channels that a group has at least.
      scale_shift: whether the embedding scales and shifts after the second normalization, or is added before it.
      skip_scale: factor of each residual sum.
      taps: resampling filter.
      project_resampled: whether shortcuts that are resampled are linear layers even where the width stays.
      num_heads: attention heads, unless `head_channels` gives the channels of each.
      head_channels: channels of an attention head; 0 for `num_heads` heads.
      qkv_order: the axes that the outputs of a joint projection stand for: query, key and value (3), head (h), channel
        of a head (d).
      dropout: rate between the two convolutions.
      names: of the layers.
      dtype: type of the computation.
      remat: whether to recompute the blocks' activations in the backward pass, trading time for memory.
    """

    init: LayerInit = TORCH
    last_init: LayerInit = ZERO
    qkv_init: LayerInit = TORCH
    out_init: LayerInit = ZERO
    epsilon: float = 1e-5
    num_groups: int = 32
    min_group_channels: int = 1
    scale_shift: bool = True
    skip_scale: float = 1.0
    taps: tuple[int, ...] = (1, 1)
    project_resampled: bool = False
    num_heads: int = 1
    head_channels: int = 0
    qkv_order: Literal["3hd", "h3d", "hd3"] = "3hd"
    dropout: float = 0.0
    names: LayerNames = LayerNames()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def heads(self, channels: int) -> int:
        """Returns the attention heads over `channels` channels: 0, for no attention, if one head needs more."""
        return channels // self.head_channels if self.head_channels else self.num_heads


def group_norm(x: Float[Array, "b h w c"], style: BlockStyle, *, name: str) -> Float[Array, "b h w c"]:
    """Applies group normalization, its statistics in float32; to be called in a compact module.

    Raises:
      ValueError: if the channels cannot be cut into the groups.
    """
    channels = x.shape[-1]
    groups = max(1, min(style.num_groups, channels // style.min_group_channels))
    if channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalized in {groups} groups: make base_channels a multiple of "
            f"{style.num_groups}."
        )
    return nn.GroupNorm(groups, epsilon=style.epsilon, dtype=style.dtype, name=name)(x)
