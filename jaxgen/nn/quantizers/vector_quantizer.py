"""Vector quantization (van den Oord et al. 2017): the nearest of k learned vectors, the codebook."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.config import Need, check_bounds
from jaxgen.nn.quantization import Quantized, Stage, Statistics, code_counts, straight_through

_NAME = "codebook"


class VectorQuantizer(nn.Module):
    """A codebook, learned by gradients or as moving averages of the vectors that choose its codes.

    With `decay` (van den Oord et al. 2017, appendix A.1), after a batch in which n_i vectors of sum m_i chose code i:
    N_i = decay N_i + (1 - decay) n_i, M_i likewise of m_i, and the code is M_i / N_i, where N_i is smoothed to
    (N_i + epsilon) / (N + k epsilon) N for their total N, so that rare codes stay bounded.

    Attributes:
      num_codes: k, the number of codes.
      code_dim: length of a vector.
      unit_norm: whether vectors and codes are scaled to unit length, so that the nearest code is that of the largest
        cosine (Yu et al. 2022, section 3.2).
      decay: weight of the old averages in the new; None for a codebook that is a parameter, learned by a loss.
      epsilon: the smoothing of the averages' sizes.
      revive_below: a code whose average size N_i is below this becomes a vector of the batch, drawn at random, with a
        size of 1 (Dhariwal et al. 2020, section 3.1); 0 for never.
    """

    num_codes: int = 512
    code_dim: int = 64
    unit_norm: bool = False
    decay: float | None = None
    epsilon: float = 1e-5
    revive_below: float = 0.0

    @property
    def codes_per_vector(self) -> int:
        """Returns 1."""
        return 1

    @property
    def losses(self) -> tuple[str, ...]:
        """Returns all losses, but that of the codebook for averages."""
        return ("commitment", "entropy") if self.decay is not None else ("codebook", "commitment", "entropy")

    def check(self, where: str) -> None:
        """Refuses values out of range; `where` is the section that they are in.

        Raises:
          ValueError: names the setting, its value and what is allowed.
        """
        check_bounds(self, {"num_codes": (2, 2**24), "code_dim": (1, 2**24)}, where=where)
        if self.decay is not None and not 0.0 <= self.decay < 1.0:
            raise ValueError(f"{where}.decay is {self.decay}, but must lie in [0, 1).")
        if not self.epsilon > 0.0:
            raise ValueError(f"{where}.epsilon is {self.epsilon}, but must be positive.")
        if self.revive_below < 0.0:
            raise ValueError(f"{where}.revive_below is {self.revive_below}, but must be at least 0.")

    @nn.compact
    def codebook(self) -> Float[Array, "{self.num_codes} {self.code_dim}"]:
        """Returns the codes, of unit length if `unit_norm`."""
        if self.decay is None:
            codes = self.param(_NAME, self._initial_codes)
        else:
            codes = self.variable("codebooks", _NAME, self._initial_averages).value["codes"]
        return unit_vectors(codes) if self.unit_norm else codes

    def __call__(self, z: Float[Array, "b h w {self.code_dim}"]) -> Quantized:
        """Returns the nearest codes."""
        codebook = self.codebook()
        inputs = unit_vectors(z) if self.unit_norm else z
        distances = squared_distances(inputs, codebook)
        codes = jnp.argmin(distances, axis=-1).astype(jnp.int32)
        vectors = codebook[codes]
        return Quantized(straight_through(inputs, vectors), codes[..., None], (Stage(inputs, vectors, distances),))

    def lookup(self, codes: Int[Array, "b h w 1"]) -> Float[Array, "b h w {self.code_dim}"]:
        """Returns rows of the codebook."""
        return self.codebook()[codes[..., 0]]

    def statistics(
        self, quantized: Quantized, index: Int[Array, " b"], key: Key[Array, ""], batch_size: int
    ) -> Statistics:
        """Returns counts and, for averages, sums of the vectors by code, and the vectors that would revive codes."""
        inputs, codes = jax.lax.stop_gradient(quantized.stages[0].inputs), quantized.codes[..., 0]
        found = {"counts": code_counts(codes, self.num_codes)}
        if self.decay is not None:
            chosen = jax.nn.one_hot(codes.reshape(-1), self.num_codes)
            found["sums"] = jnp.matmul(chosen.T, inputs.reshape(-1, self.code_dim), precision="highest")
        if self.revive_below:
            found["candidates"] = drawn_vectors(key, inputs, index, number=self.num_codes, batch_size=batch_size)
        return {_NAME: found}

    def updated(self, codebooks: PyTree, statistics: Statistics) -> PyTree:
        """Returns the averages after a batch; a codebook that is a parameter is none."""
        if self.decay is None:
            return codebooks
        old, batch = codebooks[_NAME], statistics[_NAME]
        size = self.decay * old["size"] + (1.0 - self.decay) * batch["counts"]
        total = self.decay * old["sum"] + (1.0 - self.decay) * batch["sums"]
        smoothed = (size + self.epsilon) / (jnp.sum(size) + self.num_codes * self.epsilon) * jnp.sum(size)
        new = {"codes": total / smoothed[:, None], "size": size, "sum": total}
        if self.revive_below:
            dead = size < self.revive_below
            fresh = {"codes": batch["candidates"], "size": jnp.ones_like(size), "sum": batch["candidates"]}
            new = jax.tree.map(lambda a, b: jnp.where(dead.reshape(-1, *(1,) * (a.ndim - 1)), a, b), fresh, new)
        return {**codebooks, _NAME: new}

    def _initial_codes(self, key: Key[Array, ""]) -> Float[Array, "k d"]:
        """Codes uniform within 1 / k, as in the official code, or of unit length."""
        bound = 1.0 / self.num_codes
        codes = jax.random.uniform(key, (self.num_codes, self.code_dim), minval=-bound, maxval=bound)
        return unit_vectors(codes) if self.unit_norm else codes

    def _initial_averages(self) -> dict[str, Array]:
        # Sizes of 1: a code that is not chosen then keeps its vector, since size and sum decay alike.
        codes = jax.random.normal(self.make_rng("params"), (self.num_codes, self.code_dim))
        codes = unit_vectors(codes) if self.unit_norm else codes
        return {"codes": codes, "size": jnp.ones(self.num_codes), "sum": codes}


QUANTIZER = VectorQuantizer

NEEDS = {name: Need("quantizer.decay, of averages", lambda own: own.decay is not None) for name in ("epsilon",)} | {
    "revive_below": Need("quantizer.decay, of averages", lambda own: own.decay is not None)
}
"""Settings that have an effect only for averages."""


def unit_vectors(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Returns vectors scaled to unit length; vectors of zeros stay such."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The square root of 0 would have no gradient.
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def squared_distances(x: Float[Array, "*b d"], codebook: Float[Array, "k d"]) -> Float[Array, "*b k"]:
    """Returns |x|^2 + |e|^2 - 2 x e of every vector and code, in float32 throughout."""
    products = jnp.einsum("...d,kd->...k", x, codebook, precision="highest")
    squares = jnp.sum(jnp.square(codebook), axis=-1).reshape(*(1,) * (x.ndim - 1), -1)
    return jnp.sum(jnp.square(x), axis=-1, keepdims=True) + squares - 2.0 * products


def drawn_vectors(
    key: Key[Array, ""], x: Float[Array, "b h w d"], index: Int[Array, " b"], *, number: int, batch_size: int
) -> Float[Array, "{number} d"]:
    """Returns this part's share of vectors drawn from the global batch: the sum over all its parts is the draw.

    Each draw is a position in the batch and one in the image, both from the key, so that it does not depend on how the
    batch is divided.
    """
    _, height, width, _ = x.shape
    example = jax.random.randint(keys.stream(key, "revived_example"), (number,), 0, batch_size)
    place = jax.random.randint(keys.stream(key, "revived_place"), (number,), 0, height * width)
    at_place = x.reshape(len(x), height * width, -1)[:, place]  # [b, number, d]
    own = (index[:, None] == example[None, :]).astype(x.dtype)
    return jnp.einsum("bn,bnd->nd", own, at_place, precision="highest")
