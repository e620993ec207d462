"""EDM's networks with given weights, raw and preconditioned, against the official outputs."""

import functools

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process import algebra, noise_labels, parameterizations, paths
from jaxgen.interop.format import Target
from jaxgen.interop.formats.edm import FORMAT
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.song_unet import SongUNet

TINY = functools.partial(SongUNet, 3, 16, (1, 2), 1, (8,), num_classes=10)

NETWORKS = {
    "edm_ddpmpp": TINY(),
    "edm_ncsnpp": TINY(
        embedding="fourier", noise_channel_multiplier=2, encoder="residual", resample_filter=(1, 3, 3, 1)
    ),
    "edm_adm": DhariwalUNet(3, 16, (1, 2), 1, (8,), num_classes=10),
}


# Path, parameterization and noise label of Karras et al. 2022, table 1.
PRECONDITIONINGS = {
    "D_edm": (paths.normalized(), parameterizations.edm(), lambda sigma: noise_labels.log_sigma()(None, sigma)),
    "D_vp": (paths.variance_preserving(), parameterizations.eps(), lambda sigma: noise_labels.vp_time()(None, sigma)),
    "D_ve": (
        paths.variance_exploding(),
        parameterizations.scaled_score(),
        lambda sigma: noise_labels.log_sigma(scale=1.0, divisor=2.0)(None, sigma),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parity_with_the_official_network(name):
    golden = golden_files.load(name)
    arrays = {key: jnp.asarray(array) for key, array in golden.inputs.items()}
    label, vector = jnp.argmax(arrays["class_labels"], axis=1), arrays.get("augment_labels")
    settings = FORMAT.settings(Target("denoising.diffusion", NETWORKS[name], {}), golden.state_dict)
    net = NETWORKS[name].clone(**settings)
    x, noise_label = arrays["x"], arrays["noise_labels"]
    variables = golden_files.variables(golden, FORMAT, net, x, noise_label, vector=vector, train=False)
    apply = jax.jit(lambda x, noise_label: net.apply(variables, x, noise_label, label, vector=vector, train=False))
    golden_files.assert_parity(apply(x, noise_label), golden.outputs["F"])
    for output, (path, parameterization, to_label) in PRECONDITIONINGS.items():
        m = algebra.mixture(path, parameterization, arrays["sigma"])
        x_t = algebra.per_image(m.alpha) * arrays["x_noisy_for_D"]
        denoised = algebra.clean(m, x_t, apply(x_t, to_label(arrays["sigma"])))
        golden_files.assert_parity(denoised, golden.outputs[output])


@pytest.mark.parametrize(("network", "has_frequencies"), [(SongUNet(3), True), (DhariwalUNet(3), False)])
def test_frequencies_are_settings_of_the_network_that_has_them(network, has_frequencies):
    frequencies = np.arange(4, dtype=np.float32) / 3
    target = Target("denoising.diffusion", network, {})
    settings = FORMAT.settings(target, {"map_noise.freqs": frequencies})
    assert list(settings) == ["frequencies"] * has_frequencies
    if has_frequencies:
        np.testing.assert_array_equal(np.float32(settings["frequencies"]), frequencies)
    assert FORMAT.settings(target, {}) == {}
