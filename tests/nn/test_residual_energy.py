"""The residual energy: sizes, what each of its fields does, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.energy import make_energy
from jaxgen.nn.residual_energy import ResidualEnergy

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 4, 6, 1))
LABEL = jnp.array([2, 0, 1])
SMALL = {"name": "residual_energy.ResidualEnergy", "channels": (3, 4), "num_blocks": 1, "num_downsampling": 1}


def make(num_classes=0, **changes):
    return make_energy({**SMALL, **changes}, num_classes=num_classes, dtype=jnp.float32)


def init(network, images=X, label=None):
    return jax.jit(partial(network.init, train=False, method="energies"))(KEY, images, label)


def energies(network, variables, images=X, label=None):
    return network.apply(variables, images, label, train=False, method="energies")


@pytest.fixture(scope="module")
def variables():
    return init(make())


@pytest.mark.parametrize(
    ("shape", "downsampling"), [((8, 8, 1), 2), ((28, 28, 1), 2), ((7, 9, 2), 0), ((32, 48, 3), 1)]
)
def test_images_of_any_size_have_one_energy_each(shape, downsampling):
    network = make(num_downsampling=downsampling, num_blocks=2)
    images = jax.ShapeDtypeStruct((5, *shape), jnp.float32)
    found, variables = jax.eval_shape(
        lambda images: network.init_with_output(KEY, images, train=False, method="energies"), images
    )
    assert (found.shape, found.dtype) == ((5,), jnp.float32)
    assert sorted(variables["params"]) == ["block_0_0", "block_0_1", "block_1_0", "block_1_1", "head", "stem"]
    assert sorted(variables) == ["params"]


def conv(x, layer):
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=layout)
    return y + layer["bias"][None, None, None]


def halved(x):
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def swish(x):
    return x / (1 + jnp.exp(-x))


def by_hand(params):
    """Two stages of one block: convolution, swish before each convolution, averages, shortcuts, sum, linear layer."""
    x = conv(X, params["stem"])
    for name, shrink in (("block_0_0", halved), ("block_1_0", lambda x: x)):
        block = params[name]
        y = conv(swish(conv(swish(x), block["conv_0"])), block["conv_1"])
        x = shrink(y) + shrink(x) @ block["shortcut"]["kernel"] + block["shortcut"]["bias"][None, None, None]
    head = params["head"]["out"]
    return swish(x).sum((1, 2)) @ head["kernel"][:, 0] + head["bias"]


def test_the_energy_by_hand_and_the_effects_of_its_fields(variables):
    """The gradient is smooth: score matching learns it, which a piecewise linear energy has no derivatives for."""
    direction = jax.random.normal(jax.random.key(1), X.shape)

    @jax.jit
    def all_of_them(variables):
        found = {"": energies(make(), variables), "by hand": by_hand(variables["params"])}
        found |= {name: energies(make(activation=name), variables) for name in ("gelu", "softplus")}
        found["mean"] = energies(make(pooling="mean"), variables)
        found["alone"] = energies(make(), variables, X[1:2])
        gradient = jax.grad(lambda x: energies(make(), variables, x).sum())
        return found, jax.jvp(gradient, (X,), (direction,))[1]

    found, curvature = all_of_them(variables)
    bias = variables["params"]["head"]["out"]["bias"]
    np.testing.assert_allclose(found[""], found["by hand"], rtol=1e-4)
    np.testing.assert_allclose(found["mean"] - bias, (found[""] - bias) / 6, rtol=1e-4)
    np.testing.assert_allclose(found["alone"], found[""][1:2], rtol=1e-4)
    assert all(np.abs(found[a] - found[b]).min() > 1e-3 for a, b in (("", "gelu"), ("", "softplus")))
    assert np.abs(curvature).max() > 1e-2


def test_classes_add_an_inner_product_with_the_features():
    network = make(num_classes=3)
    variables = init(network, label=LABEL)
    head = variables["params"]["head"]
    without = {"params": {**variables["params"], "head": {"out": head["out"]}}}

    @jax.jit
    def all_classes(variables, without):
        own = jnp.stack([energies(network, variables, label=jnp.full(3, k)) for k in range(3)])
        return own, energies(make(), without)

    found, plain = all_classes(variables, without)
    of_class = np.asarray(found - plain[None])
    table = np.asarray(head["label"]["embedding"])  # [3, 4], of rank 3
    features = np.linalg.lstsq(table, of_class, rcond=None)[0]
    np.testing.assert_allclose(table @ features, of_class, atol=1e-4)
    assert np.abs(of_class).min() > 1e-4


def test_spectral_normalization_divides_by_singular_values_that_follow_training():
    network = make(spectral_norm=True, channels=(3,))
    variables = init(network)
    assert sorted(variables["spectral"]) == ["block_0_0", "head", "stem"]

    def train(spectral, _):
        variables_now = {"params": variables["params"], **spectral}
        return network.apply(variables_now, X, train=True, mutable=["spectral"], method="energies")[::-1]

    @jax.jit
    def all_of_them(params, spectral):
        spectral, _ = jax.lax.scan(train, {"spectral": spectral}, None, length=100)
        scaled = jax.tree.map(lambda p: 3.0 * p if p.ndim > 1 else p, params)
        return spectral, *(energies(network, {"params": p, **spectral}) for p in (params, scaled))

    spectral, plain, of_scaled = all_of_them(variables["params"], variables["spectral"])
    np.testing.assert_allclose(of_scaled, plain, rtol=1e-4)
    sigma = np.linalg.norm(np.asarray(variables["params"]["stem"]["kernel"]).reshape(-1, 3), 2)
    np.testing.assert_allclose(spectral["spectral"]["stem"]["sigma"], sigma, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_downsampling": 3}, r"model\.num_downsampling is 3, but must lie in \[0, 2\].* model\.channels"),
        ({"num_downsampling": -1}, r"model\.num_downsampling is -1, but must lie in \[0, 2\]"),
        ({"num_downsampling": 2}, r"4x6 pixels .* multiples of 4, .* or lower model\.num_downsampling"),
        ({"channels": ()}, r"model\.channels is \(\), but must have at least one number"),
        ({"channels": (3, 0)}, r"model\.channels is \(3, 0\), .* all positive"),
        ({"num_blocks": 0}, r"model\.num_blocks is 0, but must be at least 1"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda: make(**changes).init(KEY, X, train=False, method="energies"))


def test_labels_and_classes_go_together():
    with pytest.raises(ValueError, match="unconditional network was given labels"):
        jax.eval_shape(lambda: make().init(KEY, X, LABEL, train=False, method="energies"))
    with pytest.raises(ValueError, match="needs a label for each image"):
        jax.eval_shape(lambda: make(num_classes=3).init(KEY, X, train=False, method="energies"))


@pytest.mark.parametrize("name", ["sngan.Discriminator", "residual_energy.Absent", "unet.UNet"])
def test_only_energies_are_found(name):
    with pytest.raises(ValueError, match=r"model\.name of \w+ is '\w+', but must be one of"):
        make_energy({"name": name}, num_classes=0, dtype=jnp.float32)


def test_the_default_network_is_that_of_the_paper():
    assert ResidualEnergy().channels == (128, 256, 512)
