"""The energy of strided convolutions: one output of the encoder for each class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.conv_autoencoder import ConvEncoder
from jaxgen.nn.energy import make_energy

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 4, 8, 2))
LABEL = jnp.array([2, 0, 1])
FIELDS = {"width": 3, "max_width": 5, "hidden": 6, "base_side": 1}


def make(num_classes):
    return make_energy({"name": "conv_energy.ConvEnergy", **FIELDS}, num_classes=num_classes, dtype=jnp.float32)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_energy_is_the_output_of_the_encoder_for_the_class(num_classes):
    label = LABEL if num_classes else None

    @jax.jit
    def both(key):
        found, variables = make(num_classes).init_with_output(key, X, label, train=True, method="energies")
        encoder = {"params": variables["params"]["encoder"]}
        return found, ConvEncoder(max(num_classes, 1), **FIELDS).apply(encoder, X), variables

    found, outputs, variables = both(KEY)
    assert sorted(variables) == ["params"]
    np.testing.assert_allclose(found, outputs[np.arange(3), LABEL if num_classes else 0], rtol=1e-5)
    assert len(np.unique(outputs)) == outputs.size
    kernels = variables["params"]["encoder"]
    assert [kernels[name]["kernel"].shape[-1] for name in ("conv_0", "conv_1", "hidden")] == [3, 5, 6]


def test_what_does_not_fit_is_refused():
    def init(network, images, label=None):
        return jax.eval_shape(lambda: network.init(KEY, images, label, train=False, method="energies"))

    with pytest.raises(ValueError, match="unconditional network was given labels"):
        init(make(0), X, LABEL)
    with pytest.raises(ValueError, match="needs a label for each image"):
        init(make(3), X)
    with pytest.raises(ValueError, match=r"Images of 5x8 pixels .* cannot be halved evenly"):
        init(make(0), jnp.zeros((1, 5, 8, 2)))
