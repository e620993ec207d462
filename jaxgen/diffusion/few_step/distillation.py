"""What few-step models are distilled from: a finished diffusion model, and steps along its probability-flow ODE."""

from jaxtyping import Array, Float, Int

from jaxgen.core.contract import Trained
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.sampling import guidance
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, labeled

Scalars = Float[Array, " n"]


def teacher_denoiser(teacher: Trained, label: Int[Array, " n"] | None, *, guidance_scale: float = 1.0) -> Denoiser:
    """The teacher as a denoiser of images of some classes, guided; labels [0, num_classes], the last for no class."""
    conditional = labeled(teacher.denoise, teacher.variables)
    if label is None or not teacher.num_classes:
        return lambda x, sigma: conditional(x, sigma, None)
    return guidance.classifier_free(conditional, label, null_label=teacher.num_classes, scale=guidance_scale)


def heun_step(denoise: Denoiser, x: Images, t: Scalars, r: Scalars) -> Images:
    """One step of Heun's method along dx/dsigma = (x - D(x, sigma)) / sigma from t to r > 0 (Karras et al. 2022).

    It is what consistency distillation takes for the other point of a path (Song et al. 2023, eq. 6).
    """
    slope = (x - denoise(x, t)) / per_image(t)
    euler = x + per_image(r - t) * slope
    return x + 0.5 * per_image(r - t) * (slope + (euler - denoise(euler, r)) / per_image(r))
