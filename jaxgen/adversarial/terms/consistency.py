"""Consistency of the discriminator under augmentation: CR and bCR."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.adversarial.turn import Cost, Term, Turn
from jaxgen.core import keys
from jaxgen.core.schedules import Curve


def consistency(
    *, real_weight: float | str = 10.0, fake_weight: float | str = 0.0, flip: bool = True, shift: int = 4
) -> Term:
    """Returns the squared change of logits as images are mirrored and shifted at random.

    Of real images alone it is CR (Zhang et al. 2020, eq. 3), of both kinds bCR (Zhao et al. 2021, section 3.1).

    Args:
      real_weight: lambda of real images; may be scheduled.
      fake_weight: lambda of generated ones; may be scheduled.
      flip: whether half of the images are mirrored.
      shift: largest shift in pixels along either axis; the border is reflected.

    Raises:
      ValueError: if images are neither mirrored nor shifted.
    """
    if shift < 0 or not (flip or shift):
        raise ValueError(
            f"consistency has flip={flip} and shift={shift}, but it needs a flip, or a shift of at least 1."
        )
    weights = {
        "real": Curve.of(real_weight, where="consistency's real_weight", low=0.0),
        "fake": Curve.of(fake_weight, where="consistency's fake_weight", low=0.0),
    }

    def cost(turn: Turn) -> Cost:
        loss, metrics = jnp.zeros(()), {}
        for name, images in {"real": turn.real, "fake": turn.fake}.items():
            if weights[name].high == 0.0:
                continue
            changed = moved(keys.fold_each(turn.keys, name), images, flip=flip, shift=shift)
            penalty = jnp.mean((turn.discriminate(changed).logits - turn.discriminate(images).logits) ** 2)
            loss += weights[name](turn.context.step) * penalty
            metrics[f"consistency/{name}"] = penalty
        return Cost(loss, metrics=metrics)

    return Term(discriminator=cost)


def moved(
    example_keys: Key[Array, " b"], images: Float[Array, "b h w c"], *, flip: bool, shift: int
) -> Float[Array, "b h w c"]:
    """Returns images mirrored with probability 1/2, if `flip`, and shifted by at most `shift` pixels.

    Raises:
      ValueError: if the shift is as large as an image.
    """
    height, width = images.shape[1:3]
    if shift >= min(height, width):
        raise ValueError(
            f"consistency has shift={shift}, but it must be less than the images' {height}x{width} pixels."
        )

    def one(key: Key[Array, ""], image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        if flip:
            image = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 0)), image[:, ::-1], image)
        start = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, 2 * shift + 1)
        padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)

    return jax.vmap(one)(example_keys, images)
