"""iDDPM and ADM with given weights, against the official outputs."""

import golden_files
import jax
import jax.numpy as jnp
import pytest

from jaxgen.interop.formats import adm, iddpm
from jaxgen.nn.adm_unet import ADMUNet


@pytest.mark.parametrize(("name", "format_"), [("adm", adm.FORMAT), ("iddpm", iddpm.FORMAT)])
def test_parity_with_the_official_network(name, format_):
    golden = golden_files.load(name)
    x, t = jnp.asarray(golden.inputs["x"]), jnp.asarray(golden.inputs["t"], jnp.float32)
    label = jnp.asarray(golden.inputs["y"], jnp.int32)
    net = ADMUNet(6, 32, (1, 2), 1, (8,), resblock_updown=name == "adm", num_classes=10)
    variables = golden_files.variables(golden, format_, net, x, t, train=False)
    out = jax.jit(lambda *args: net.apply(*args, train=False))(variables, x, t, label)
    golden_files.assert_parity(out, golden.outputs["out"])
