"""Adversarial losses, gradients and averages in float64 NumPy, for tests that compute a whole update by hand."""

import copy
import re
from collections.abc import Callable

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.core.contract import Env, ModelSpec


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _cross_entropy(real, fake):
    return -log_sigmoid(real) - log_sigmoid(-fake)


GAMES = {
    "minimax": (lambda fake: log_sigmoid(-fake), _cross_entropy),
    "non_saturating": (lambda fake: -log_sigmoid(fake), _cross_entropy),
    "least_squares": (lambda fake: (fake - 1) ** 2 / 2, lambda real, fake: (real - 1) ** 2 / 2 + fake**2 / 2),
    "hinge": (lambda fake: -fake, lambda real, fake: np.maximum(1 - real, 0) + np.maximum(1 + fake, 0)),
    "wasserstein": (lambda fake: -fake, lambda real, fake: fake - real),
}
"""The losses of generator, by logits of generated images, and of discriminator, by those of real and generated ones."""


def float64(tree):
    """A nested dict of arrays in float64."""
    return {k: float64(v) for k, v in tree.items()} if isinstance(tree, dict) else np.array(tree, np.float64)


def slope(loss: Callable[[dict], float], params: dict, *, eps: float = 1e-5) -> dict:
    """The gradient of a loss of a dict of arrays, by central differences."""
    out = {name: np.zeros_like(value) for name, value in params.items()}
    for name, value in params.items():
        for i in np.ndindex(value.shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = np.array(value)
                moved[i] += sign * eps
                ends.append(loss({**params, name: moved}))
            out[name][i] = (ends[0] - ends[1]) / (2 * eps)
    return out


def descend(params: dict, gradient: dict, rate: float) -> dict:
    """A step of gradient descent."""
    return {name: value - rate * gradient[name] for name, value in params.items()}


def waves(*shape: int, phase: float) -> np.ndarray:
    """Numbers without any symmetry, for the weights of a formula."""
    return np.cos(phase + 1.7 * np.arange(np.prod(shape))).reshape(shape)


def assert_close(ours: dict, theirs: dict, rtol: float = 2e-4) -> None:
    """Whether two dicts of arrays agree, and have the same names."""
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=1e-5, err_msg=name)


def assert_sections_name_themselves(make: Callable, config: ConfigDict, spec: ModelSpec, *sections: str) -> None:
    """Whether a misspelt setting of each section is refused by the section's name."""
    for name in sections:
        wrong = copy.deepcopy(config)
        section = wrong
        for part in name.split("."):
            section = section[part]
        section.misspelt = 1
        with pytest.raises(ValueError, match=rf"^{re.escape(name)}\.misspelt is not a setting; "):
            make(wrong, spec, Env())


def norms_of(make: Callable, config: ConfigDict, spec: ModelSpec, batch: dict) -> set[str]:
    """The names of the norms by module that a model logs where it is asked for them."""
    model = make(config, spec, Env(norms_depth=1))
    state = jax.eval_shape(model.init, jax.random.key(0), batch)
    _, metrics = jax.eval_shape(model.update, jax.random.key(0), state, batch)
    return {name.removeprefix("update_norm/") for name in metrics if name.startswith("update_norm/")}
