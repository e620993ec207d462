"""JAX's private names, as far as one process can use them; `test_hosts.py` and `test_multiprocess.py` have several."""

import subprocess
import sys

import pytest
from jax._src import clusters

from jaxgen.core import jax_workarounds

pytestmark = pytest.mark.short

KUBERNETES = {clusters.K8sCluster}
CLOUD_TPU = {clusters.GceTpuCluster, clusters.GkeTpuCluster}


def test_a_process_alone_is_the_first_and_has_no_coordinator():
    assert jax_workarounds.process_id() == 0
    with pytest.raises(AssertionError, match="not initialized"):
        jax_workarounds.coordinator_client()


@pytest.mark.parametrize("kubernetes", [False, True])
@pytest.mark.parametrize("cloud_tpu", [False, True])
def test_launchers_are_those_that_jax_detects_by_itself_without_the_excluded_ones(kubernetes, cloud_tpu):
    found = jax_workarounds.launchers(kubernetes=kubernetes, cloud_tpu=cloud_tpu)
    assert (set(found) >= KUBERNETES, set(found) >= CLOUD_TPU) == (kubernetes, cloud_tpu)
    assert not set(found) & (KUBERNETES if not kubernetes else set())
    assert not set(found) & (CLOUD_TPU if not cloud_tpu else set())
    assert clusters.SlurmCluster in found
    assert clusters.Mpi4pyCluster not in found  # on request only


def test_launchers_are_in_the_order_in_which_jax_tries_them():
    order = clusters.ClusterEnv._cluster_types
    found = jax_workarounds.launchers(kubernetes=True, cloud_tpu=True)
    assert found == [cluster for cluster in order if cluster in found]


def test_open_mpi_gives_the_address_with_the_port_that_was_asked_for(monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "4096.0;tcp://10.96.0.1,10.148.0.1:34911")
    assert jax_workarounds.open_mpi_address(1, "1234") == "10.96.0.1:1234"


def test_devices_that_have_started_are_noticed():
    code = (
        "from jaxgen.core import jax_workarounds as w; import jax; print(w.backends_are_initialized()); "
        "jax.devices(); print(w.backends_are_initialized())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["False", "True"]
