"""Checks that hold for every flow: the inverse is one, and log-determinants are those of the Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np


def shaken(variables, key, *, size=0.1):
    """Variables with parameters moved at random, so that nothing is at its special start; constants stay.

    The moves are constants of the program, hence the key a constant, too: to draw them in the program, leaf by leaf,
    would take most of its compilation.
    """
    leaves, tree = jax.tree.flatten(variables["params"])
    with jax.ensure_compile_time_eval():
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    moved = [leaf + np.float32(size * rng.standard_normal(leaf.shape)) for leaf in leaves]
    return {**variables, "params": jax.tree.unflatten(tree, moved)}


def random_params(init, *, size=0.5):
    """Variables of the shapes of these, whose parameters are all random, and constants 1: no program is compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init)
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0.0, size, leaf.shape)), shapes["params"])
    constants = {kind: tree for kind, tree in shapes.items() if kind != "params"}
    return {"params": params, **jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), constants)}


def measured(forward, inverse, x):
    """The outputs of both directions, and the log-determinant of the first image's Jacobian by autodiff.

    `forward` maps a batch and the numbers of its examples to latents and log-determinants, `inverse` latents back.
    """
    number = jnp.arange(len(x))

    def first(image):
        latents, log_det = forward(x.at[0].set(image), number)
        return latents[0].reshape(-1), (latents, log_det)

    jacobian, (latents, log_det) = jax.jacfwd(first, has_aux=True)(x[0])
    return {
        "latents": latents,
        "log_det": log_det,
        "back": inverse(latents, number),
        "by_autodiff": jnp.linalg.slogdet(jacobian.reshape(x[0].size, x[0].size))[1],
    }


def assert_exact(found, x):
    """The inverse within 1e-5, the log-determinant within 1e-4, of a map that is not trivial."""
    np.testing.assert_allclose(found["back"], x, atol=1e-5)
    np.testing.assert_allclose(found["log_det"][0], found["by_autodiff"], atol=1e-4, rtol=1e-5)
    assert found["log_det"].dtype == jnp.float32
    assert np.abs(found["log_det"]).min() > 1e-2
    assert np.abs(np.asarray(found["latents"]).reshape(x.shape) - x).max() > 0.1
