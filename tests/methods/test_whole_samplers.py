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
from flax import linen as nn
from gaussian_targets import keys_of

from configs import common
from jaxgen.core import keys
from jaxgen.core.contract import Env, ModelSpec, Trained
from jaxgen.methods.denoising import diffusion

SHAPE, CLASSES = (2, 3, 2), 3
LABEL = np.array([2, 0, 1])
KEYS = keys_of(3, seed=4)
RAMP = np.linspace(-1.0, 2.0, math.prod(SHAPE)).reshape(1, *SHAPE)


def formula(xp, seen, noise_label, label, *, learned=False):
    """What the network says: of what it sees, twice the channels with self-conditioning, and of both labels."""
    x, hint = seen[..., :2], seen[..., 2:]
    level, label = (xp.reshape(values, (-1, 1, 1, 1)) for values in (noise_label, label * 1.0))
    ramp = xp.asarray(RAMP, dtype=x.dtype)
    out = 0.4 * x + 0.3 * xp.sin(1.7 * x + ramp) + 0.15 * (label - 1.2) * xp.roll(x, 1, axis=2)
    out = out + 0.2 * (label - 1.0) + 0.1 * ramp + 0.2 * xp.sin(0.01 * level) + 0.1 * xp.tanh(level)
    out = out + 0.3 * xp.tanh(hint) * ramp if hint.shape[-1] else out
    return xp.concatenate([out, 0.9 * xp.cos(x + ramp + label)], axis=-1) if learned else out


class Formula(nn.Module):
    """The formula as a network with one parameter."""

    out_channels: int
    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        assert vector is None
        assert dropout_keys is None
        assert not train
        assert (label is None) or self.num_classes
        label = jnp.full(len(x), self.num_classes) if label is None else label
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * formula(jnp, x, noise_label, label, learned=self.out_channels > 2)


def guide(variables, x, sigma, cond=None):
    """A worse model, of estimates that are no network's."""
    scale = (1.0 / (1.0 + sigma))[:, None, None, None]
    label = (0.0 if cond is None else cond["label"] * 1.0)[:, None, None, None]
    xp = np if isinstance(x, np.ndarray) else jnp
    return variables * xp.tanh(scale * x) + 0.1 * label


def cosine_table(steps=1000):
    """Nichol & Dhariwal 2021, eq. 17."""
    bars = np.cos((np.linspace(0.0, 1.0, steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    bars = np.cumprod(1.0 - np.minimum(1.0 - bars[1:] / bars[:-1], 0.999))
    return np.sqrt((1.0 - bars) / bars)


TABLE = cosine_table()


def karras(high, low, steps):
    """Karras et al. 2022, eq. 5."""
    i = np.arange(steps) / (steps - 1)
    return (high ** (1 / 7) + i * (low ** (1 / 7) - high ** (1 / 7))) ** 7


class Pieces(NamedTuple):
    """A way to set up the process: settings, and what they say as formulas of sigma and the network's F."""

    settings: dict[str, str]
    alpha: Any
    clean: Any
    noise_label: Any
    levels: np.ndarray
    variance_preserving: bool = False


def table_label(sigma):
    return np.interp(np.log(sigma), np.log(TABLE), np.arange(1000.0))


def flow_label(sigma):
    return 1000.0 * sigma / (1.0 + sigma)


DDPM = Pieces(
    {"path": "variance_preserving", "parameterization": "eps", "schedule": "cosine", "noise_label": "timestep",
     "levels": "timesteps(spacing='leading')"},
    lambda s: 1 / np.sqrt(1 + s**2), lambda x, s, f: x - s * f, table_label, TABLE[[800, 600, 400, 200, 0]], True,
)  # fmt: skip
V = Pieces(
    {**DDPM.settings, "parameterization": "v"},
    DDPM.alpha, lambda x, s, f: (x - s * np.sqrt(1 + s**2) * f) / (1 + s**2), table_label, DDPM.levels, True,
)  # fmt: skip
X0 = Pieces({**DDPM.settings, "parameterization": "x0"}, DDPM.alpha, lambda x, s, f: f, table_label, DDPM.levels, True)
EDM = Pieces(
    {"path": "normalized(sigma_data=0.6)", "parameterization": "edm(sigma_data=0.6)", "schedule": "karras",
     "noise_label": "log_sigma", "levels": "karras(sigma_min=0.05, sigma_max=10.0)"},
    lambda s: 1 / np.sqrt(s**2 + 0.36),
    lambda x, s, f: 0.36 / (s**2 + 0.36) * x + 0.6 * s / np.sqrt(s**2 + 0.36) * f,
    lambda s: np.log(s) / 4, karras(10.0, 0.05, 5),
)  # fmt: skip
VE = Pieces(
    {"path": "variance_exploding", "parameterization": "scaled_score", "schedule": "log_linear(sigma_max=20.0)",
     "noise_label": "log_sigma(scale=1.0, divisor=2.0)", "levels": "uniform_time(last=0.0)"},
    np.ones_like, lambda x, s, f: x + s * f, lambda s: np.log(s / 2), np.geomspace(20.0, 0.02, 5),
)  # fmt: skip
FLOW_TIMES = 0.9 * np.array([1.0, 0.8, 0.6, 0.4, 0.2])
FLOW = Pieces(
    {"path": "linear", "parameterization": "velocity", "schedule": "flow(time_max=0.9)", "noise_label": "flow_time",
     "levels": "uniform_time"},
    lambda s: 1 / (1 + s), lambda x, s, f: (x - s * f) / (1 + s), flow_label, FLOW_TIMES / (1 - FLOW_TIMES),
)  # fmt: skip


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
        "dpmpp_2m_sde(eta=0.5, solver='heun')", partial(loops.dpmpp_2m_sde, eta=0.5, solver="heun"), EDM,
        {**STRONG, "clip": True},
    ),
    "dpmpp_2s": Case("dpmpp_2s", loops.dpmpp_2s, EDM, {**STRONG, "guidance_interval": (3, 1), "clip": True}),
    "dpmpp_3m_sde": Case("dpmpp_3m_sde(eta=0.6)", partial(loops.dpmpp_3m_sde, eta=0.6), EDM, STRONG),
    "dpmpp_3m_sde_exact": Case(
        "dpmpp_3m_sde(eta=0.3, curvature=1.0)", partial(loops.exact_parabola, eta=0.3), EDM, STRONG
    ),
    "unipc": Case("unipc", loops.unipc, FLOW, {**STRONG, "guidance_rescale": 1.0}),
    "rk45": Case(
        "rk45(rtol=0.01, atol=0.02)", partial(loops.rk45, rtol=0.01, atol=0.02),
        VE._replace(levels=VE.levels[[0, -1]]), {**STRONG, "num_steps": 2},
    ),
}  # fmt: skip


def model_of(case: Case, levels: np.ndarray, monkeypatch):
    monkeypatch.setattr(diffusion, "make_network", lambda section, **given: Formula(**given))
    config = common.diffusion(common.base())
    config.model = {}
    process, sampler_levels = dict(case.pieces.settings), case.pieces.settings["levels"]
    del process["levels"]
    config.diffusion.update({"class_conditional": True, **process, **case.diffusion})
    config.sampler.update({"name": case.name, "levels": sampler_levels, "num_steps": 5, "clip": False, **case.sampler})
    if config.sampler.guidance_interval is not None:
        config.sampler.guidance_interval = tuple(
            float(np.float32(levels[i])) for i in case.sampler["guidance_interval"]
        )
    if case.guide is not None:
        config.sampler.guide = "runs/guide"
    env = Env(guide=None if case.guide is None else Trained(guide, np.float32(case.guide), CLASSES))
    return diffusion.make(config, ModelSpec(SHAPE, CLASSES), env), config.sampler


class Reference:
    """The denoiser of a case in float64, guided and clipped."""

    def __init__(self, case: Case, sampler):
        self.case, self.sampler, self.clipped = case, sampler, []
        self.null = np.full(len(LABEL), CLASSES if case.diffusion.get("class_conditional", True) else 0)

    def predict(self, x, sigma, label):
        pieces = self.case.pieces
        x_t, noise_label = pieces.alpha(sigma) * x, np.full(len(x), pieces.noise_label(sigma))
        if not self.case.diffusion.get("self_conditioning"):
            out = formula(np, x_t, noise_label, label, learned=True)
            return pieces.clean(x, sigma, out[..., :2]), 0.5 * (out[..., 2:] + 1.0)
        zeros = np.zeros_like(x_t)
        first = pieces.clean(x, sigma, formula(np, np.concatenate([x_t, zeros], -1), noise_label, label))
        second = formula(np, np.concatenate([x_t, first], -1), noise_label, label)
        return pieces.clean(x, sigma, second), None

    def fraction(self, x, sigma):
        return self.predict(x, sigma, self.case.label)[1]

    def guided(self, x, sigma):
        label, case = self.null if self.case.label is None else self.case.label, self.case
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


def noise_of(k):
    return np.asarray(keys.normal(keys.fold_each(KEYS, k), SHAPE), np.float64)


@pytest.mark.parametrize("name", CASES)
def test_samples_are_those_of_the_loop(name, monkeypatch):
    case = CASES[name]
    sigmas = np.append(case.pieces.levels, 0.0)
    model, sampler = model_of(case, sigmas, monkeypatch)
    variables = {"network": {"gain": jnp.ones(())}} | ({} if case.guide is None else {"guide": np.float32(case.guide)})
    cond = None if case.label is None else {"label": jnp.asarray(case.label)}
    ours = jax.jit(model.sample)(KEYS, variables, cond)

    sigmas = sigmas.astype(np.float32).astype(np.float64)
    reference = Reference(case, sampler)
    start = np.sqrt(sigmas[0] ** 2 + case.pieces.variance_preserving) * noise_of("initial_noise")
    options = {"fraction": reference.fraction} if name == "ancestral_learned" else {}
    expected = case.loop(reference, start, sigmas, noise_of, **options)
    if sampler.clip:
        assert 0.02 < np.mean(reference.clipped) < 0.9
        expected = np.clip(expected, -1.0, 1.0)
        assert np.mean(np.abs(expected) < 1.0) > 0.2
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(ours, expected, rtol=0.0, atol=3e-4 * scale)
