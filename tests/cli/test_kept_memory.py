"""A process that trains on CPUs keeps the memory that it frees, where its allocator can be told to."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from jaxgen.cli import main, start
from jaxgen.runs import environment

ROOT = Path(__file__).parents[2]
PROGRAM = """
import resource
from jaxgen.runs import environment

environment.prepare()
print(environment.keep_freed_memory())

import jax
import jax.numpy as jnp

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def loss(x):
    for _ in range(4):
        x = jnp.tanh(jax.lax.conv_general_dilated(x, jnp.ones((3, 3, 16, 16)), (1, 1), "SAME", dimension_numbers=FORM))
    return x.sum()

FORM = ("NHWC", "HWIO", "NHWC")
gradient, x = jax.jit(jax.grad(loss)), jnp.ones((16, 128, 128, 16))
taken = []
for _ in range(10):
    before = faults()
    gradient(x).block_until_ready()
    taken.append(faults() - before)
print(min(taken))
"""


def run(**variables):
    """Whether a process keeps memory, and the fewest pages that the system gives it for a run of a program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "XLA_"))}
    variables = {**kept, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    process = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True)
    keeps, faults = process.stdout.split()
    return keeps == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("variables", [{}, {"MALLOC_ARENA_TEST": "8"}])
def test_programs_get_the_memory_that_earlier_ones_have_freed(variables):
    keeps, faults = run(**variables)
    assert keeps == ("MALLOC_ARENA_TEST" not in variables)
    assert (faults < 1_000) == (not variables)
    assert (faults > 5_000) != (not variables) or pages_are_huge()


def pages_are_huge():
    """Whether the system gives memory in pages of megabytes without being asked."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[always]" in setting.read_text()


@pytest.fixture
def allocator(monkeypatch):
    """The options that an allocator has been given in a process on CPUs, in the place of this process's own."""
    options = []
    library = types.SimpleNamespace(mallopt=lambda *option: options.append(option) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(environment.os, "environ", {})
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: {"jax_plugins": ()}[group])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    dispatches = []
    monkeypatch.setattr(jax.config, "update", lambda *option: dispatches.append(option))
    return types.SimpleNamespace(options=options, dispatches=dispatches, library=library)


def test_a_machine_without_accelerators_keeps_memory(allocator):
    assert environment.keep_freed_memory()
    assert allocator.options == [(-4, 0), (-1, -1)]
    assert allocator.dispatches == [("jax_cpu_enable_async_dispatch", False)]


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_variables_of_the_user_have_precedence(allocator, monkeypatch, name):
    monkeypatch.setattr(environment.os, "environ", {name: "1"})
    assert not environment.keep_freed_memory()
    assert allocator.options == allocator.dispatches == []


@pytest.mark.parametrize("found", ["cuda", "libtpu"])
def test_with_an_accelerator_memory_is_kept_if_jax_is_told_to_use_cpus(allocator, monkeypatch, found):
    if found == "cuda":
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: (found,))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == found else None)
    assert not environment.keep_freed_memory()
    monkeypatch.setattr(environment.os, "environ", {"JAX_PLATFORMS": "cuda,cpu"})
    assert not environment.keep_freed_memory()
    assert allocator.options == []
    monkeypatch.setattr(environment.os, "environ", {"JAX_PLATFORMS": "cpu"})
    assert environment.keep_freed_memory()


def test_an_allocator_without_the_options_is_left_alone(allocator, monkeypatch):
    allocator.library.mallopt = lambda *option: 0
    assert not environment.keep_freed_memory()
    assert allocator.dispatches == []
    del allocator.library.mallopt
    assert not environment.keep_freed_memory()
    monkeypatch.setattr(environment.sys, "platform", "darwin")
    assert not environment.keep_freed_memory()


@pytest.mark.parametrize(("command", "kept"), [("train", 1), ("evaluate", 0)])
def test_training_alone_keeps_memory(monkeypatch, command, kept):
    """Other commands run many programs, for which pieces of other sizes would be left."""
    calls = []
    monkeypatch.setattr(sys, "argv", ["launch.py", command, "--workdir=there"])
    monkeypatch.setattr(environment, "prepare", lambda **options: None)
    monkeypatch.setattr(environment, "keep_freed_memory", lambda: calls.append(command))
    monkeypatch.setattr(main, "run", lambda line, started: sys.exit(0))
    with pytest.raises(SystemExit):
        start._run("launch.py", 0.0)
    assert len(calls) == kept
