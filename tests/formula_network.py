"""A network that is a formula, to write losses out in NumPy, and gradients as finite differences of these."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

NUM_CLASSES = 4
OF_CLASS = np.array([0.3, -0.5, 0.2, 0.7, -0.9], np.float32)
"""What a label adds; the last is the null token."""


def column(values):
    """Makes one number an image ready to multiply images."""
    return values[:, None, None, None]


def mixing(inputs: int, outputs: int) -> np.ndarray:
    """What each channel that comes in has to do with each that goes out."""
    i, j = np.arange(inputs)[:, None], np.arange(outputs)[None, :]
    return (0.7 - 0.4 * i + 0.3 * j - 0.2 * i * j).astype(np.float32)


def formula(params, x, noise_label, of_class, *, vector=None, gain=None, outputs: int, xp: Any = np):
    """The formula gain (tanh(a x) M + b n / (10 + |n|) + of_class + f . vector), of parameters a, b, f."""
    out = xp.tanh(x * params["a"][None, None, None, :]) @ mixing(x.shape[-1], outputs)
    scalars = params["b"] * noise_label / (10.0 + abs(noise_label)) + of_class
    if vector is not None:
        scalars = scalars + vector @ params["f"]
    out = out + column(scalars)
    return out if gain is None else column(gain) * out


def parameters(channels: int, vector: int = 0) -> dict[str, np.ndarray]:
    """The parameters of the formula at the start."""
    i = np.arange(channels)
    params = {"a": 0.9 - 0.5 * i + 0.1 * i**2, "b": np.asarray(0.8)}
    if vector:
        params["f"] = 0.2 * np.cos(1.0 + np.arange(vector))
    return {name: value.astype(np.float32) for name, value in params.items()}


def gains(dropout_keys):
    """What stands for dropout: a factor for each example."""
    return jax.vmap(lambda key: jax.random.uniform(key, minval=0.5, maxval=1.5))(dropout_keys)


class Formula(nn.Module):
    """The formula as a network of `nn.networks.DiffusionNetwork`; outside training it takes no dropout keys."""

    out_channels: int
    num_classes: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        assert self.has_variable("params", "a") == (not self.is_initializing())
        start = parameters(x.shape[-1], 0 if vector is None else vector.shape[-1])
        params = {name: self.param(name, lambda key, value=value: jnp.asarray(value)) for name, value in start.items()}
        assert dropout_keys is None or train
        assert noise_label.shape == (len(x),)
        gain = gains(dropout_keys) if train else None
        of_class = jnp.zeros(len(x))
        if self.num_classes:
            of_class = jnp.asarray(OF_CLASS)[jnp.full(len(x), self.num_classes) if label is None else label]
        else:
            assert label is None
        out = self.out_channels
        return formula(params, x, noise_label, of_class, vector=vector, gain=gain, outputs=out, xp=jnp)


def make_formula(section, *, out_channels, num_classes, dtype, **rest):
    """In the place of `make_network`."""
    assert section.name
    return Formula(out_channels, num_classes, dtype)


class Recorder(nn.Module):
    """Calls `record` with what it sees of a batch: images, noise labels, labels and, if there is one, the vector."""

    record: Callable
    out_channels: int

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        a = self.param("a", lambda key: jnp.zeros(()))
        if train:
            arrays = (x, noise_label, label, *(() if vector is None else (vector,)))
            jax.debug.callback(lambda *arrays: self.record([*map(np.array, arrays)]), *arrays)
        return a * x[..., : self.out_channels]


def numeric_gradient(loss, params, step: float = 1e-5):
    """Central differences of a function of a dict of arrays, or of a dict of such dicts, in float64."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    leaves, treedef = jax.tree.flatten(params)
    grads = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, grad in zip(leaves, grads, strict=True):
        for index in np.ndindex(leaf.shape):
            value = leaf[index]
            leaf[index] = value + step
            above = loss(treedef.unflatten(leaves))
            leaf[index] = value - step
            grad[index] = (above - loss(treedef.unflatten(leaves))) / (2 * step)
            leaf[index] = value
    return treedef.unflatten(grads)


def assert_gradient(actual, loss, params, rtol: float = 2e-3):
    """Compares a tree of gradients with the finite differences of a loss; each leaf must matter."""
    expected = numeric_gradient(loss, params)
    for leaf in jax.tree.leaves(expected):
        assert np.abs(leaf).min() > 1e-6, expected
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-4 * scale), actual, expected)
