"""The scripts of docs/multihost, as far as they can be run without the cluster; test_multiprocess.py runs Slurm's."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from jaxgen.cli import command_line
from jaxgen.parallel.launchers import Place, find
from jaxgen.runs.config_files import load_config_file

SCRIPTS = Path(__file__).parents[1] / "docs" / "multihost"


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm_gpu.sbatch"])
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", SCRIPTS / script], check=True)
    assert os.access(SCRIPTS / script, os.X_OK)


def parsed(words):
    """The flags of a command line of launch.py, its config, and its place among the processes."""
    line = command_line.parse(words)
    flags = line.flags
    place = find(flags.coordinator, flags.num_processes, flags.process_id, timeout_seconds=1)
    return line, load_config_file(flags.config), flags.workdir, place


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((SCRIPTS / "jobset.yaml").read_text())


@pytest.mark.parametrize("index", [0, 1])
def test_a_pod_of_the_jobset_knows_its_place(jobset, index, monkeypatch):
    (hosts,) = jobset["spec"]["replicatedJobs"]
    pod = hosts["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for variable in container["env"]:
        annotation = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        assert annotation in (None, "metadata.annotations['batch.kubernetes.io/job-completion-index']")
        monkeypatch.setenv(variable["name"], variable["value"] if annotation is None else str(index))
    assert container["command"][:2] == ["python", "launch.py"]
    line, _, workdir, place = parsed(container["command"][2:] + container["args"])
    assert line.command == "train"
    # JobSet names pods NAME-JOB-<number of the job>-<number of the pod>, below a service of its own name.
    address = "{0}-{1}-0-0.{0}".format(jobset["metadata"]["name"], hosts["name"])
    (port,) = container["ports"]
    assert place == Place((address, port["containerPort"]), hosts["template"]["spec"]["parallelism"], index)
    assert workdir.startswith(container["volumeMounts"][0]["mountPath"])


def test_the_jobset_starts_all_pods_again_when_one_fails(jobset):
    (hosts,) = jobset["spec"]["replicatedJobs"]
    job = hosts["template"]["spec"]
    assert job["completions"] == job["parallelism"]
    assert (job["completionMode"], job["backoffLimit"], hosts["replicas"]) == ("Indexed", 0, 1)
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    mounted = {mount["name"] for mount in job["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


GCLOUD = """#!/usr/bin/env bash
# A stand-in that writes down what it is asked for, and says at the second question that the slice is there.
printf '%q ' "$@" >>calls
echo >>calls
if [ "$4" = describe ]; then
  if [ -e asked ]; then echo "${END:-ACTIVE}"; else echo WAITING_FOR_RESOURCES; fi
  touch asked
fi
"""


@pytest.fixture
def gcloud(tmp_path):
    """`gcloud(words)` runs tpu_pod.sh; its exit code, and the calls of gcloud as lists of words."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)

    def run(*words, **variables):
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROJECT": "mine", "POLL_SECONDS": "0", **variables}
        code = subprocess.run(
            [SCRIPTS / "tpu_pod.sh", *words], env=variables, cwd=tmp_path, check=False, capture_output=True, timeout=60
        ).returncode
        calls = tmp_path / "calls"
        return code, [shlex.split(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return run


WHERE = ["--project=mine", "--zone=us-west4-a"]


def test_a_tpu_slice_is_asked_for_and_waited_for(gcloud):
    code, (create, *describe) = gcloud("create", "--spot", NAME="my slice")
    assert code == 0
    assert create[:6] == ["compute", "tpus", "queued-resources", "create", "my slice", WHERE[0]]
    assert {"--node-id=my slice", "--accelerator-type=v5litepod-16", "--spot"} < set(create)
    assert [call[3:5] for call in describe] == [["describe", "my slice"]] * 2


def test_a_tpu_slice_that_is_refused_is_not_waited_for(gcloud):
    code, calls = gcloud("create", END="FAILED")
    assert (code, len(calls)) == (1, 3)


def test_all_hosts_of_a_tpu_slice_run_one_command(gcloud):
    code, (call,) = gcloud("run", "--config.train.num_steps=7", WORKDIR="/mnt/my runs/dit")
    assert code == 0
    *start, command = call
    assert start == ["compute", "tpus", "tpu-vm", "ssh", "jaxgen", *WHERE, "--worker=all"]
    words = shlex.split(command.removeprefix("--command="))
    assert words[:5] == ["cd", "jaxgen", "&&", "python3", "launch.py"]
    line, config, workdir, place = parsed(words[5:])
    assert (line.command, line.settings) == ("train", (("train.num_steps", "7"),))
    assert config.method
    assert (workdir, place) == ("/mnt/my runs/dit", None)


def test_a_tpu_slice_is_set_up_and_given_back(gcloud):
    assert gcloud("setup", REPOSITORY="https://host/it's.git")[0] == 0
    code, (setup, delete) = gcloud("delete")
    assert code == 0
    assert shlex.split(setup[-1].removeprefix("--command="))[:5] == [
        "git",
        "clone",
        "--depth=1",
        "https://host/it's.git",
        "jaxgen",
    ]
    assert delete == ["compute", "tpus", "queued-resources", "delete", "jaxgen", *WHERE, "--force", "--quiet"]


@pytest.mark.parametrize("words", [[], ["destroy"]])
def test_other_words_are_refused(words, gcloud):
    assert gcloud(*words) == (2, [])
