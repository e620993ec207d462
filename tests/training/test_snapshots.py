"""Snapshots of averages on disk, and what is made of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import ema
from jaxgen.core.ema import Snapshot
from jaxgen.training import snapshots

WIDTHS = (0.05, 0.10)


def averages(seed):
    values = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
    return {
        str(i): {"params/w": jnp.asarray(value), "model_state/n": jnp.int32(seed)} for i, value in enumerate(values)
    }


def store(workdir, *steps):
    for step in steps:
        snapshots.save(workdir, step, averages(step), WIDTHS)


def reconstruct(workdir, step, wanted=0.12, stored=WIDTHS):
    return snapshots.reconstruct(workdir, averages(step), step=step, stored=stored, wanted=wanted)


def test_an_average_is_the_weighted_sum_of_the_snapshots_up_to_the_checkpoint(tmp_path):
    store(tmp_path, 200, 100, 300, 400)
    assert snapshots.steps(tmp_path) == [100, 200, 300, 400]
    made, distance = reconstruct(tmp_path, 300)
    stored = [Snapshot(step, width) for step in (100, 200, 300) for width in WIDTHS]
    weights = ema.reconstruction_weights(stored, Snapshot(300, 0.12))
    values = [averages(step)[i]["params/w"] for step in (100, 200, 300) for i in "01"]
    np.testing.assert_allclose(made["params/w"], weights @ np.asarray(values, np.float64), rtol=1e-6)
    assert made["params/w"].dtype == np.float32
    assert made["model_state/n"] == 300
    assert distance == ema.profile_distance(stored, weights, Snapshot(300, 0.12))
    snapshots.save(tmp_path, 300, averages(7), WIDTHS)  # of another run: those of the checkpoint are taken
    np.testing.assert_array_equal(reconstruct(tmp_path, 300)[0]["params/w"], made["params/w"])


def test_files_are_deterministic_and_nothing_else_is_left(tmp_path):
    store(tmp_path, 7)
    first = (tmp_path / "ema" / "7.npz").read_bytes()
    store(tmp_path, 7)
    assert [path.name for path in (tmp_path / "ema").iterdir()] == ["7.npz"]
    assert (tmp_path / "ema" / "7.npz").read_bytes() == first


def test_snapshots_that_are_missing_damaged_or_of_other_widths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no snapshots of averages before step 100: train with train\.snapshot_every"):
        reconstruct(tmp_path, 100)
    store(tmp_path, 100)
    with pytest.raises(ValueError, match=r"100\.npz holds averages of .* \(0\.05, 0\.1\), but .* \(0\.05, 0\.2\)"):
        reconstruct(tmp_path, 200, stored=(0.05, 0.2))
    path = tmp_path / "ema" / "100.npz"
    np.savez(tmp_path / "others.npz", a=np.zeros(2))
    for content in (path.read_bytes()[:200], b"", (tmp_path / "others.npz").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"100\.npz cannot be read"):
            reconstruct(tmp_path, 200)
