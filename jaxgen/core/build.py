"""From a config to a model: the method is found by name, the wrappers that every family shares are put around it."""

from ml_collections import ConfigDict

from jaxgen.core import config as configs
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec
from jaxgen.core.latents import latent_spec, with_latents
from jaxgen.core.wrappers import EMA_NEEDS, skip_nonfinite, with_ema, with_preprocessing


def build_model(config: ConfigDict, spec: ModelSpec, env: Env = Env()) -> GenerativeModel:
    """Builds the model of `config.method` for images of the given shape and classes.

    Raises:
      ValueError: if the method does not exist, or a setting is unknown or of a wrong type.
    """
    configs.check_shared(config)
    method = configs.resolve("jaxgen.methods", config.method, where="method")
    if env.frozen is None:
        model = with_preprocessing(method.make(config, spec, env), flip=config.data.flip)
    else:
        model = with_latents(method.make(config, latent_spec(spec, env.frozen), env), env.frozen)
    model = configs.call(with_ema, config.ema, where="ema", needs=EMA_NEEDS, model=model)
    return skip_nonfinite(model) if config.train.nonfinite == "skip" else model
