"""Eight CPU devices for every test, and jaxtyping's shape annotations checked at each call.

Compilation is most of the time that the tests take, and their models are small: hence no optimization, and a cache of
programs for each process of a test run, new in each run. (JAX writes its entries in place, where another process could
read half of one.)
"""

import gc
import os
import shutil
import signal
import tempfile

import pytest

_FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"  # a process for each core compiles already
)
_KEPT_CACHE = os.environ.get("JAXGEN_TESTS_CACHE")  # set by benchmarks/mutation.py, whose processes follow each other
_CACHE = _KEPT_CACHE or tempfile.mkdtemp(prefix="jaxgen-tests-")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAXGEN_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgen-tests-")  # of this process, not of the user

from jaxgen.runs import environment  # noqa: E402

environment.prepare()  # the compiler's options of a run

import type_checks  # noqa: E402

type_checks.install()

from ml_collections import ConfigDict  # noqa: E402

from jaxgen.core.config import Section  # noqa: E402

Section.register(ConfigDict)  # tests give the library configs that they change, where a run has an immutable one

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One process runs all tests of a file, so that their fixtures are made and their functions compiled once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish():
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def heap_of_its_own():
    """What a file leaves, such as traces that JAX keeps, is not gone through by every later collection of garbage."""
    yield
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAXGEN_CACHE_DIR"], ignore_errors=True)
    if not _KEPT_CACHE:
        shutil.rmtree(_CACHE, ignore_errors=True)
