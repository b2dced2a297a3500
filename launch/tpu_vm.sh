#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU VM slice, one process per host:
#
#   bash launch/tpu_vm.sh NAME ZONE start run --config=tailored:pretrained \
#     --config.student.init=HUB_NAME --workdir=/mnt/shared/runs/first
#   bash launch/tpu_vm.sh NAME ZONE follow    # shows the output of host 0 until the run ends
#   bash launch/tpu_vm.sh NAME ZONE status
#   bash launch/tpu_vm.sh NAME ZONE stop
#
# `start` also follows. Ctrl-C or a broken connection ends only the following: the run goes on. When
# a host ends with an error, all hosts are stopped.
#
# Every host needs this repository at the same path ($DISTILL_JAX_DIR, default: distill_jax in the
# home directory) and one shared file system for --workdir, such as Filestore.
#
# Google maintains this API but no longer develops it, and TPU7x and later do not have it: use a
# managed instance group or GKE (jobset.yaml) there.
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^(start|follow|status|stop)$ ]]; then
  echo "usage: bash launch/tpu_vm.sh NAME ZONE {start ARGUMENTS..., follow, status, stop}" >&2
  exit 2
fi
name=$1 zone=$2 action=$3
shift 3

# Runs background.sh on the hosts: on WORKER ARGUMENT...
on() {
  local worker=$1 command
  shift
  printf -v command ' %q' "$@"
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$worker" --batch-size=all \
    --command="cd $(printf %q "${DISTILL_JAX_DIR:-distill_jax}") && bash launch/background.sh$command"
}

follow() {
  local all codes
  on 0 log &
  trap 'kill '$!' 2>/dev/null || true' EXIT
  while true; do
    sleep "${FOLLOW_SECONDS:-30}"
    all=$(on all status) || continue # a connection is broken, not the run
    codes=$(sed -n 's/^.*ended \([0-9]*\)$/\1/p' <<<"$all" | sort -n -u)
    if [[ -n ${codes//0/} ]]; then
      echo "A host has ended with exit code $(tail -n 1 <<<"$codes"): stopping all hosts" >&2
      on all stop
      exit "$(tail -n 1 <<<"$codes")"
    fi
    if ! grep -q running <<<"$all"; then
      if grep none <<<"$all"; then exit 1; fi # a host was started again and knows of no run
      exit 0
    fi
  done
}

case $action in
  start)
    if on all status | grep running >&2; then
      echo "A run is active on $name: follow or stop it first" >&2
      exit 3
    fi
    if ! on all start "$@"; then
      on all stop
      exit 1
    fi
    follow
    ;;
  follow) follow ;;
  *) on all "$action" ;;
esac
