"""TarFlow (Zhai et al. 2024): autoregressive flows over patches by causal transformers, in alternating directions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks, transformer
from jaxgen.nn.flow_layers import check_numbers
from jaxgen.nn.flow_network import FlowGuidance
from jaxgen.nn.flow_transformer import FlowCache, FlowTransformerLayer, check_tokens, empty_cache, projection

_SMALL = nn.initializers.normal(0.01)

Tokens = Float[Array, "b n d"]
Classes = Float[Array, "b k"] | None


class TarFlowBlock(nn.Module):
    """An autoregressive flow: each token is shifted and scaled by a function of those before it.

    Attributes:
      num_tokens, token_dim: shape of a sequence.
      num_classes: number of classes; 0 for none.
      width: of the transformer.
      depth: number of its layers.
      num_heads: attention heads.
      flip: whether the order of the tokens is reversed.
      dropout: rate within the layers.
      dtype: type of the transformer.
    """

    num_tokens: int
    token_dim: int
    num_classes: int
    width: int
    depth: int
    num_heads: int
    flip: bool
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Names the parameters."""
        self.proj_in = projection(self.width, self.token_dim, self.dtype)
        self.position_embedding = self.param("position_embedding", _SMALL, (self.num_tokens, self.width))
        if self.num_classes:
            self.class_embedding = self.param("class_embedding", _SMALL, (self.num_classes, self.width))
        options = {"dropout": self.dropout, "dtype": self.dtype}
        self.layers = [FlowTransformerLayer(self.num_heads, causal=True, **options) for _ in range(self.depth)]
        self.proj_out = projection(2 * self.token_dim, self.width, self.dtype, zero=True)

    def __call__(
        self, x: Tokens, classes: Classes, dropout_keys: Key[Array, " b"] | None = None
    ) -> tuple[Tokens, Float[Array, " b"]]:
        """Returns z_i = (x_i - b_i) exp(-a_i) of tokens, where a and b see the tokens before, and log |det|."""
        x = self._ordered(x)
        h = self._embedded(x, self._ordered(self.position_embedding[None]), classes)
        for layer in self.layers:
            h, _ = layer(h, dropout_keys)
        out = self.proj_out(h).astype(jnp.float32)
        out = jnp.concatenate([jnp.zeros_like(out[:, :1]), out[:, :-1]], axis=1)
        a, b = jnp.split(out, 2, axis=-1)
        return self._ordered((x - b) * jnp.exp(-a)), -jnp.sum(a, axis=(1, 2))

    def inverse(self, z: Tokens, classes: Classes, null: Classes, guidance: FlowGuidance | None) -> Tokens:
        """Returns the tokens of latents, one after the other, with a cache of keys and values.

        Args:
          z: latents.
          classes: of the images.
          null: the null condition.
          guidance: None for none.
        """
        z, positions = self._ordered(z), self._ordered(self.position_embedding[None])[0]
        if self.num_tokens == 1:
            return z
        heads = (self.num_heads, self.width // self.num_heads)
        caches = [empty_cache(len(z), self.num_tokens - 1, *heads, self.dtype) for _ in range(self.depth)]
        index = jnp.arange(self.num_tokens - 1)

        def step(block: TarFlowBlock, carry: Any, inputs: Any) -> tuple[Any, Array]:
            (token, own, of_null), (i, position, latent) = carry, inputs
            (a, b), own = block._step(token, position, classes, own, i, 1.0)
            if guidance is not None:
                temperature = guidance.attention_temperature
                (null_a, null_b), of_null = block._step(token, position, null, of_null, i, temperature)
                excess = (guidance.scale - 1.0) * ((i + 1) / len(index) if guidance.annealed else 1.0)
                a = a + excess * (a - null_a) if "a" in guidance.of else a
                b = b + excess * (b - null_b) if "b" in guidance.of else b
            token = latent * jnp.exp(a) + b
            return (token, own, of_null), token

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, length=len(index))
        start = (z[:, 0], caches, caches if guidance is not None else None)
        _, rest = scan(self, start, (index, positions[:-1], z[:, 1:].swapaxes(0, 1)))
        return self._ordered(jnp.concatenate([z[:, :1], rest.swapaxes(0, 1)], axis=1))

    def _step(
        self,
        token: Float[Array, "b d"],
        position: Float[Array, " c"],
        classes: Classes,
        caches: list[FlowCache],
        i: Int[Array, ""],
        temperature: float,
    ) -> tuple[tuple[Float[Array, "b d"], Float[Array, "b d"]], list[FlowCache]]:
        """Returns log-scale and shift of token i + 1, and the caches with token i."""
        h = self._embedded(token[:, None], position[None, None], classes)
        new = []
        for layer, old in zip(self.layers, caches, strict=True):
            h, cache = layer(h, cache=old, position=i, temperature=temperature)
            assert cache is not None
            new.append(cache)
        a, b = jnp.split(self.proj_out(h).astype(jnp.float32)[:, 0], 2, axis=-1)
        return (a, b), new

    def _ordered(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return x[:, ::-1] if self.flip else x

    def _embedded(self, x: Float[Array, "b t d"], positions: Float[Array, "1 t c"], classes: Classes) -> Array:
        h = self.proj_in(x.astype(self.dtype)) + positions.astype(self.dtype)
        if classes is not None:
            h += (classes @ self.class_embedding).astype(self.dtype)[:, None]
        return h


class TarFlow(nn.Module):
    """TarFlow; with depths that differ, the deep-shallow layout of STARFlow (Gu et al. 2025).

    The first block goes through the patches row by row, the second one backwards, and so on. Latents are tokens, row by
    row, with the values of a patch in the order channel, row, column. The null condition is the mean of the classes'
    embeddings. The collection `buffers` holds the variance of the prior, which is 1 in scaling flows.

    Attributes:
      image_shape: height, width, channels of the images.
      num_classes: number of classes; 0 for none.
      patch_size: height and width of a patch.
      width: of the transformers.
      depths: number of layers of each block, from the images to the latents.
      head_dim: width of an attention head.
      dropout: rate within the layers, which the paper does not have.
      dtype: type of the transformers.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    patch_size: int = 4
    width: int = 512
    depths: tuple[int, ...] = (8, 8, 8, 8)
    head_dim: int = 64
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def check(self) -> None:
        """Refuses images that cannot be cut into patches, and fields that are out of range.

        Raises:
          ValueError: says what is allowed.
        """
        check_numbers(self, "width", "head_dim")
        heads = self.width // self.head_dim if self.width % self.head_dim == 0 else 0
        check_tokens(
            self.image_shape,
            patch_size=self.patch_size,
            width=self.width,
            num_heads=heads,
            heads_by=f"model.head_dim={self.head_dim}",
        )
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"model.depths is {self.depths}, but must hold a number of layers for each block.")

    def setup(self) -> None:
        """Names the parameters."""
        shape = self._sequence
        options = {"num_heads": self.width // self.head_dim, "dropout": self.dropout, "dtype": self.dtype}
        self.blocks = [
            TarFlowBlock(*shape, self.num_classes, self.width, depth, flip=i % 2 == 1, **options)
            for i, depth in enumerate(self.depths)
        ]
        self.prior_variance = self.variable("buffers", "prior_variance", jnp.ones, shape)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], Float[Array, " b"]]:
        """Returns latents and log |det|, as `FlowNetwork` says."""
        checks.check_optional_label(label, self.num_classes)
        tokens, total = to_tokens(x, self.patch_size), jnp.zeros(len(x))
        classes = class_weights(label, self.num_classes, len(x))
        for block in self.blocks:
            tokens, log_det = block(tokens, classes, dropout_keys)
            total += log_det
        variance = self.prior_variance.value
        latents = tokens * jax.lax.rsqrt(variance)[None]
        return latents.reshape(len(x), -1), total - 0.5 * jnp.sum(jnp.log(variance))

    def inverse(self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None = None) -> Float[Array, "b h w c"]:
        """Returns the images of latents."""
        return self._inverse(latents, label, None)

    def guided_inverse(
        self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None, guidance: FlowGuidance
    ) -> Float[Array, "b h w c"]:
        """Returns the images of latents under guidance."""
        return self._inverse(latents, label, guidance)

    def _inverse(self, latents: Array, label: Array | None, guidance: FlowGuidance | None) -> Array:
        checks.check_optional_label(label, self.num_classes)
        classes, null = (class_weights(value, self.num_classes, len(latents)) for value in (label, None))
        tokens = latents.reshape(-1, *self._sequence) * jnp.sqrt(self.prior_variance.value)[None]
        for block in reversed(self.blocks):
            tokens = block.inverse(tokens, classes, null, guidance)
        return from_tokens(tokens, self.patch_size, self.image_shape)

    @property
    def _sequence(self) -> tuple[int, int]:
        """The number of tokens, and their length."""
        height, width, channels = self.image_shape
        return height * width // self.patch_size**2, channels * self.patch_size**2


def class_weights(label: Int[Array, " b"] | None, num_classes: int, batch: int) -> Classes:
    """Returns the weights of classes' embeddings: of a class alone, or equal ones for the null condition."""
    if not num_classes:
        return None
    equal = jnp.full((batch, num_classes), 1.0 / num_classes)
    if label is None:
        return equal
    return jnp.where((label == num_classes)[:, None], equal, jax.nn.one_hot(label, num_classes))


def to_tokens(x: Float[Array, "b h w c"], patch_size: int) -> Tokens:
    """Returns patches as tokens, row by row, whose values are in the order channel, row, column."""
    patches = transformer.patchify(x, patch_size)
    return patches.reshape(*patches.shape[:2], patch_size**2, -1).swapaxes(2, 3).reshape(patches.shape)


def from_tokens(tokens: Tokens, patch_size: int, image_shape: tuple[int, int, int]) -> Float[Array, "b h w c"]:
    """Returns the images of tokens: the inverse of `to_tokens`."""
    height, width, channels = image_shape
    patches = tokens.reshape(*tokens.shape[:2], channels, patch_size**2).swapaxes(2, 3).reshape(tokens.shape)
    return transformer.unpatchify(patches, patch_size, (height // patch_size, width // patch_size))
