"""Eight CPU devices for every test, and jaxtyping's shape annotations checked at each call.

Compilation is most of the time that the tests take, and their models are small: hence no optimization.
"""

import os

_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("jaxgen", "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
