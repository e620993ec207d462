"""Diffusion models with a formula in the place of the network, and the same formulas in float64 for comparison."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from gaussian_targets import keys_of
from specs import data_spec

from configs import common
from jaxgen.core import keys
from jaxgen.core.contract import Env, GenerativeModel
from jaxgen.methods.denoising import diffusion

SHAPE, CLASSES = (2, 3, 2), 3
LABEL = np.array([2, 0, 1])
KEYS = keys_of(3, seed=4)
RAMP = np.linspace(-1.0, 2.0, math.prod(SHAPE)).reshape(1, *SHAPE)


def deep_part(xp, x, noise_label, label):
    """The part of the formula that caches keep, a function of the images and of both labels."""
    level, label = (xp.reshape(values, (-1, 1, 1, 1)) for values in (noise_label, label * 1.0))
    return 0.3 * xp.sin(1.7 * x + xp.asarray(RAMP, dtype=x.dtype)) + 0.1 * xp.tanh(level) + 0.2 * (label - 1.0)


def formula(xp, seen, noise_label, label, *, learned=False, deep=None):
    """What the network says: of what it sees, twice the channels with self-conditioning, and of both labels."""
    x, hint = seen[..., :2], seen[..., 2:]
    level, label = (xp.reshape(values, (-1, 1, 1, 1)) for values in (noise_label, label * 1.0))
    ramp = xp.asarray(RAMP, dtype=x.dtype)
    out = deep_part(xp, x, noise_label, label) if deep is None else deep
    out = out + 0.4 * x + 0.15 * (label - 1.2) * xp.roll(x, 1, axis=2) + 0.1 * ramp + 0.2 * xp.sin(0.01 * level)
    out = out + 0.3 * xp.tanh(hint) * ramp if hint.shape[-1] else out
    return xp.concatenate([out, 0.9 * xp.cos(x + ramp + label)], axis=-1) if learned else out


class Formula(nn.Module):
    """The formula as a network with one parameter; `count` is called for each evaluation of its deep part alone."""

    out_channels: int
    num_classes: int
    dtype: Any
    count: Any = None

    def deep_features(self, x, noise_label, label=None):
        if self.count is not None:
            jax.debug.callback(self.count)
        return {"deep": deep_part(jnp, x, noise_label, jnp.full(len(x), self.num_classes) if label is None else label)}

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None, deep=None):
        assert vector is None
        assert dropout_keys is None
        assert not train
        assert (label is None) or self.num_classes
        label = jnp.full(len(x), self.num_classes) if label is None else label
        gain = self.param("gain", nn.initializers.ones, ())
        deep = None if deep is None else deep["deep"]
        return gain * formula(jnp, x, noise_label, label, learned=self.out_channels > 2, deep=deep)


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


def make_model(
    monkeypatch, pieces: Pieces, settings, sampler, env: Env = Env(), count=None
) -> tuple[GenerativeModel, Any]:
    """A class-conditional model with the formula, and its section `sampler`; five steps unless it says otherwise."""
    monkeypatch.setattr(diffusion, "make_network", lambda section, **given: Formula(**given, count=count))
    config = common.diffusion(common.base())
    config.model = {}
    process = {name: value for name, value in pieces.settings.items() if name != "levels"}
    config.diffusion.update({"class_conditional": True, **process, **settings})
    levels = pieces.settings["levels"]
    config.sampler.update({"name": "ddim", "levels": levels, "num_steps": 5, "clip": False, **sampler})
    return diffusion.make(config, data_spec(SHAPE, CLASSES), env), config.sampler


VARIABLES = {"network": {"gain": jnp.ones(())}}


def seen_by_network(pieces: Pieces, x, sigma: float):
    """The scaled images and the noise labels."""
    return pieces.alpha(sigma) * x, np.full(len(x), pieces.noise_label(sigma))


def predict(pieces: Pieces, x, sigma: float, label, *, self_conditioning=False, deep=None):
    """The estimate of x_0 that a model of these pieces has at one noise level, and its learned interpolation."""
    x_t, noise_label = seen_by_network(pieces, x, sigma)
    if not self_conditioning:
        out = formula(np, x_t, noise_label, label, learned=True, deep=deep)
        return pieces.clean(x, sigma, out[..., :2]), 0.5 * (out[..., 2:] + 1.0)
    first = pieces.clean(x, sigma, formula(np, np.concatenate([x_t, 0.0 * x_t], -1), noise_label, label))
    second = formula(np, np.concatenate([x_t, first], -1), noise_label, label)
    return pieces.clean(x, sigma, second), None


def noise_of(k):
    """What the library draws for the images at step k, or by that name."""
    return np.asarray(keys.normal(keys.fold_each(KEYS, k), SHAPE), np.float64)
