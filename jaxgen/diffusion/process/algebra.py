"""The algebra that all parameterizations share: two linear equations in the clean image and the noise.

    x_t = alpha x_0 + std eps        what the network sees
    F   = a     x_0 + b   eps        what it predicts

Solving them for x_0 and eps turns any prediction into any other, so a sampler need not know which one was trained.
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from jaxgen.diffusion.process.parameterizations import Parameterization
from jaxgen.diffusion.process.paths import Path

Images = Float[Array, "n h w c"]
Scalars = Float[Array, " n"]


class Mixture(NamedTuple):
    """The coefficients of both equations, one of each an image."""

    alpha: Scalars
    std: Scalars
    a: Scalars
    b: Scalars

    @property
    def determinant(self) -> Scalars:
        """Of the equations; never zero, since F would then tell no more than x_t."""
        return self.alpha * self.b - self.std * self.a


def mixture(path: Path, parameterization: Parameterization, sigma: Scalars) -> Mixture:
    """The coefficients at noise levels sigma = std / alpha."""
    alpha = path(sigma)
    std = alpha * sigma
    return Mixture(alpha, std, *parameterization(alpha, std))


def noisy(m: Mixture, x0: Images, eps: Images) -> Images:
    """x_t."""
    return per_image(m.alpha) * x0 + per_image(m.std) * eps


def target(m: Mixture, x0: Images, eps: Images) -> Images:
    """F, if the network were right."""
    return per_image(m.a) * x0 + per_image(m.b) * eps


def clean(m: Mixture, x_t: Images, prediction: Images) -> Images:
    """The image x_0 from x_t and F."""
    return per_image(m.b / m.determinant) * x_t - per_image(m.std / m.determinant) * prediction


def noise(m: Mixture, x_t: Images, prediction: Images) -> Images:
    """The noise eps from x_t and F."""
    return per_image(m.alpha / m.determinant) * prediction - per_image(m.a / m.determinant) * x_t


def prediction_weight(m: Mixture, x0_weight: Scalars) -> Scalars:
    """The weight of squared errors of F that equals a weight of squared errors of x_0 (by `clean`)."""
    return x0_weight * (m.std / m.determinant) ** 2


def per_image(values: Scalars | Bool[Array, " n"]) -> Float[Array, "n 1 1 1"] | Bool[Array, "n 1 1 1"]:
    """Reshapes one number an image so that it multiplies images."""
    return values[:, None, None, None]
