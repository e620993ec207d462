"""The teacher of few-step models: a finished diffusion model, and steps along its probability-flow ODE."""

from collections.abc import Mapping

from jaxtyping import Array, Float

from jaxgen.core.contract import GenerativeModel, Variables
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.sampling import guidance
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, of_model

Scalars = Float[Array, " n"]


def teacher_denoiser(
    teacher: GenerativeModel, variables: Variables, cond: Mapping[str, Array], *, guidance_scale: float = 1.0
) -> Denoiser:
    """Returns the teacher's guided denoiser under the conditions of `cond` that the teacher takes."""
    return guidance.classifier_free(
        of_model(teacher, variables), teacher.spec.conditioning, cond, scale=guidance_scale if cond else 1.0
    )


def heun_step(denoise: Denoiser, x: Images, t: Scalars, r: Scalars) -> Images:
    """One step of Heun's method along dx/dsigma = (x - D(x, sigma)) / sigma from t to r > 0 (Karras et al. 2022).

    It is what consistency distillation takes for the other point of a path (Song et al. 2023, eq. 6).
    """
    slope = (x - denoise(x, t)) / per_image(t)
    euler = x + per_image(r - t) * slope
    return x + 0.5 * per_image(r - t) * (slope + (euler - denoise(euler, r)) / per_image(r))
