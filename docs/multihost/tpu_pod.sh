#!/usr/bin/env bash
# Training on a Cloud TPU pod slice: all hosts run the same command, and find each other by the metadata of their VMs.
#
#   docs/multihost/tpu_pod.sh create [--spot]         asks for the slice as a queued resource, and waits until it is there
#   docs/multihost/tpu_pod.sh setup                   installs the package on all hosts
#   docs/multihost/tpu_pod.sh run [--config.a.b=...]  trains, or goes on with training
#   docs/multihost/tpu_pod.sh delete                  gives the slice back
#
# Further words are handed on: those of create to gcloud, those of run to launch.py.
set -euo pipefail

NAME="${NAME:-jaxgen}"
PROJECT="${PROJECT:?the Google Cloud project}"
ZONE="${ZONE:-us-west4-a}"
ACCELERATOR_TYPE="${ACCELERATOR_TYPE:-v5litepod-16}"      # 4 hosts with 4 chips each
RUNTIME_VERSION="${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}" # goes with the accelerator
REPOSITORY="${REPOSITORY:-}"                              # what `git clone` on the hosts takes; for setup
CONFIG="${CONFIG:-configs/dit.py}"
WORKDIR="${WORKDIR:-/mnt/shared/runs/dit}"                # on a disk that all hosts have mounted, such as Filestore
POLL_SECONDS="${POLL_SECONDS:-30}"

where=(--project="$PROJECT" --zone="$ZONE")

create() {
  gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" "$@"
  local state
  while true; do
    state="$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)')"
    echo "$NAME is $state"
    case "$state" in
      ACTIVE) return ;;
      FAILED | SUSPENDED) return 1 ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"
}

setup() {
  local repository
  printf -v repository '%q' "${REPOSITORY:?the repository to clone}"
  on_all_hosts "git clone --depth=1 $repository jaxgen && cd jaxgen && pip install --editable . 'jax[tpu]'"
}

run() {
  local words
  printf -v words ' %q' "--config=$CONFIG" "--workdir=$WORKDIR" "$@"
  on_all_hosts "cd jaxgen && python3 launch.py train$words"
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

case "${1:-}" in
  create | setup | run | delete) "$@" ;;
  *)
    echo "usage: $0 create|setup|run|delete [WORD ...]" >&2
    exit 2
    ;;
esac
