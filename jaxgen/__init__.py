"""jaxgen: image generation in JAX, every family of models as pure functions behind one contract."""

__version__ = "0.1.0"
