"""Every sampler within a whole model, against loops written out in float64, with a formula in the place of the network.

Network, pieces, guidance, clipping, starting noise and sampler are computed here once more; only keys, and the noise
drawn from them, are the library's.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loops as loops
from formula_models import (
    CLASSES,
    DDPM,
    EDM,
    FLOW,
    KEYS,
    LABEL,
    SHAPE,
    VARIABLES,
    VE,
    X0,
    Pieces,
    V,
    deep_part,
    make_model,
    noise_of,
    predict,
    seen_by_network,
)
from specs import finished

from jaxgen.core.contract import Env


def guide(variables, x, sigma, cond=None):
    """A worse model, of estimates that are no network's."""
    scale = (1.0 / (1.0 + sigma))[:, None, None, None]
    label = (cond["label"] * 1.0)[:, None, None, None]
    xp = np if isinstance(x, np.ndarray) else jnp
    return variables * xp.tanh(scale * x) + 0.1 * label


class Case(NamedTuple):
    """A sampler as the config names it, its loop, the process, and the other settings of `sampler`."""

    name: str
    loop: Any
    pieces: Pieces
    sampler: dict[str, Any]
    diffusion: dict[str, Any] = {}  # noqa: RUF012
    label: np.ndarray | None = LABEL
    guide: float | None = None


STRONG = {"guidance_scale": 1.8}
CASES = {
    "ancestral": Case("ancestral", loops.ancestral, DDPM, {**STRONG, "clip": True}),
    "ancestral_large": Case(
        "ancestral(variance='large')", partial(loops.ancestral, variance="large"), V, {"guidance_scale": 0.3}
    ),
    "ancestral_learned": Case(
        "ancestral_learned()", loops.ancestral, DDPM, {**STRONG, "guidance_rescale": 0.4, "clip": True},
        {"learned_variance": True},
    ),
    "ddim": Case(
        "ddim(eta=0.5)", partial(loops.ddim, eta=0.5), X0,
        {**STRONG, "guidance_interval": (3, 1), "guidance_rescale": 0.7},
    ),
    "ddim_guide": Case(
        "ddim(eta=0.5)", partial(loops.ddim, eta=0.5), V,
        {**STRONG, "guidance_interval": (4, 2), "guidance_rescale": 0.6, "clip": True}, guide=0.7,
    ),
    "ddim_without_classes": Case("ddim", loops.ddim, V, {"clip": True}, {"class_conditional": False}, None),
    "ddim_null": Case("ddim", loops.ddim, DDPM, STRONG, {}, None),
    "euler": Case("euler", loops.euler, VE, STRONG),
    "euler_ancestral": Case("euler_ancestral(eta=0.7)", partial(loops.euler_ancestral, eta=0.7), FLOW, STRONG),
    "heun": Case(
        "heun(churn=1.5, s_min=0.3, s_max=5.0, s_noise=1.2)",
        partial(loops.heun, churn=1.5, s_min=0.3, s_max=5.0, s_noise=1.2), EDM,
        {**STRONG, "guidance_interval": (3, 1), "guidance_rescale": 0.3},
    ),
    "heun_bounded": Case(
        "heun(churn=50.0)", partial(loops.heun, churn=50.0), EDM, {"clip": True}, {"self_conditioning": True}
    ),
    "heun_flow": Case("heun(path='flow')", partial(loops.heun, path="flow"), FLOW, STRONG),
    "heun_flow_churn": Case(
        "heun(path='flow', churn=1.0)", partial(loops.heun, path="flow", churn=1.0), FLOW, {"clip": True}
    ),
    "dpmpp_2m": Case("dpmpp_2m", loops.dpmpp_2m, DDPM, {**STRONG, "clip": True}, {"self_conditioning": True}),
    "dpmpp_2m_sde": Case("dpmpp_2m_sde", loops.dpmpp_2m_sde, EDM, STRONG),
    "dpmpp_2m_sde_heun": Case(
        "dpmpp_2m_sde(eta=0.2, solver='heun')", partial(loops.dpmpp_2m_sde, eta=0.2, solver="heun"), EDM,
        {**STRONG, "clip": True},
    ),
    "dpmpp_2s": Case("dpmpp_2s", loops.dpmpp_2s, EDM, {**STRONG, "guidance_interval": (3, 1), "clip": True}),
    "dpmpp_3m_sde": Case("dpmpp_3m_sde(eta=0.6)", partial(loops.dpmpp_3m_sde, eta=0.6), EDM, STRONG),
    "dpmpp_3m_sde_exact": Case(
        "dpmpp_3m_sde(eta=0.2, curvature=1.0)", partial(loops.exact_parabola, eta=0.2), EDM, STRONG
    ),
    "unipc": Case("unipc", loops.unipc, FLOW, {**STRONG, "guidance_rescale": 1.0}),
    "rk45": Case(
        "rk45(rtol=0.01, atol=0.02)", partial(loops.rk45, rtol=0.01, atol=0.02),
        VE._replace(levels=VE.levels[[0, -1]]), {**STRONG, "num_steps": 2},
    ),
    "cached_ancestral_learned": Case(
        "ancestral_learned()", loops.ancestral, DDPM, {**STRONG, "cache_interval": 2}, {"learned_variance": True},
    ),
    "cached_ddim": Case(
        "ddim(eta=0.5)", partial(loops.ddim, eta=0.5), X0,
        {**STRONG, "guidance_interval": (4, 1), "guidance_rescale": 0.7, "cache_interval": 3, "clip": True},
    ),
    "cached_ddim_guide": Case("ddim", loops.ddim, V, {**STRONG, "cache_interval": 2}, guide=0.7),
    "cached_dpmpp_3m_sde": Case(
        "dpmpp_3m_sde(eta=0.6)", partial(loops.dpmpp_3m_sde, eta=0.6), EDM, {"cache_interval": 5},
        {"class_conditional": False}, None,
    ),
    "cached_unipc": Case("unipc", loops.unipc, FLOW, {**STRONG, "cache_interval": 2}, {}, None),
}  # fmt: skip


def model_of(case: Case, levels: np.ndarray, monkeypatch, count=None):
    sampler = {"name": case.name, **case.sampler}
    if "guidance_interval" in sampler:
        sampler["guidance_interval"] = tuple(float(np.float32(levels[i])) for i in sampler["guidance_interval"])
    env = Env() if case.guide is None else Env(frozen={"guide": finished(guide, SHAPE, CLASSES)})
    return make_model(monkeypatch, case.pieces, case.diffusion, sampler, env, count)


class Reference:
    """The denoiser of a case in float64, guided and clipped."""

    def __init__(self, case: Case, sampler):
        self.case, self.sampler, self.clipped = case, sampler, []
        self.null = np.full(len(LABEL), CLASSES if case.diffusion.get("class_conditional", True) else 0)
        self.label, self.deep = self.null if case.label is None else case.label, {}

    def predict(self, x, sigma, label):
        hint = self.case.diffusion.get("self_conditioning", False)
        deep = self.deep[label is self.null] if "cache_interval" in self.case.sampler else None
        return predict(self.case.pieces, x, sigma, label, self_conditioning=hint, deep=deep)

    def renew(self, x, sigma):
        """Computes the deep features, for every label, at each step that is a multiple of the interval."""
        step = int(np.argmin(np.abs(self.case.pieces.levels - sigma)))
        if step % self.case.sampler.get("cache_interval", 1) == 0:
            seen = seen_by_network(self.case.pieces, x, sigma)
            self.deep = {label is self.null: deep_part(np, *seen, label) for label in (self.label, self.null)}

    def interpolation(self, x, sigma):
        return self.predict(x, sigma, self.label)[1]

    def guided(self, x, sigma):
        label, case = self.label, self.case
        self.renew(x, sigma)
        own = self.predict(x, sigma, label)[0]
        low, high = self.sampler.guidance_interval or (0.0, math.inf)
        if not low < sigma <= high:
            return own
        if case.guide is None:
            away = self.predict(x, sigma, self.null)[0]
        else:
            away = guide(case.guide, x, np.full(len(x), sigma), {"label": label})
        estimate = away + self.sampler.guidance_scale * (own - away)
        phi = self.sampler.guidance_rescale
        return (
            phi * estimate * own.std((1, 2, 3), keepdims=True) / estimate.std((1, 2, 3), keepdims=True)
            + (1.0 - phi) * estimate
        )

    def __call__(self, x, sigma):
        estimate = self.guided(x, float(sigma))
        self.clipped.append(np.mean(np.abs(estimate) > 1.0))
        return np.clip(estimate, -1.0, 1.0) if self.sampler.clip else estimate


@pytest.mark.parametrize("name", CASES)
def test_samples_are_those_of_the_loop(name, monkeypatch):
    case = CASES[name]
    sigmas = np.append(case.pieces.levels, 0.0)
    evaluations = []
    model, sampler = model_of(case, sigmas, monkeypatch, count=lambda: evaluations.append(1))
    variables = VARIABLES | ({} if case.guide is None else {"guide": np.float32(case.guide)})
    cond = None if case.label is None else {"label": jnp.asarray(case.label)}
    ours = jax.jit(model.sample)(KEYS, variables, cond)

    sigmas = sigmas.astype(np.float32).astype(np.float64)
    reference = Reference(case, sampler)
    start = np.sqrt(sigmas[0] ** 2 + case.pieces.variance_preserving) * noise_of("initial_noise")
    options = {"interpolation": reference.interpolation} if "learned" in name else {}
    expected = case.loop(reference, start, sigmas, noise_of, **options)
    if sampler.clip:
        assert 0.02 < np.mean(reference.clipped) < 0.9
        expected = np.clip(expected, -1.0, 1.0)
        assert np.mean(np.abs(expected) < 1.0) > 0.2
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(ours, expected, rtol=0.0, atol=3e-4 * scale)
    jax.effects_barrier()
    interval = case.sampler.get("cache_interval")
    assert len(evaluations) == (0 if interval is None else math.ceil((len(sigmas) - 1) / interval))


@pytest.mark.parametrize("sampler", [{}, STRONG, {**STRONG, "guidance_interval": (3, 1)}])
def test_the_learned_variance_comes_from_the_evaluation_of_the_estimate(sampler, monkeypatch):
    """The formula has one cosine, in its part for the variance."""
    case = CASES["ancestral_learned"]._replace(sampler=sampler)
    model, _ = model_of(case, case.pieces.levels, monkeypatch)
    program = jax.make_jaxpr(model.sample)(KEYS, VARIABLES, {"label": jnp.asarray(LABEL)})
    assert str(program).count(" cos ") == 1
