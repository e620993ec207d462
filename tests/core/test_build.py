import jax
import jax.numpy as jnp
import pytest

from configs import vae
from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.contract import ModelSpec

SPEC = ModelSpec((8, 8, 1), 10)


def test_an_unknown_method_is_refused_with_those_there_are():
    config = vae.get_config("tiny")
    config.method = "vae.vea"
    with pytest.raises(
        ValueError, match=r"^method is 'vae\.vea', but must be one of .*vae\.vae.*Did you mean vae\.vae"
    ):
        build_model(config, SPEC)


@pytest.mark.parametrize(("nonfinite", "skips"), [("stop", False), ("skip", True), ("rollback", False)])
def test_the_settings_choose_the_wrappers(nonfinite, skips):
    config = vae.get_config("tiny")
    config.train.nonfinite, config.ema.include = nonfinite, "params/.*bias"
    model = build_model(config, SPEC)
    index = jnp.arange(4)[None]
    batch = {"image": jnp.zeros((1, 4, 8, 8, 1), jnp.uint8), "index": index, "label": index}
    state = jax.eval_shape(model.init, keys.root_key(0), batch)
    _, metrics = jax.eval_shape(model.update, keys.root_key(0), state, batch)
    assert ("skipped" in metrics) == skips
    assert state.ema
    assert all(name.endswith("bias") for name in state.ema)
