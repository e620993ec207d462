"""What JAX is told before it is imported, and that a wrong backend is refused."""

import importlib.metadata
import os
import pwd
import subprocess
import sys
import types
from pathlib import Path

import pytest
from launching import launch

from jaxgen.cli import commands, main
from jaxgen.parallel import backend
from jaxgen.runs import environment

pytestmark = pytest.mark.short

ROOT = Path(__file__).parents[2]
OPTION = "--xla_cpu_experimental_ynn_fusion_type"
CHOSEN = f"{OPTION}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"


@pytest.fixture
def prepared(monkeypatch):
    """`prepared(version, **variables)`: the variables of a process after `prepare`."""
    names = ("XLA_FLAGS", "JAXGEN_XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL")

    def prepare(version, *, plan_devices=None, **variables):
        values = dict.fromkeys(names) | variables
        variables = {name: value for name, value in values.items() if value is not None}
        monkeypatch.setattr(environment.os, "environ", variables)
        monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": version}.__getitem__)
        environment.prepare(plan_devices=plan_devices)
        return variables

    return prepare


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.12.0.1"])
def test_the_library_runs_each_product_by_itself(prepared, version):
    assert prepared(version)["XLA_FLAGS"] == CHOSEN
    assert prepared(version, XLA_FLAGS="--xla_a=1")["XLA_FLAGS"] == f"--xla_a=1 {CHOSEN}"


@pytest.mark.parametrize("version", ["0.9.2", "0.12.1", "0.13.0"])
def test_a_version_that_may_not_know_the_option_is_not_given_it(prepared, version):
    assert "XLA_FLAGS" not in prepared(version)


def test_what_the_user_has_set_stays(prepared):
    assert prepared("0.10.2", XLA_FLAGS=f"{OPTION}=")["XLA_FLAGS"] == f"{OPTION}="
    assert "XLA_FLAGS" not in prepared("0.10.2", JAXGEN_XLA_FLAGS="0")
    assert prepared("0.10.2", JAXGEN_XLA_FLAGS="1")["XLA_FLAGS"] == CHOSEN
    assert prepared("0.10.2", JAX_COMPILATION_CACHE_DIR="/there")["JAX_COMPILATION_CACHE_DIR"] == "/there"
    assert prepared("0.10.2", TF_CPP_MIN_LOG_LEVEL="0")["TF_CPP_MIN_LOG_LEVEL"] == "0"


LIBRARIES = """
import numpy, threadpoolctl
import scipy.linalg
for library in threadpoolctl.threadpool_info():
    print("scipy" if "scipy.libs" in library["filepath"] else "numpy", library["num_threads"])
"""


def test_openblas_of_scipy_has_one_thread_and_that_of_numpy_all():
    """XLA's programs call the former, and its waiting threads would take their cores."""
    environ = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}

    def threads(code, **variables):
        run = [sys.executable, "-c", code + LIBRARIES]
        printed = subprocess.run(run, env=environ | variables, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        return dict(line.split() for line in printed.stdout.splitlines())

    plain = threads("")
    if plain.keys() != {"numpy", "scipy"}:
        pytest.skip("NumPy and SciPy are built with other libraries here")
    prepare = "from jaxgen.runs import environment\nenvironment.prepare()\n"
    assert threads(prepare) == plain | {"scipy": "1"}
    two = str(min(int(plain["numpy"]), 2))  # OpenBLAS has no more threads than there are cores
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        assert threads(prepare, **{name: "2"}) == {"numpy": two, "scipy": two}


def test_compiled_programs_are_kept_for_the_next_start(prepared):
    variables = prepared("0.10.2", XDG_CACHE_HOME="/cache")
    assert variables["JAX_COMPILATION_CACHE_DIR"] == "/cache/jaxgen/compilation"
    assert variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0.1"


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (64, 64), (4096, 2048)])
def test_plan_compiles_for_the_devices_that_it_is_asked_about(prepared, devices, count):
    variables = prepared("0.13.0", plan_devices=devices, JAX_PLATFORMS="tpu")
    assert variables["JAX_PLATFORMS"] == "cpu"
    expected = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    assert variables["XLA_FLAGS"] == expected


def test_only_plan_takes_the_place_of_the_devices(prepared):
    assert "JAX_PLATFORMS" not in prepared("0.10.2")


def test_without_a_home_directory_compiled_programs_are_not_kept(prepared, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert "JAX_COMPILATION_CACHE_DIR" not in prepared("0.10.2")
    assert prepared("0.10.2", HOME="/home")["JAX_COMPILATION_CACHE_DIR"] == "/home/.cache/jaxgen/compilation"
    assert prepared("0.10.2", XDG_CACHE_HOME="", HOME="/h")["JAX_COMPILATION_CACHE_DIR"].startswith("/h/.cache/")


def test_a_run_records_what_repeats_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["launch.py", "train"])
    recorded = environment.record()
    assert recorded["command"] == ["launch.py", "train"]
    assert recorded["packages"]["jaxlib"] == importlib.metadata.version("jaxlib")
    assert recorded["processes"] == 1
    assert recorded["devices"] == ["cpu: cpu"] * 8
    assert "--xla_force_host_platform_device_count=8" in recorded["XLA_FLAGS"]


READY = """
import os, sys
import jax
exec(sys.argv[1])
from jaxgen.runs import environment
try:
    environment.ready()
except ValueError as error:
    print(error)
print(os.environ.get("XLA_FLAGS", ""))
print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
"""


def ready(first, tmp_path):
    """What a process prints that imports JAX, does something, and then calls the library."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX"))}
    variables = {**kept, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", READY, first]
    process = subprocess.run(arguments, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_the_first_call_of_the_library_prepares_a_process_that_has_imported_jax(tmp_path):
    *_, flags, options = ready("", tmp_path)
    assert flags == (CHOSEN if importlib.metadata.version("jaxlib") in environment._CPU_VERSIONS else "")
    assert options == f"{tmp_path}/jaxgen/compilation 0.1"


def test_options_that_the_user_has_set_in_python_stay(tmp_path):
    first = "jax.config.update('jax_compilation_cache_dir', 'mine')"
    assert ready(first, tmp_path)[-1] == "mine 0.1"


def test_devices_that_have_started_are_checked_as_they_are(tmp_path):
    *refused, flags, options = ready("jax.devices()", tmp_path)
    assert (flags, options) == ("", "None 1.0")
    for sentence in refused:  # with the versions of JAX that compute wrong without the option
        assert "computes" in sentence
        assert sentence.endswith(f"call jaxgen first, or set XLA_FLAGS={CHOSEN} when Python starts.")


@pytest.fixture
def wrong_backend(monkeypatch):
    """A backend that computes a product wrong, and commands that do nothing but end with code 0."""
    done = types.SimpleNamespace(main=lambda *arguments, **options: 0)
    for command in commands.COMMANDS.values():
        monkeypatch.setitem(sys.modules, f"jaxgen.cli.{command.module}", done)
    monkeypatch.setattr(backend, "errors", lambda: {"sums": 0.0, "products": 0.5})
    monkeypatch.setattr(main, "_config", lambda line: None)


@pytest.mark.usefixtures("wrong_backend")
@pytest.mark.parametrize("command", [name for name in commands.COMMANDS if name not in commands.TOPICS])
def test_every_command_that_computes_refuses_a_wrong_backend(command):
    outcome = launch(command)
    if command in ("checkpoints", "plan"):  # which run no program
        assert outcome.code == 0, outcome.err
    else:
        assert outcome.code == 2
        assert outcome.err.startswith("error: The cpu backend of jaxlib")
        assert "computes products wrong, by 0.5 of the largest value" in outcome.err
        assert outcome.err.count("\n") == 1
