"""A generator and a discriminator that are formulas, as networks and as functions of NumPy arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import waves
from flax import linen as nn

from jaxgen.core import keys
from jaxgen.nn.adversarial import Critique

SHAPE, PIXELS, LATENT_DIM, CLASSES = (2, 2, 2), 8, 3, 3
G_WEIGHTS, G_CLASSES = waves(LATENT_DIM, PIXELS, phase=0.3) / 2, waves(CLASSES, phase=1.0)
D_WEIGHTS, D_SQUARES, D_CLASSES = waves(PIXELS, phase=2.0), waves(PIXELS, phase=0.9), waves(CLASSES, phase=0.1)
SCORES, EMBEDDING = waves(PIXELS, CLASSES, phase=1.4), waves(PIXELS, 2, phase=2.9)

PARAMS = {"generator": {"scale": 0.7, "shift": 0.4}, "discriminator": {"scale": 0.6, "tilt": -0.5}}
STATS = {"generator": 0.6, "discriminator": -0.8}


def generate(xp: Any, g, z, of_class, noise, level):
    """Images, flattened: of latents, what the class adds, one number of noise each, and a level for all."""
    return xp.tanh(g["scale"] * (z @ G_WEIGHTS + of_class[:, None]) + g["shift"] * noise[:, None] + level)


def judge(xp: Any, d, x, of_class, factor, level) -> Critique:
    """An opinion on images, flattened: quadratic in them; each has a factor of its own, and all one level."""
    linear, square = x @ D_WEIGHTS + of_class, x**2 @ D_SQUARES / 4
    logits = (d["scale"] * linear + d["tilt"] * square) * (1 + factor) + level
    features = xp.stack([d["scale"] * linear, d["tilt"] * square + level], axis=1)
    embedding = (x @ EMBEDDING) * xp.stack([d["scale"], d["tilt"]])[None]
    unit = embedding / xp.sqrt((embedding**2).sum(1))[:, None]
    return Critique(logits, features, d["scale"] * (x @ SCORES), unit)


def slopes(d, x, factor, level_slope):
    """The gradient of the sum of the logits by each image; the level may depend on all."""
    return (d["scale"] * D_WEIGHTS + d["tilt"] * x * D_SQUARES / 2) * (1 + factor)[:, None] + level_slope


def of_class(table, label, count):
    """What the class adds: nothing without classes."""
    return jnp.zeros(count) if label is None else jnp.float32(table)[label]


def uniform(example_keys, count):
    """One number a key; zero without keys."""
    return jnp.zeros(count) if example_keys is None else jax.vmap(jax.random.uniform)(example_keys)


def _mean(x, axis_name):
    mean = jnp.mean(x)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _scalars(module, **start):
    return {name: module.param(name, lambda key, value=value: jnp.float32(value)) for name, value in start.items()}


class Generator(nn.Module):
    """The level is the mean latent of the batch and a fifth of the running one, which is moved; or that alone."""

    image_shape: tuple[int, int, int] = SHAPE
    latent_dim: int = LATENT_DIM
    num_classes: int = 0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents, label=None, *, train, keys=None):
        running = self.variable("batch_stats", "mean", jnp.zeros, ())
        level, old = running.value, running.value
        if train:
            mean = _mean(latents, self.axis_name)
            level, running.value = mean + 0.2 * old, 0.75 * old + 0.25 * mean
        count = len(latents)
        noise, shift = uniform(keys, count), of_class(G_CLASSES, label, count)
        images = generate(jnp, _scalars(self, **PARAMS["generator"]), latents, shift, noise, level)
        return images.reshape(count, *self.image_shape)


class Discriminator(nn.Module):
    """The level is twice the mean pixel of the batch and half the running one, which is moved; or that alone."""

    num_classes: int = 0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, label=None, *, train, keys=None):
        running = self.variable("batch_stats", "mean", jnp.zeros, ())
        level, old, count = running.value, running.value, len(images)
        if train:
            mean = _mean(images, self.axis_name)
            level, running.value = 2.0 * mean + 0.5 * old, 0.75 * old + 0.25 * mean
        shift, factor = of_class(D_CLASSES, label, count), uniform(keys, count)
        x = images.reshape(count, -1)
        return judge(jnp, _scalars(self, **PARAMS["discriminator"]), x, shift, factor, level)


LAYERS, STYLE_DIM, W_DECAY = 3, 2, 0.6
MAPPING = waves(LATENT_DIM, STYLE_DIM, phase=0.3)
LINEAR, BENT = waves(LAYERS, STYLE_DIM, PIXELS, phase=1.1) / 2, waves(LAYERS, STYLE_DIM, PIXELS, phase=2.3) / 2
STYLED = {"style": 0.8, "gain": 1.3}
W_AVG = np.array([0.3, -0.2])


def styles(xp: Any, g, z, of_class):
    """The style of each latent, once for each layer."""
    w = g["style"] * xp.tanh(z @ MAPPING) + of_class[:, None]
    return xp.repeat(w[:, None], LAYERS, axis=1)


def varied(xp: Any, ws, factor):
    """Stands for mixing: in training, the layers from the second on are scaled."""
    return xp.concatenate([ws[:, :1], ws[:, 1:] * (1 + factor)[:, None, None]], axis=1)


def synthesize(xp: Any, g, ws, noise):
    """Images, flattened: quadratic in the styles, and one number of noise each."""
    linear, bent = (xp.einsum("bld,ldp->bp", ws, weights) for weights in (LINEAR, BENT))
    return g["gain"] * linear + bent**2 / 2 + noise[:, None]


def lengths(g, ws, y):
    """J^T y by the derivative of `synthesize`, with y over the root of 2 x 2 pixels."""
    own = g["gain"] * LINEAR + np.einsum("bke,kep,ldp->bldp", ws, BENT, BENT)
    return np.sqrt((np.einsum("bldp,bp->bld", own, y / 2.0) ** 2).sum(2).mean(1))


class StyleGenerator(nn.Module):
    """A generator in two halves."""

    has_noise = True

    image_shape: tuple[int, int, int] = SHAPE
    latent_dim: int = LATENT_DIM
    num_classes: int = 0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.own = _scalars(self, **STYLED)
        self.w_avg = self.variable("buffers", "w_avg", jnp.zeros, (STYLE_DIM,))

    def styles(self, latents, label=None):
        return styles(jnp, self.own, latents, of_class(G_CLASSES, label, len(latents)))

    def training_styles(self, latents, label, example_keys):
        ws = self.styles(latents, label)
        mean = jax.lax.stop_gradient(jnp.mean(ws[:, 0], axis=0))
        mean = mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)
        self.w_avg.value = W_DECAY * self.w_avg.value + (1 - W_DECAY) * mean
        return varied(jnp, ws, uniform(keys.fold_each(example_keys, "style"), len(ws)))

    def truncate(self, ws, *, psi, cutoff=None):
        w_avg, first = self.w_avg.value[None, None], jnp.arange(LAYERS) < (LAYERS if cutoff is None else cutoff)
        return jnp.where(first[None, :, None], w_avg + psi * (ws - w_avg), ws)

    def synthesize(self, ws, *, noise_keys=None, noise_mode="const"):
        constant = {"const": jnp.full(len(ws), 0.1), "none": jnp.zeros(len(ws))}
        noise = constant[noise_mode] if noise_mode in constant else uniform(noise_keys, len(ws))
        return synthesize(jnp, self.own, ws, noise).reshape(-1, *self.image_shape)

    def __call__(self, latents, label=None, *, train, keys=None):
        ws = self.training_styles(latents, label, keys) if train else self.styles(latents, label)
        return self.synthesize(ws, noise_keys=keys, noise_mode="const" if keys is None else "random")


def use(monkeypatch, method, generator=Generator) -> None:
    """Has a method of games build these networks, whatever its config names."""
    monkeypatch.setattr(method, "make_generator", lambda section, **given: generator(**given))
    monkeypatch.setattr(method, "make_discriminator", lambda section, **given: Discriminator(**given))
