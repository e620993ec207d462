"""`sample` of consistency models and MeanFlow against loops in float64, with formulas in the place of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from formula_models import CLASSES, KEYS, LABEL, SHAPE, VARIABLES, formula, noise_of
from specs import data_spec

from configs import consistency as consistency_config
from configs import meanflow as meanflow_config
from jaxgen.core.contract import Env
from jaxgen.methods.denoising import consistency, meanflow

SPEC = data_spec(SHAPE, CLASSES)
FEATURES, SCALE = 6, 20.0


class Network(nn.Module):
    """The formula of image, time and label; of a vector, the first entries of both halves are added to the label."""

    @nn.compact
    def __call__(self, x, noise_label, label=None, *, vector=None, train, dropout_keys=None):
        assert not train
        label = jnp.full(len(x), CLASSES) if label is None else label
        label = label if vector is None else label + vector[:, 0] - vector[:, FEATURES // 2]
        return self.param("gain", nn.initializers.ones, ()) * formula(jnp, x, noise_label, label)


CASES = [(LABEL, False), (LABEL[::-1], True), (None, True)]


@pytest.mark.parametrize(("label", "clip"), CASES)
@pytest.mark.parametrize("sigmas", [(), (2.0, 0.6)])
def test_consistency_models_take_turns_of_the_function_and_noise(sigmas, label, clip, monkeypatch):
    monkeypatch.setattr(consistency, "make_network", lambda *args, **given: Network())
    config = consistency_config.get_config("tiny")
    config.consistency.update({"sigma_min": 0.1, "sigma_max": 8.0, "sigma_data": 0.6, "noise_label": "log_sigma"})
    config.consistency.curriculum = "ect(sigma_min=0.1, sigma_max=8.0)"
    config.sampler.update({"sigmas": sigmas, "clip": clip})
    model = consistency.make(config, SPEC, Env())
    cond = None if label is None else {"label": jnp.asarray(label)}
    ours = jax.jit(model.sample)(KEYS, VARIABLES, cond)

    seen, x = (np.full(3, CLASSES) if label is None else label), 8.0 * noise_of("initial_noise")
    for k, sigma in enumerate((8.0, *sigmas)):
        if k:
            x = x + np.sqrt(sigma**2 - 0.1**2) * noise_of(k)
        out = formula(np, x / np.sqrt(sigma**2 + 0.36), np.full(3, np.log(sigma) / 4.0), seen)
        x = 0.36 / ((sigma - 0.1) ** 2 + 0.36) * x + 0.6 * (sigma - 0.1) / np.sqrt(sigma**2 + 0.36) * out
        x = np.clip(x, -1.0, 1.0) if clip else x
    np.testing.assert_allclose(ours, x, atol=1e-4)


@pytest.mark.parametrize(("label", "clip"), CASES)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_mean_flows_jump_by_the_average_velocity(num_steps, label, clip, monkeypatch):
    monkeypatch.setattr(meanflow, "make_network", lambda *args, **given: Network())
    config = meanflow_config.get_config("tiny")
    config.meanflow.update({"time_scale": SCALE, "interval_features": FEATURES})
    config.sampler.update({"num_steps": num_steps, "clip": clip})
    model = meanflow.make(config, SPEC, Env())
    cond = None if label is None else {"label": jnp.asarray(label)}
    ours = jax.jit(model.sample)(KEYS, VARIABLES, cond)

    seen, z, h = (np.full(3, CLASSES) if label is None else label), noise_of("initial_noise"), 1.0 / num_steps
    for t in np.arange(num_steps, 0, -1) * h:
        # The first of the sines, and of the cosines, of DDPM's embedding are of the interval's length itself.
        told = seen + np.sin(SCALE * h) - np.cos(SCALE * h)
        z = z - h * formula(np, z, np.full(3, SCALE * t), told)
    np.testing.assert_allclose(ours, np.clip(z, -1.0, 1.0) if clip else z, atol=1e-4)
