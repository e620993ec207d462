"""Dot-product attention, by cuDNN's fused kernel where a GPU has it, and by two products elsewhere."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.core.derivatives import with_fast_form


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    *,
    mask: Bool[Array, "#b #heads #n m"] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Float[Array, "b n heads d"]:
    """Returns the values mixed by softmax(scale q k^T), which is in float32 (Vaswani et al. 2017, section 3.2.1).

    On a GPU, attention without a mask in half precision is one kernel, which keeps no weights in memory (Dao et al.
    2022); its derivatives other than gradients are those of the two products.

    Args:
      q: queries.
      k: keys.
      v: values.
      mask: true where a query sees a key; None for everywhere.
      scale: of the logits; None for 1 / sqrt(d).
      is_causal: whether query i sees keys 0 to i alone.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    plain = functools.partial(_by_two_products, mask=mask, scale=scale, is_causal=is_causal)
    if mask is not None or not has_kernel(q, k):
        return plain(q, k, v)
    kernel = functools.partial(jax.nn.dot_product_attention, scale=scale, is_causal=is_causal, implementation="cudnn")
    return with_fast_form(plain, kernel)(q, k, v)


def _by_two_products(q: Array, k: Array, v: Array, *, mask: Array | None, scale: float, is_causal: bool) -> Array:
    """Returns the values mixed by weights that are normalized afterwards (Dao 2024, FlashAttention-2, section 3.1).

    The weights are most of the memory, and passes over them and their gradients are much of the time: the mixed values
    are divided by the sums of the weights, and the weights are left as they are.
    """
    q, k, v = (jnp.moveaxis(array, 1, 2) for array in (scale * q, k, v))  # heads first
    logits = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))
    if is_causal:
        before = jnp.tri(q.shape[2], k.shape[2], dtype=bool)[None, None]
        mask = before if mask is None else mask & before
    if mask is not None:
        logits = jnp.where(mask, logits, 0.5 * jnp.finfo(logits.dtype).min)  # finite: a row may have no key at all
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))  # the largest cancels out
    mixed = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(v.dtype), v) / weights.sum(-1)[..., None]
    return jnp.moveaxis(mixed, 1, 2).astype(q.dtype)


def has_kernel(q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"]) -> bool:
    """Returns whether cuDNN has a kernel with derivatives for these arrays on the first device.

    That takes Ampere or newer, half precision, and even numbers of queries and keys.
    """
    capability = getattr(jax.local_devices()[0], "compute_capability", "")  # such as 9.0; of AMD's devices a name
    if q.dtype not in (jnp.bfloat16, jnp.float16) or not capability[:1].isdigit():
        return False
    longest = 256 if float(capability) >= 9.0 else 128
    fits = q.shape[-1] <= longest and q.shape[-1] % 8 == 0 and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
    return fits and float(capability) >= 8.0
