"""From a config to a model: the method is found by name, the wrappers that every family shares are put around it."""

from jaxgen.core import config as configs
from jaxgen.core import latents
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec
from jaxgen.core.wrappers import EMA_NEEDS, skip_nonfinite, with_ema, with_preprocessing


def build_model(config: configs.Section, spec: ModelSpec, env: Env = Env()) -> GenerativeModel:
    """Builds the model of `config.method` for data of the given shape and conditions.

    Raises:
      ValueError: if the method does not exist, a setting is unknown or of a wrong type, or a finished model in
        `env.frozen` is of no use.
    """
    model = _method(config, spec, env)
    if latents.ROLE in env.frozen:
        autoencoder = env.frozen[latents.ROLE]
        model = latents.with_latents(model, autoencoder, latents.latent_kind(spec, autoencoder.spec))
    else:
        model = with_preprocessing(model, flip=config.data.flip)
    _check_roles(model, env)
    model = _averaged(config, model)
    return skip_nonfinite(model) if config.train.nonfinite == "skip" else model


def build_inner(config: configs.Section, spec: ModelSpec, env: Env = Env()) -> GenerativeModel:
    """Builds the model as another one of the same data reads it: of latents where it was trained on latents.

    Raises:
      ValueError: as `build_model`.
    """
    return _averaged(config, _method(config, spec, env))


def _method(config: configs.Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    method = configs.resolve("jaxgen.methods", config.method, where="method")
    if latents.ROLE in env.frozen:
        spec = latents.latent_spec(spec, env.frozen[latents.ROLE])
    for role, model in env.frozen.items():
        if role != latents.ROLE and model.spec.image_shape != spec.image_shape:
            raise ValueError(
                f"frozen.{role} is a model of images {model.spec.image_shape}, but those of this run are "
                f"{spec.image_shape}: name a run on the same data."
            )
    return method.make(config, spec, env)


def _averaged(config: configs.Section, model: GenerativeModel) -> GenerativeModel:
    return configs.call(with_ema, config.ema, where="ema", needs=EMA_NEEDS, model=model)


def _check_roles(model: GenerativeModel, env: Env) -> None:
    for role in env.frozen:
        if role not in model.frozen:
            raise ValueError(f"frozen.{role} names a run, but this method has no use for one: set it to None.")
