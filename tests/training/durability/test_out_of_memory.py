"""XLA's errors, made up and real, as its user sees them."""

import re

import jax
import jax.numpy as jnp
import pytest

from configs import common, networks
from jaxgen.training.durability import out_of_memory

GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nBufferAssignment: ..."
CPU = "INTERNAL: Error dispatching computation: Out of memory allocating 320000000000000 bytes."
TPU = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.1G of 15.5G hbm."


def raise_in(directory, config, error):
    with out_of_memory.explained(directory, config):
        raise error


@pytest.mark.parametrize("words", [GPU, TPU, CPU])
def test_the_error_names_the_settings_and_the_profile(tmp_path, words):
    config = common.base()
    config.model = networks.unet()
    config.train.microbatches = 4
    with pytest.raises(out_of_memory.OutOfMemoryError) as caught:
        raise_in(tmp_path, config, jax.errors.JaxRuntimeError(words))
    sentence = str(caught.value)
    assert sentence.startswith(f"The device has too little memory ({words.splitlines()[0].rstrip('.')}). Try, ")
    for part in (
        "train.microbatches (now 4: 32 examples at a time)",
        "model.remat=True (now False)",
        "train.compute_dtype=bfloat16 (now float32)",
        "data.batch_size (now 128)",
        "sample.batch_size (now 250)",
        "parallel.fsdp (now 1)",
        f"pprof -top {tmp_path / 'memory.prof'}",
    ):
        assert part in sentence
    assert (tmp_path / "memory.prof").read_bytes()[:2] == b"\x1f\x8b"  # gzip, as pprof reads it


def test_what_is_not_there_or_done_already_is_not_advised():
    config = common.base()
    config.data.batch_size = 1
    config.train.compute_dtype = "bfloat16"
    config.model = networks.unet()
    config.model.remat = True
    advice = " ".join(out_of_memory.advice(config))
    assert "data.batch_size (now 1)" in advice
    assert not re.search("remat|microbatches|dtype", advice)


def test_a_real_one_is_recognized(tmp_path):
    with pytest.raises(out_of_memory.OutOfMemoryError), out_of_memory.explained(tmp_path, common.base()):
        jax.block_until_ready(jax.jit(lambda: jnp.ones(1 << 45, jnp.float32))())


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("INTERNAL: something else"), ValueError("RESOURCE_EXHAUSTED: not XLA's")]
)
def test_other_errors_are_left_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        raise_in(tmp_path, common.base(), error)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_backend_without_a_profile_says_so(tmp_path, monkeypatch):
    def refuse():
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no heap profile")

    monkeypatch.setattr(jax.profiler, "device_memory_profile", refuse)
    with pytest.raises(out_of_memory.OutOfMemoryError, match=r"There is no profile of its memory \(UNIMPLEMENTED"):
        raise_in(tmp_path, common.base(), jax.errors.JaxRuntimeError(GPU))
