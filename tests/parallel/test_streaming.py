import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import keys
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sampling
from jaxgen.parallel.streaming import StreamedMap

KEY = keys.root_key(3)


def noisy(row_keys, variables, rows):
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(row_keys)
    return variables["scale"] * rows["image"].astype(jnp.float32) + rows["label"][:, None] + noise


@pytest.mark.parametrize("parts", [[11], [1] * 11, [3, 8], [9, 2], [8, 3]])
@pytest.mark.parametrize(("batch_size", "devices"), [(3, 2), (100, 4), (1, 1)])
def test_results_are_those_of_all_rows_at_once_however_they_come(parts, batch_size, devices):
    rows = {"image": np.arange(22, dtype=np.uint8).reshape(11, 2), "label": np.arange(11, dtype=np.int32) % 3}
    mesh, variables = meshes.make_mesh(devices), {"scale": jnp.array(0.3)}
    whole = sampling.map_batches(
        noisy, mesh, keys.per_example(KEY, jnp.arange(11)), variables, rows, batch_size=batch_size
    )
    taken, sizes = [], []

    def take(some, results):
        assert len(some["image"]) == len(results)
        taken.append((some["image"], results))
        sizes.append(len(results))

    streamed = StreamedMap(noisy, mesh, variables, key=KEY, count=11, batch_size=batch_size, take=take)
    start = 0
    for part in parts:
        streamed.add({name: array[start : start + part] for name, array in rows.items()})
        start += part
    images, results = (np.concatenate(some) for some in zip(*taken, strict=True))
    np.testing.assert_array_equal(results, np.concatenate(list(whole)))
    np.testing.assert_array_equal(images, rows["image"])
    size = sampling.rows_of_call(mesh, batch_size, 11)
    assert sizes == [min(size, 11 - first) for first in range(0, 11, size)]


def test_no_more_than_a_call_is_waiting():
    called = []
    streamed = StreamedMap(
        lambda row_keys, variables, rows: rows,
        meshes.make_mesh(1),
        {},
        key=KEY,
        count=10**6,
        batch_size=4,
        take=lambda rows, results: called.append(len(results)),
    )
    for _ in range(5):
        streamed.add(np.zeros((3, 2), np.float32))
    assert called == [4, 4, 4]
