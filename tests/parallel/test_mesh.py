import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxgen.parallel import mesh as meshes


def test_a_mesh_takes_the_first_devices_or_all():
    assert meshes.make_mesh().devices.size == jax.device_count() == 8
    assert list(meshes.make_mesh(3).devices.flat) == jax.devices()[:3]
    assert dict(meshes.make_mesh(3).shape) == {"data": 3, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("num_devices", [0, -1, 9])
def test_devices_that_are_not_there_are_refused(num_devices):
    with pytest.raises(ValueError, match=rf"parallel\.num_devices is {num_devices}, but must be from 1 to 8"):
        meshes.make_mesh(num_devices)


def test_put_batch_splits_the_given_axis_and_keeps_the_rows_in_order():
    batch = {"x": np.arange(2 * 8 * 3).reshape(2, 8, 3), "index": np.arange(16).reshape(2, 8)}
    placed = meshes.put_batch(meshes.make_mesh(4), batch, axis=1)
    assert placed["x"].sharding.spec == P(None, ("data", "fsdp"))
    for name, whole in batch.items():
        np.testing.assert_array_equal(placed[name], whole)
        for shard in placed[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[shard.index])
            assert shard.data.shape == (2, 2, *whole.shape[2:])


def test_put_batch_refuses_what_does_not_divide_and_says_what_to_do():
    sentence = r"A microbatch of 6 examples does not divide over 4 devices: choose data\.batch_size so .*num_devices\."
    with pytest.raises(ValueError, match=sentence):
        meshes.put_batch(meshes.make_mesh(4), np.zeros((1, 6)), axis=1)
    with pytest.raises(ValueError, match=r"of 6 examples does not divide over 8 devices in 4 groups: choose"):
        meshes.put_batch(meshes.make_mesh(tensor=2), np.zeros((1, 6)), axis=1)


def test_replicated_puts_the_whole_on_every_device():
    x = jax.device_put(np.arange(3), meshes.replicated(meshes.make_mesh(4)))
    assert [shard.data.shape for shard in x.addressable_shards] == [(3,)] * 4


def test_devices_say_which_slice_they_are_of(monkeypatch):
    numbers = dict(zip(jax.devices(), [1, 0, 0, 1, 2, 2, 2, 2], strict=True))
    monkeypatch.setattr(type(jax.devices()[0]), "slice_index", property(numbers.__getitem__), raising=False)
    arranged = meshes.make_mesh(4, data=2, tensor=2).devices[:, 0]
    assert [[numbers[device] for device in row] for row in arranged] == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match=r"parallel\.data is 1, but must be a multiple of the 2 slices"):
        meshes.make_mesh(4, data=1, tensor=4)
    with pytest.raises(
        ValueError, match=r"The slices have 2, 2, 4 devices: set parallel\.num_devices so that all have"
    ):
        meshes.make_mesh()
