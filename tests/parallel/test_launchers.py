"""Where a process finds out which of several it is, as far as that can be seen without a cluster."""

import http.server
import os
import threading
import warnings

import pytest
from jax._src.clusters import cloud_tpu_cluster

from jaxgen.parallel import launchers
from jaxgen.parallel.launchers import Place, find

pytestmark = pytest.mark.short

LAUNCHERS = (
    "SLURM_",
    "OMPI_",
    "TPU_",
    "MEGASCALE_",
    "KUBERNETES_",
    "JOB_",
    "JAX_COORDINATOR",
    "JAX_NUM_PROC",
    "JAX_PROC",
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """As if no launcher had started the tests."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("JAX_PLATFORMS")


def found(coordinator=None, num_processes=None, process_id=None):
    return find(coordinator, num_processes, process_id, timeout_seconds=1)


def test_a_process_that_is_told_nothing_is_alone():
    assert found() is None


def test_the_only_process_is_alone(monkeypatch):
    assert found("host0:8476", 1, 0) is None
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "1"})
    assert found() is None


def test_flags_come_before_variables(monkeypatch):
    assert found("host0:8476", 4, 3) == Place(("host0", 8476), 4, 3)
    variables = {"JAX_COORDINATOR_ADDRESS": "host1:1", "JAX_NUM_PROCESSES": "5", "JAX_PROCESS_ID": "2"}
    set_all(monkeypatch, variables)
    assert found() == Place(("host1", 1), 5, 2)
    assert found("host0:8476", 4, 0) == Place(("host0", 8476), 4, 0)
    assert found(process_id=0) == Place(("host1", 1), 5, 0)


WRONG = {
    "no address": ((None, 2, 0), "num_processes 2, process_id 0 came without --coordinator"),
    "address alone": (("host0:1", None, None), "coordinator host0:1 came without --num_processes and --process_id"),
    "no port": (("host0", 2, 0), "--coordinator is host0, but must be HOST:PORT"),
    "port": (("host0:70000", 2, 0), "--coordinator is host0:70000, but must be HOST:PORT"),
    "port of no number": (("host0:84x6", 2, 0), "--coordinator is host0:84x6, but must be HOST:PORT"),
    "port 0": (("host0:0", 2, 0), "--coordinator is host0:0, but must be HOST:PORT"),
    "port 65536": (("host0:65536", 2, 0), "--coordinator is host0:65536, but must be HOST:PORT"),
    "no host": ((":8476", 2, 0), "--coordinator is :8476, but must be HOST:PORT"),
    "too large": (("host0:1", 2, 2), "--process_id is 2, but must be from 0 to 1"),
    "negative": (("host0:1", 2, -1), "--process_id is -1, but must be from 0 to 1"),
    "none": (("host0:1", 0, 0), "--num_processes is 0, but must be at least 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what):
    arguments, sentence = WRONG[what]
    with pytest.raises(ValueError, match=sentence):
        found(*arguments)


def test_a_variable_must_be_a_number(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID is 'first', but must be a number"):
        found("host0:1", 2)


SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
ADDRESS = {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.96.0.1,10.148.0.1:34911"}  # of Open MPI 4


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_slurm_gives_each_task_the_gpu_of_its_number_on_the_node(monkeypatch):
    set_all(monkeypatch, SLURM)
    assert found() == Place(("node007", 61440 + 1), 16, 9, [1])


def test_flags_come_before_the_launcher_and_leave_it_the_rest(monkeypatch):
    set_all(monkeypatch, SLURM)
    assert found("host0:65535") == Place(("host0", 65535), 16, 9, [1])
    assert found(num_processes=20) == Place(("node007", 61440 + 1), 20, 9, [1])
    assert found(process_id=3) == Place(("node007", 61440 + 1), 16, 3, [1])
    assert found("host0:1", 20, 3) == Place(("host0", 1), 20, 3)  # which is all: the launcher is not asked
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
    assert found() == Place(("node007", 1234), 16, 9, [1])


def test_a_batch_script_of_slurm_is_no_task(monkeypatch):
    set_all(monkeypatch, {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"})
    assert found() is None


def test_open_mpi_gives_the_address_up_to_its_version_4(monkeypatch):
    set_all(monkeypatch, OPEN_MPI | ADDRESS)
    assert found() == Place(("10.96.0.1", 61440 + 1), 4, 3, [1])
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
    assert found() == Place(("10.96.0.1", 1234), 4, 3, [1])
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    monkeypatch.setenv("OMPI_VERSION", "5.0.3")
    with pytest.raises(ValueError, match=r"does not say who the others are .* give --coordinator=HOST:PORT"):
        found()
    assert found("host0:8476") == Place(("host0", 8476), 4, 3, [1])


@pytest.mark.parametrize("missing", ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"])
def test_variables_that_open_mpi_does_not_set_are_named(monkeypatch, missing):
    set_all(monkeypatch, {name: value for name, value in (OPEN_MPI | ADDRESS).items() if name != missing})
    with pytest.raises(ValueError, match=rf"does not say who the others are \('{missing}'\): give --coordinator"):
        found()


def test_gke_gives_the_hosts_of_a_tpu_slice(monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    set_all(monkeypatch, {"TPU_WORKER_HOSTNAMES": "localhost,host1", "TPU_WORKER_ID": "1", "TPU_SKIP_MDS_QUERY": "1"})
    set_all(monkeypatch, dict.fromkeys(MEGASCALE, ""))
    assert found() == Place(("localhost", 8482), 2, 1)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert found() is None


MEGASCALE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
METADATA = {
    "agent-worker-number": "2",
    "worker-network-endpoints": "127.0.0.1,host1,host2,host3",
    "tpu-env": "ZONE: 'here'",
}


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata server of a Cloud TPU VM."""

    def do_GET(self):
        value = METADATA.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
        self.send_response(200 if value and self.headers["Metadata-Flavor"] == "Google" else 404)
        self.end_headers()
        self.wfile.write((value or "").encode())

    def log_message(self, *arguments):
        del arguments


@pytest.fixture
def metadata_server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield
    server.shutdown()
    server.server_close()


def test_a_cloud_tpu_pod_is_known_from_the_metadata_of_its_machines(monkeypatch, metadata_server):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    assert found() == Place(("127.0.0.1", 8482), 4, 2)


def test_whoever_asks_for_the_cpu_of_a_cloud_tpu_is_alone(monkeypatch, metadata_server):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert found() is None


def test_a_tpu_whose_metadata_cannot_be_read_is_no_laptop(monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    set_all(monkeypatch, {"GCE_METADATA_IP": "127.0.0.1:1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
    with pytest.raises(ValueError, match="does not say who the others are"):
        found()


@pytest.mark.parametrize(("index", "package"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("platforms", "tpu"), [(None, True), ("", True), ("tpu,cpu", True), ("cuda", False)])
def test_launchers_that_need_something_are_asked_where_it_is_there(monkeypatch, index, package, platforms, tpu):
    asked = []
    monkeypatch.setattr(launchers.jax_workarounds, "launchers", lambda **kinds: asked.append(kinds) or [])
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: {"kubernetes": package or None}[name])
    if index:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert found() is None
    assert asked == [{"kubernetes": index and package, "cloud_tpu": tpu}]


def test_the_first_launcher_that_is_there_waits_for_the_address_as_long_as_asked(monkeypatch):
    waited = []

    class Absent:
        is_env_present = staticmethod(lambda: False)

    class Present:
        is_env_present = staticmethod(lambda: True)
        get_process_count = staticmethod(lambda: 3)
        get_process_id = staticmethod(lambda: 2)
        get_local_process_id = staticmethod(lambda: None)

        @staticmethod
        def get_coordinator_address(timeout_secs, override_coordinator_port):
            waited.append((timeout_secs, override_coordinator_port))
            return "host0:1"

    monkeypatch.setattr(launchers.jax_workarounds, "launchers", lambda **kinds: [Absent, Present, Absent])
    assert find(None, None, None, timeout_seconds=7) == Place(("host0", 1), 3, 2)
    assert waited == [(7, None)]


def test_a_pod_of_kubernetes_is_alone_unless_it_is_told_otherwise(monkeypatch):
    set_all(monkeypatch, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found() is None
