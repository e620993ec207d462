"""DDPM++ and NCSN++ (Song et al. 2021, appendix H), in EDM's form (Karras et al. 2022, table 7)."""

import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.core.config import Need
from jaxgen.nn import checks
from jaxgen.nn.block_style import BlockStyle, group_norm
from jaxgen.nn.caching_unet import CachingUNet
from jaxgen.nn.edm_unet import EDMDecoder, EDMEncoder, size
from jaxgen.nn.layers import GLOROT, LayerInit, conv, dense, one_hot, timestep_embedding

_LAST_INIT = LayerInit(1e-10, "fan_avg")
_QKV_INIT = LayerInit(0.2, "fan_avg")

NEEDS = {
    "frequencies": Need("model.embedding=fourier", lambda model: model.embedding == "fourier"),
    "frequency_std": Need(
        "model.embedding=fourier and no model.frequencies",
        lambda model: model.embedding == "fourier" and not model.frequencies,
    ),
}


class SongUNet(CachingUNet):
    """A U-Net with residual sums scaled by 1/sqrt(2), and one attention head.

    The fields' defaults make DDPM++. NCSN++ is `embedding="fourier"`, `noise_channel_multiplier=2`,
    `encoder="residual"` and `resample_filter=(1, 3, 3, 1)`.

    Parameters are float32, computation runs in `dtype` but for the embedding, which is float32, as is the output. The
    null token is a label vector of zeros. Parameters are bound to one image size: their names contain it.

    Noise labels are 999 t for VP, ln(sigma / 2) for VE, ln(sigma) / 4 for EDM (Karras et al. 2022, table 1).

    Attributes:
      out_channels: channels of the output.
      base_channels: width of the first convolution; `channel_multipliers` gives those of the levels.
      num_res_blocks: residual blocks a level on the way down; there is one more on the way up.
      attention_resolutions: heights, in pixels and whatever the widths, of the feature maps whose blocks end in
        self-attention: all blocks on the way down, the last of the level on the way up.
      embedding: of the noise level: sines and cosines of geometric or of random frequencies.
      frequencies: of the Fourier embedding, base_channels * noise_channel_multiplier / 2 numbers; none for the
        network's own, by a fixed seed. They are constants and no parameters: official weights come with others.
      frequency_std: standard deviation of the network's own frequencies.
      noise_channel_multiplier: width of that embedding, in units of `base_channels`.
      encoder: whether the input is fed to each level of the encoder ("residual").
      resample_filter: taps of the filter that feature maps are doubled and halved with.
      dropout: rate within each residual block, drawn from `dropout_keys`.
      num_classes: number of classes; 0 for an unconditional network.
      dtype: type of the computation.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
    """

    out_channels: int
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (2, 2, 2)
    num_res_blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    embedding: Literal["positional", "fourier"] = "positional"
    frequencies: tuple[float, ...] = ()
    frequency_std: float = 16.0
    noise_channel_multiplier: int = 1
    encoder: Literal["standard", "residual"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)
    dropout: float = 0.13
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def _evaluate(
        self, x: Array, noise_label: Array, label: Array | None, vector: Array | None, keys: Array | None, deep: Any
    ) -> tuple[Array, Array]:
        checks.check_image_size(x, len(self.channel_multipliers))
        checks.check_optional_label(label, self.num_classes)
        widths = tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)
        emb = self._embed(noise_label, label, vector)
        levels = (widths, self.num_res_blocks, self.attention_resolutions, self._style)
        encoder = EDMEncoder(self.base_channels, *levels, residual_input=self.encoder == "residual", name="enc")
        skips = encoder(x.astype(self.dtype), emb, keys, outermost=deep is not None)
        h, deep = EDMDecoder(*levels, attend_last=True, name="dec")(skips, emb, keys, deep)
        h = nn.swish(group_norm(h, self._style, name=f"dec_{size(x)}_aux_norm"))
        out = conv(h, self.out_channels, _LAST_INIT, name=f"dec_{size(x)}_aux_conv", dtype=self.dtype)
        return out.astype(jnp.float32), deep

    @property
    def _style(self) -> BlockStyle:
        return BlockStyle(
            init=GLOROT,
            last_init=_LAST_INIT,
            out_init=_LAST_INIT,
            qkv_init=_QKV_INIT,
            epsilon=1e-6,
            min_group_channels=4,
            scale_shift=False,
            skip_scale=math.sqrt(0.5),
            taps=self.resample_filter,
            project_resampled=True,
            qkv_order="hd3",
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
        )

    def _embed(self, noise_label: Array, label: Array | None, vector: Array | None) -> Array:
        channels = self.base_channels * self.noise_channel_multiplier
        emb = self._embed_noise(noise_label, channels)
        if self.num_classes:
            # Scaled so that a one-hot vector has unit variance.
            vectors = one_hot(label, self.num_classes, len(noise_label)) * math.sqrt(self.num_classes)
            emb += dense(vectors, channels, GLOROT, name="map_label")
        if vector is not None:
            emb += dense(vector, channels, GLOROT, use_bias=False, name="map_augment")
        for name in ("map_layer0", "map_layer1"):
            emb = nn.swish(dense(emb, 4 * self.base_channels, GLOROT, name=name))
        return emb

    def _embed_noise(self, noise_label: Array, channels: int) -> Array:
        if self.embedding == "positional":
            return timestep_embedding(noise_label, channels)
        frequencies = self.frequencies or random_frequencies(channels // 2, self.frequency_std)
        return fourier_embedding(noise_label, frequencies, channels)


def random_frequencies(number: int, std: float) -> tuple[float, ...]:
    """Returns frequencies drawn from N(0, std^2), the same in every call.

    NumPy promises only for `RandomState` that its numbers will not change.
    """
    return tuple((std * np.random.RandomState(0).randn(number)).tolist())


def fourier_embedding(
    noise_label: Float[Array, " b"], frequencies: tuple[float, ...], channels: int
) -> Float[Array, "b {channels}"]:
    """Sines, then cosines, of 2 pi times the noise label times each frequency (Tancik et al. 2020).

    Raises:
      ValueError: if there are not channels / 2 frequencies.
    """
    if 2 * len(frequencies) != channels:
        raise ValueError(
            f"A Fourier embedding of {channels} channels needs {channels / 2:g} frequencies, not {len(frequencies)}."
        )
    angles = noise_label[:, None] * (2.0 * np.pi * np.asarray(frequencies, np.float32))[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
