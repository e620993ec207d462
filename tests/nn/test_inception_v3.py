import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn import inception
from jaxgen.nn.inception import InceptionV3


def test_number_of_parameters_and_statistics():
    """As officially, where it is 23,834,568 with 1,000 classes in the place of 1,008."""
    shapes = jax.eval_shape(lambda: InceptionV3().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8)))
    assert trees.count(shapes["params"]) == 23_850_960
    assert trees.count(shapes["batch_stats"]) == 2 * 17_216
    assert len(jax.tree.leaves(shapes)) == 94 * 5 + 2  # 94 convolutions with four numbers a channel, and classes


@pytest.mark.parametrize("side", [7, 299, 598])
def test_resize_samples_lines_from_the_corner(side):
    """Of a plane, interpolation is exact: pixel i is at i * side / 299, but for those beyond the last one."""
    rows, columns = np.mgrid[:side, :10].astype(np.float32)
    resized = inception._resize(jnp.asarray(3 * rows - columns)[None, ..., None])[0, ..., 0]
    at = [np.minimum(np.arange(299) * n / 299, n - 1) for n in (side, 10)]
    np.testing.assert_allclose(resized, 3 * at[0][:, None] - at[1], atol=1e-3)
