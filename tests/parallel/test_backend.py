"""A backend that computes wrong is refused: here by a wrong expectation, and in a process by a fault of XLA's."""

import inspect
import os
import subprocess
import sys

import jaxlib
import numpy as np
import pytest

from jaxgen.parallel import backend

pytestmark = pytest.mark.short


def compare(monkeypatch, *programs):
    monkeypatch.setattr(backend, "PROGRAMS", programs)
    monkeypatch.setattr(backend, "errors", inspect.unwrap(backend.errors))
    backend.check_backend()


def test_this_backend_is_right():
    assert backend.errors() == {program.name: pytest.approx(0, abs=1e-6) for program in backend.PROGRAMS}
    backend.check_backend()


@pytest.mark.parametrize("wrong", range(3))
@pytest.mark.parametrize("by", [0.01, -0.01, np.nan])
def test_one_wrong_number_is_refused(monkeypatch, wrong, by):
    """In any of the results of the convolution: forward, and the gradients for images and kernel."""
    program = backend.PROGRAMS[-1]

    def computed(*arrays):
        results = list(program.compute(*arrays))
        results[wrong] = results[wrong].at[(-1,) * 4].add(by * abs(results[wrong]).max())
        return tuple(results)

    sentence = (
        rf"The cpu backend of jaxlib {jaxlib.__version__} computes {program.name} wrong, by {abs(by):.2g} of the "
        "largest value, with XLA_FLAGS='.*': unset XLA_FLAGS and JAXGEN_XLA_FLAGS, .* or install another version of jax"
    )
    with pytest.raises(ValueError, match=sentence):
        compare(monkeypatch, backend.PROGRAMS[0], program._replace(compute=computed))


def test_rounding_is_no_fault(monkeypatch):
    program = backend.PROGRAMS[1]
    compare(monkeypatch, program._replace(compute=lambda *arrays: (program.compute(*arrays)[0] * (1 + 5e-5),)))
    with pytest.raises(ValueError, match=program.name):
        compare(monkeypatch, program._replace(compute=lambda *arrays: (program.compute(*arrays)[0] * (1 + 2e-4),)))


def test_inputs_are_exact_in_every_format_and_differ_between_rows():
    for array in (array for program in backend.PROGRAMS for array in program.inputs):
        assert array.dtype == np.float32
        assert set(np.unique(array)) <= set(range(-6, 7))
    rows = backend.PROGRAMS[0].inputs[1]
    assert all((rows[2**15 - shift : -shift] != rows[2**15 :]).any(axis=1).mean() > 0.5 for shift in range(1, 300))


DETECT = "from jaxgen.parallel import backend; backend.check_backend()"


@pytest.mark.skipif(not jaxlib.__version__.startswith("0.10."), reason="later versions compute this right")
@pytest.mark.parametrize("flags", ["", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"])
def test_the_fault_of_jaxlib_0_10_is_found(flags):
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run([sys.executable, "-c", DETECT], env=environment, capture_output=True, text=True, check=False)
    assert f"computes {backend.PROGRAMS[0].name} wrong" in done.stderr
    assert done.returncode == 1
