"""The wheel: the configs are in it, a program starts it, and `import jaxgen` takes no time."""

import importlib
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxgen

pytestmark = pytest.mark.short

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages():
    """What setuptools finds of the source: directories with an `__init__.py`, links followed."""
    found = [path for path, _, files in os.walk(ROOT / "jaxgen", followlinks=True) if "__init__.py" in files]
    return {Path(path).relative_to(ROOT) for path in found}


def test_the_configs_are_installed_below_the_package_and_not_beside_it():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["jaxgen*"]
    assert Path("jaxgen/configs") in packages()
    installed = {path.name for path in (ROOT / "jaxgen" / "configs").iterdir() if path.suffix == ".py"}
    assert installed == {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {"__init__.py", "common.py", "ddpm.py"} <= installed


def test_every_directory_of_modules_is_a_package():
    directories = {path.parent.relative_to(ROOT) for path in (ROOT / "jaxgen").rglob("*.py")}
    assert directories <= packages()


def test_a_wheel_has_what_it_needs(tmp_path):
    """Built by setuptools alone, without a network."""
    pytest.importorskip("setuptools", minversion="77")
    import shutil
    import zipfile

    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "jaxgen", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = {"symlinks": True, "ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}
        copy(ROOT / name, source / name, **options)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "jaxgen/configs/ddpm.py",
        "jaxgen/configs/common.py",
        "jaxgen/__main__.py",
        "jaxgen/runs/opened.py",
    } <= names
    assert not [name for name in names if not name.startswith(("jaxgen/", "jaxgen-"))]


def test_the_program_of_the_wheel_exists():
    module, _, function = PROJECT["project"]["scripts"]["jaxgen"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_importing_the_package_leaves_jax_alone():
    code = "import sys, jaxgen; assert not {'jax', 'numpy', 'ml_collections'} & set(sys.modules); dir(jaxgen)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_package_offers_what_it_lists():
    assert set(jaxgen.__all__) <= set(dir(jaxgen))
    for name in jaxgen.__all__:
        assert callable(getattr(jaxgen, name)), name
    with pytest.raises(AttributeError, match="no attribute 'sample'"):
        jaxgen.sample  # noqa: B018


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (["launch.py"], [sys.executable, "launch.py"]),
        (["-m", "jaxgen"], [sys.executable, "-m", "jaxgen"]),
        (["-c", "import sys; sys.argv[0] = 'jaxgen'; from jaxgen.__main__ import main; main()"], ["jaxgen"]),
    ],
    ids=["launch.py", "module", "program"],
)
def test_the_program_says_how_it_was_started(start, words, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, *start, "sample", "--num_samples=1", f"--workdir={tmp_path}"]
    refused = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert f"train one with {shlex.join(words)} train" in refused.stderr
    helped = subprocess.run(
        [*arguments[: len(start) + 1], "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert helped.returncode == 0
    assert helped.stdout.startswith(f"{shlex.join(words)}: Trains, samples and evaluates generative models")
