"""What few-step models are distilled from: a finished diffusion model, and steps along its probability-flow ODE."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from jaxgen.core.contract import Denoise, Variables
from jaxgen.diffusion import guidance
from jaxgen.diffusion.algebra import per_image
from jaxgen.diffusion.denoisers import Denoiser, Images

Scalars = Float[Array, " n"]


class Teacher(NamedTuple):
    """A diffusion model whose training is over.

    Attributes:
      denoise: its `denoise`.
      variables: its `eval_variables`.
      num_classes: those that it is conditioned on, 0 for none.
    """

    denoise: Denoise
    variables: Variables
    num_classes: int = 0


def teacher_denoiser(teacher: Teacher, label: Int[Array, " n"] | None, *, guidance_scale: float = 1.0) -> Denoiser:
    """The teacher as a denoiser of images of some classes, guided; labels [0, num_classes], the last for no class."""
    if label is None or not teacher.num_classes:
        return lambda x, sigma: teacher.denoise(teacher.variables, x, sigma)

    def conditional(x: Images, sigma: Scalars, label: Int[Array, " n"]) -> Images:
        return teacher.denoise(teacher.variables, x, sigma, {"label": label})

    return guidance.classifier_free(conditional, label, null_label=teacher.num_classes, scale=guidance_scale)


def heun_step(denoise: Denoiser, x: Images, t: Scalars, r: Scalars) -> Images:
    """One step of Heun's method along dx/dsigma = (x - D(x, sigma)) / sigma from t to r > 0 (Karras et al. 2022).

    It is what consistency distillation takes for the other point of a path (Song et al. 2023, eq. 6).
    """
    slope = (x - denoise(x, t)) / per_image(t)
    euler = x + per_image(r - t) * slope
    return x + 0.5 * per_image(r - t) * (slope + (euler - denoise(euler, r)) / per_image(r))
