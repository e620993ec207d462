"""The Inception-v3 whose features define FID, KID and the Inception score: that of the TensorFlow graph of 2015.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", as Heusel et al. 2017 and everybody
since have used it. It differs from the network of the paper, and of torchvision, in the resize to 299x299, in average
pooling that leaves the padding out of the count, in the pooling of the last block, and in its 1008 classes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

SIDE = 299
"""Height and width that images are resized to."""

NUM_CLASSES = 1008


class Conv(NamedTuple):
    """A convolution with batch norm and ReLU; of stride 2, or where `valid` is set, it does not pad."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    valid: bool = False


class Outputs(NamedTuple):
    """Features and logits of images, by the official names; the first four are spatial means.

    Attributes:
      pool_64: behind the first maximum pooling.
      pool_192: behind the second.
      pool_768: before the last reduction.
      pool_2048: before the linear layer: the features of FID and KID.
      logits_unbiased: of the classes, without the bias of the linear layer: those of the Inception score.
      logits: with the bias.
    """

    pool_64: Float[Array, "b 64"]
    pool_192: Float[Array, "b 192"]
    pool_768: Float[Array, "b 768"]
    pool_2048: Float[Array, "b 2048"]
    logits_unbiased: Float[Array, "b 1008"]
    logits: Float[Array, "b 1008"]


Pool: TypeAlias = Callable[[Float[Array, "b h w c"]], Float[Array, "b p q c"]]
Step: TypeAlias = Conv | Pool | tuple[Conv, ...]
"""A step of a branch; several convolutions of one input are concatenated."""

Branches: TypeAlias = Mapping[str, tuple[Step, ...]]
"""Branches by official name, whose outputs are concatenated."""

_AVERAGE: Pool = functools.partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False)
_MAXIMUM: Pool = functools.partial(nn.max_pool, window_shape=(3, 3), padding="SAME")
_REDUCE: Pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="VALID")


def _block_a(pooled: int) -> Branches:
    return {
        "branch1x1": (Conv(64, (1, 1)),),
        "branch5x5": (Conv(48, (1, 1)), Conv(64, (5, 5))),
        "branch3x3dbl": (Conv(64, (1, 1)), Conv(96, (3, 3)), Conv(96, (3, 3))),
        "branch_pool": (_AVERAGE, Conv(pooled, (1, 1))),
    }


def _block_c(c: int) -> Branches:
    row, column = (1, 7), (7, 1)
    return {
        "branch1x1": (Conv(192, (1, 1)),),
        "branch7x7": (Conv(c, (1, 1)), Conv(c, row), Conv(192, column)),
        "branch7x7dbl": (Conv(c, (1, 1)), Conv(c, column), Conv(c, row), Conv(c, column), Conv(192, row)),
        "branch_pool": (_AVERAGE, Conv(192, (1, 1))),
    }


def _block_e(pool: Pool) -> Branches:
    fork = (Conv(384, (1, 3)), Conv(384, (3, 1)))
    return {
        "branch1x1": (Conv(320, (1, 1)),),
        "branch3x3": (Conv(384, (1, 1)), fork),
        "branch3x3dbl": (Conv(448, (1, 1)), Conv(384, (3, 3)), fork),
        "branch_pool": (pool, Conv(192, (1, 1))),
    }


_BLOCK_B: Branches = {
    "branch3x3": (Conv(384, (3, 3), stride=2),),
    "branch3x3dbl": (Conv(64, (1, 1)), Conv(96, (3, 3)), Conv(96, (3, 3), stride=2)),
    "branch_pool": (_REDUCE,),
}
_BLOCK_D: Branches = {
    "branch3x3": (Conv(192, (1, 1)), Conv(320, (3, 3), stride=2)),
    "branch7x7x3": (Conv(192, (1, 1)), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, (3, 3), stride=2)),
    "branch_pool": (_REDUCE,),
}

# Layers by official name, in the groups that end in an output of their own.
_TO_64: Mapping[str, Step] = {
    "Conv2d_1a_3x3": Conv(32, (3, 3), stride=2),
    "Conv2d_2a_3x3": Conv(32, (3, 3), valid=True),
    "Conv2d_2b_3x3": Conv(64, (3, 3)),
    "MaxPool_1": _REDUCE,
}
_TO_192: Mapping[str, Step] = {
    "Conv2d_3b_1x1": Conv(80, (1, 1)),
    "Conv2d_4a_3x3": Conv(192, (3, 3), valid=True),
    "MaxPool_2": _REDUCE,
}
_TO_768: Mapping[str, Branches] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
}
_TO_2048: Mapping[str, Branches] = {
    "Mixed_7a": _BLOCK_D,
    "Mixed_7b": _block_e(_AVERAGE),
    "Mixed_7c": _block_e(_MAXIMUM),
}


class InceptionV3(nn.Module):
    """The network for evaluation: batch norm by its running statistics, every product in full float32."""

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w 3"]) -> Outputs:
        """Returns features and logits of 8-bit RGB images of any size."""
        x = (_resize(images.astype(jnp.float32)) - 128.0) / 128.0
        pooled = []
        for layers in (_TO_64, _TO_192, _TO_768, _TO_2048):
            for name, layer in layers.items():
                x = _InceptionBlock(layer, name=name)(x) if isinstance(layer, Mapping) else _apply(layer, x, name)
            pooled.append(x.mean(axis=(1, 2)))
        logits = nn.Dense(NUM_CLASSES, use_bias=False, precision="highest", name="fc")(pooled[-1])
        bias = self.param("fc_bias", nn.initializers.zeros_init(), (NUM_CLASSES,))
        return Outputs._make([*pooled, logits, logits + bias[None]])


class _InceptionBlock(nn.Module):
    """The branches of a block, side by side."""

    branches: Branches

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        return jnp.concatenate([self._branch(name, steps, x) for name, steps in self.branches.items()], axis=-1)

    def _branch(self, name: str, steps: tuple[Step, ...], x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        """Applies a branch, whose convolutions officially have numbers if there are several, and letters in a fork."""
        numbered = sum(not callable(step) for step in steps) > 1
        for i, step in enumerate(steps, start=1):
            x = _apply(step, x, f"{name}_{i}" if numbered else name)
        return x


class _ConvNorm(nn.Module):
    """Convolution without bias, batch norm by running statistics, ReLU."""

    conv: Conv

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        channels, kernel, stride, valid = self.conv
        padding = "VALID" if valid or stride > 1 else "SAME"
        x = nn.Conv(channels, kernel, stride, padding=padding, use_bias=False, precision="highest", name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def _apply(step: Step, x: Float[Array, "b h w c"], name: str) -> Float[Array, "b p q d"]:
    """Applies a step within the module that is being called."""
    if isinstance(step, Conv):
        return _ConvNorm(step, name=name)(x)
    if isinstance(step, tuple):
        parts = zip("ab", step, strict=True)
        return jnp.concatenate([_ConvNorm(conv, name=name + letter)(x) for letter, conv in parts], axis=-1)
    return step(x)


def _resize(images: Float[Array, "b h w c"]) -> Float[Array, "b 299 299 c"]:
    """Bilinear interpolation as in TensorFlow 1: pixel i lies at i * (old side / new side), and nothing is averaged."""
    for axis in (1, 2):
        side = images.shape[axis]
        at = np.arange(SIDE) * (side / SIDE)
        low = np.floor(at).astype(np.int32)
        high = np.minimum(low + 1, side - 1)
        below, above = (jnp.take(images, index, axis=axis) for index in (low, high))
        fraction = jnp.expand_dims((at - low).astype(np.float32), [a for a in range(4) if a != axis])
        images = below + (above - below) * fraction
    return images
