#!/usr/bin/env bash
# Keeps the process of this host running in the background, without an engine. It survives the end of
# the terminal. A `run` is started again if the machine ended it. One at a time per user and host:
#
#   bash launch/background.sh start run --config=quickstart --workdir=/shared/runs/quickstart
#   bash launch/background.sh status      # running PID, ended CODE, or none
#   bash launch/background.sh log         # shows the output until it ends
#   bash launch/background.sh stop        # as Ctrl-C: saves, then ends
#
# The arguments and variables are those of process.sh. DISTILL_JAX_STATE is the directory of the
# output and the exit code (default: ~/.distill_jax).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

state=${DISTILL_JAX_STATE:-${HOME:?set HOME or DISTILL_JAX_STATE}/.distill_jax}
mkdir -p "$state"
exec 8>>"$state/lock" # locked while the process is kept running

keep_running() {
  local child code=143 stopping=
  trap 'stopping=1; kill -TERM "$child" 2>/dev/null || true' TERM INT
  while [[ -z $stopping ]]; do
    bash "$ROOT/launch/process.sh" "$@" 8>&- &
    child=$!
    while true; do # a signal ends `wait` early
      code=0
      wait "$child" || code=$?
      kill -0 "$child" 2>/dev/null || break
    done
    # Other commands than `run` keep nothing that a restart could go on with.
    if [[ -n $stopping || ${1:-} != run ]] || ! ended_by_machine "$code"; then
      break
    fi
    echo "Exit code $code: starting again" >&2
    sleep "${RESTART_SECONDS:-5}" 8>&- &
    child=$!
    wait "$child" || true
  done
  echo "$code" >"$state/code"
}

running() {
  ! flock -n 8
}

action=${1:-}
shift || true
case $action in
  start)
    if running; then
      echo "$(hostname): process $(<"$state/pid") is running already; stop it first" >&2
      exit 3
    fi
    rm -f "$state/code"
    [[ ! -e $state/log ]] || mv "$state/log" "$state/log.previous"
    export -f keep_running ended_by_machine
    export ROOT state
    # shellcheck disable=SC2016 # expanded by the new shell
    setsid nohup bash -c 'keep_running "$@"' bash "$@" </dev/null >"$state/log" 2>&1 &
    echo "$!" >"$state/pid"
    ;;
  status)
    if running; then
      echo "running $(<"$state/pid")"
    elif [[ -f $state/code ]]; then
      echo "ended $(<"$state/code")"
    else
      echo none
    fi
    ;;
  log)
    if [[ ! -f $state/log ]]; then
      echo "$(hostname): nothing was started" >&2
      exit 3
    fi
    exec tail -n +1 -f --pid="$(<"$state/pid")" "$state/log"
    ;;
  stop)
    running || exit 0
    group=$(<"$state/pid")
    kill -TERM "$group"
    if ! flock -w "${STOP_SECONDS:-150}" 8; then
      kill -KILL -- "-$group"
    fi
    ;;
  *)
    echo "usage: bash launch/background.sh {start ARGUMENTS..., status, log, stop}" >&2
    exit 2
    ;;
esac
