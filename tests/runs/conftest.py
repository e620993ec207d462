"""One run, trained from Python, for all tests of the functions behind the commands."""

import pytest
import quick_evaluation

import jaxgen


@pytest.fixture(scope="session", autouse=True)
def quick(tmp_path_factory):
    with quick_evaluation.quick(tmp_path_factory.mktemp("prepared")):
        yield


@pytest.fixture(scope="session")
def config():
    """Of a class-conditional model that can do everything but denoise."""
    return jaxgen.config("vae:tiny", **{"vae.class_conditional": True})


@pytest.fixture(scope="session")
def workdir(config, tmp_path_factory):
    """A finished run, which only the evaluation adds to."""
    return jaxgen.train(config, tmp_path_factory.mktemp("runs") / "tiny").directory


@pytest.fixture(scope="session")
def run(workdir):
    return jaxgen.open(workdir)
