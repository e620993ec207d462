"""Conditions mean the same in every method: what is refused, and that None, {} and the null label are one condition."""

import functools

import formula_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import data_spec

from configs import autoencoder_kl, consistency, dcgan, ddpm, gan, glow, meanflow, stylegan2, vae
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env
from jaxgen.methods.denoising import consistency as consistency_method
from jaxgen.methods.denoising import diffusion
from jaxgen.methods.denoising import meanflow as meanflow_method

N, CLASSES = 3, 4
DIGITS = data_spec((8, 8, 1), 10)
LABEL = jnp.array([1, 3, 0])
NEEDS_LABEL = r"^The model needs 'label' for every example, since it was never trained without\.(\n|$)"


def config_of(module, section, **changes):
    config = module.get_config("tiny")
    for name, value in changes.items():
        part, key = name.split("__") if "__" in name else (section, name)
        config[part][key] = value
    return config


ALWAYS_TOLD = {
    "vae": (vae, "vae", {}),
    "dcgan": (dcgan, "gan", {}),
    "stylegan2": (stylegan2, "gan", {}),
    "flow": (glow, "flow", {}),
    "diffusion": (
        ddpm, "diffusion", {"label_dropout": 0.0, "likelihood": "bound", "sampler__guidance_scale": 1.0},
    ),
    "diffusion with a likelihood by the ODE": (
        ddpm, "diffusion", {"label_dropout": 0.0, "likelihood": "ode", "sampler__guidance_scale": 1.0},
    ),
    "meanflow": (meanflow, "meanflow", {"label_dropout": 0.0, "guidance_scale": 1.0, "guidance_mix": 0.0}),
    "consistency": (consistency, "consistency", {"label_dropout": 0.0}),
}  # fmt: skip
"""Class-conditional models that training never hides the class from."""

UNTOLD = {
    "gan": (gan, "gan", {}),
    "autoencoder_kl": (autoencoder_kl, "autoencoder", {}),
    "vae": (vae, "vae", {"class_conditional": False}),
    "dcgan": (dcgan, "gan", {"class_conditional": False}),
    "stylegan2": (stylegan2, "gan", {"class_conditional": False}),
    "flow": (glow, "flow", {"class_conditional": False}),
    "diffusion": (
        ddpm, "diffusion",
        {"class_conditional": False, "label_dropout": 0.0, "likelihood": "bound", "sampler__guidance_scale": 1.0},
    ),
    "meanflow": (
        meanflow, "meanflow",
        {"class_conditional": False, "label_dropout": 0.0, "guidance_scale": 1.0, "guidance_mix": 0.0},
    ),
    "consistency": (consistency, "consistency", {"class_conditional": False, "label_dropout": 0.0}),
}  # fmt: skip
"""Unconditional models."""


@pytest.fixture(autouse=True)
def formulas(monkeypatch):
    """Conditions are checked before any network sees them, so that one without layers will do."""
    for method in (diffusion, meanflow_method, consistency_method):
        monkeypatch.setattr(method, "make_network", formula_network.make_formula)


@functools.cache
def built(name, *, told):
    """A model, and the shapes of what it samples from."""
    module, section, changes = (ALWAYS_TOLD if told else UNTOLD)[name]
    config = config_of(module, section, **({"class_conditional": True} if told else {}), **changes)
    model = build_model(config, DIGITS)
    return model, shapes_of_variables(model)


def functions(model):
    """The functions of a model that take conditions, as functions of variables and conditions."""
    image_keys = keys.per_example(keys.root_key(3), jnp.arange(N))
    images = jax.random.uniform(jax.random.key(1), (N, *model.spec.image_shape), minval=-1.0)
    latents = jax.random.normal(jax.random.key(2), (N, *(model.spec.latent_shape or model.spec.image_shape)))
    sigma = jnp.array([0.3, 1.0, 4.0])
    found = {
        "sample": lambda variables, cond: model.sample(image_keys, variables, cond),
        "log_prob": model.log_prob and (lambda variables, cond: model.log_prob(image_keys, variables, images, cond)),
        "encode": model.encode and (lambda variables, cond: model.encode(image_keys, variables, images, cond)),
        "posterior": model.posterior and (lambda variables, cond: model.posterior(variables, images, cond)),
        "decode": model.decode and (lambda variables, cond: model.decode(variables, latents, cond)),
        "denoise": model.denoise and (lambda variables, cond: model.denoise(variables, images, sigma, cond)),
    }
    return {name: function for name, function in found.items() if function is not None}


def batch_of(model):
    shape = (model.microbatches, N)
    image = jnp.zeros((*shape, *model.spec.image_shape), jnp.uint8)
    index = jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape)
    return {"image": image, "index": index, "label": index % CLASSES}


def shapes_of_variables(model):
    return jax.eval_shape(lambda batch: model.eval_variables(model.init(keys.root_key(0), batch)), batch_of(model))


FUNCTIONS = {
    "vae": {"sample", "log_prob", "encode", "posterior", "decode"},
    "dcgan": {"sample", "decode"},
    "stylegan2": {"sample", "decode"},
    "gan": {"sample", "decode"},
    "flow": {"sample", "log_prob", "encode", "decode"},
    "autoencoder_kl": {"sample", "encode", "posterior", "decode"},
    "diffusion": {"sample", "log_prob", "encode", "decode", "denoise"},
    "meanflow": {"sample", "denoise"},
    "consistency": {"sample"},
}


@pytest.mark.parametrize("name", ALWAYS_TOLD)
def test_a_model_that_was_never_trained_without_its_class_refuses_to_do_without(name):
    model, variables = built(name, told=True)
    assert not model.spec.conditioning["label"].null
    found = functions(model)
    assert set(found) == FUNCTIONS[name.split()[0]]
    for function in found.values():
        jax.eval_shape(lambda variables, own=function: own(variables, {"label": LABEL}), variables)
        for cond in (None, {}):
            with pytest.raises(ValueError, match=NEEDS_LABEL):
                jax.eval_shape(lambda variables, own=function, cond=cond: own(variables, cond), variables)


@pytest.mark.parametrize("name", ALWAYS_TOLD)
def test_unknown_and_misshapen_conditions_are_refused_by_name(name):
    model, variables = built(name, told=True)
    wrong = {
        "was given 'caption', but takes label: leave it out": {"label": LABEL, "caption": LABEL},
        r"'label' is int32\[2\], but must be integers of shape \[3\]": {"label": LABEL[:2]},
        r"'label' is float32\[3\], but must be integers of shape \[3\]": {"label": LABEL.astype(jnp.float32)},
    }
    for function in functions(model).values():
        for sentence, cond in wrong.items():
            with pytest.raises(ValueError, match=sentence):
                jax.eval_shape(lambda variables, own=function, cond=cond: own(variables, cond), variables)


@pytest.mark.parametrize("name", UNTOLD)
def test_a_model_that_is_told_nothing_refuses_to_be_told(name):
    model, variables = built(name, told=False)
    assert model.spec.conditioning == {}
    found = functions(model)
    assert set(found) == FUNCTIONS[name]
    for function in found.values():
        for cond in (None, {}):
            jax.eval_shape(lambda variables, own=function, cond=cond: own(variables, cond), variables)
        with pytest.raises(ValueError, match="was given 'label', but takes nothing: leave it out"):
            jax.eval_shape(lambda variables, own=function: own(variables, {"label": LABEL}), variables)


HIDDEN_AT_TIMES = {
    "diffusion": (diffusion, ddpm, "diffusion", {"likelihood": "bound", "sampler__guidance_scale": 1.0}),
    "guided diffusion": (
        diffusion,
        ddpm,
        "diffusion",
        {"likelihood": "ode", "likelihood_steps": 2, "sampler__guidance_scale": 3.0},
    ),
    "meanflow": (meanflow_method, meanflow, "meanflow", {"guidance_scale": 1.0, "guidance_mix": 0.0}),
    "consistency": (consistency_method, consistency, "consistency", {}),
}


@pytest.mark.parametrize("name", HIDDEN_AT_TIMES)
def test_nothing_an_empty_mapping_and_the_null_label_are_one_condition(name):
    method, module, section, changes = HIDDEN_AT_TIMES[name]
    config = config_of(module, section, class_conditional=True, label_dropout=0.2, **changes)
    if section == "diffusion":
        config.diffusion.schedule = "linear(num_timesteps=24)"
        config.sampler.update({"name": "ddim", "levels": "timesteps", "num_steps": 4})
    model = method.make(config, data_spec((2, 3, 2), CLASSES), Env())
    assert model.spec.conditioning["label"].null
    variables = jax.jit(lambda batch: model.eval_variables(model.init(keys.root_key(0), batch)))(batch_of(model))
    found = functions(model)
    if name == "guided diffusion":  # the others know nothing of guidance, and are those of "diffusion"
        found = {function: found[function] for function in ("sample", "log_prob")}
    run = jax.jit(lambda variables, cond: {key: function(variables, cond) for key, function in found.items()})
    nothing, empty = run(variables, None), run(variables, {})
    null, some = (run(variables, {"label": label}) for label in (jnp.full(N, CLASSES), LABEL.at[1].set(CLASSES)))
    for key in found:
        np.testing.assert_array_equal(empty[key], nothing[key])
        np.testing.assert_allclose(null[key], nothing[key], rtol=1e-5, atol=1e-5)
        assert np.abs(np.asarray(some[key] - nothing[key])[[0, 2]]).reshape(2, -1).max(1).min() > 1e-3
        np.testing.assert_allclose(some[key][1], nothing[key][1], rtol=1e-5, atol=1e-5)
