# shellcheck shell=bash
# Sourced by the scripts in this directory. Defines ROOT and functions; has no other effect.
#
#   requirements_for_this_host   prints the requirements files for the accelerator of this host
#   prepare FILE...              installs the files into .venv, if they have changed since last time
#   ended_by_machine CODE        whether the same command goes on after this exit code
#   exit_or_requeue CODE         ends a SLURM job with this exit code, or puts it back into the queue
#
# PYTHON=python3.12 selects the interpreter for a new .venv.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

requirements_for_this_host() {
  if nvidia-smi >/dev/null 2>&1; then
    echo requirements.txt requirements-gpu.txt
  elif has_tpu; then
    echo requirements.txt requirements-tpu.txt
  else
    echo requirements.txt
  fi
}

# Older TPU hosts have /dev/accel0. Newer ones have /dev/vfio/0, which other machines may have, too.
has_tpu() {
  [[ -e /dev/accel0 ]] && return 0
  [[ -e /dev/vfio/0 ]] || return 1
  [[ -n ${TPU_NAME:-}${TPU_WORKER_ID:-}${TPU_ACCELERATOR_TYPE:-} ]] ||
    grep -qs Google /sys/class/dmi/id/product_name
}

# A stamp file records what is installed, and for which Python: after an upgrade of the system's
# Python, .venv has no packages for it. It is written last, so an interrupted installation is
# repeated.
prepare() {
  local python=$ROOT/.venv/bin/python stamp=$ROOT/.venv/installed-${!#} version wanted file options=()
  [[ -x $python ]] || make_venv
  version=$("$python" -c 'import sys; print(*sys.version_info[:2], sep=".")')
  wanted="$version $(cd "$ROOT" && cat "$@" | cksum)"
  if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    return 0
  fi
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
  for file in "$@"; do
    options+=(-r "$ROOT/$file")
  done
  echo "Installing $* into $ROOT/.venv (takes minutes the first time)" >&2
  if ! "$python" -m pip install --quiet --disable-pip-version-check "${options[@]}"; then
    echo "Installing $* failed, see above. Re-run the same command to try again." >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}

make_venv() {
  local base=${PYTHON:-python3}
  if [[ -L $ROOT/.venv/bin/python ]]; then # a link to a file that is gone; `venv` keeps such a link
    echo "The Python of $ROOT/.venv is gone: remove that directory, and re-run the same command" >&2
    return 1
  fi
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$base is missing or older than Python 3.11. Select another: PYTHON=python3.12 bash launch/local.sh" >&2
    return 1
  fi
  "$base" -m venv "$ROOT/.venv"
}

# The machine ended the process: SIGTERM or another process was lost (75), abort (134), SIGKILL (137),
# segmentation fault (139), SIGTERM that nothing handled (143). Every other code is final: the same
# command would fail again.
ended_by_machine() {
  case $1 in
    75 | 134 | 137 | 139 | 143) return 0 ;;
    *) return 1 ;;
  esac
}

exit_or_requeue() {
  ended_by_machine "$1" || exit "$1"
  echo "Exit code $1: the job is queued again (restart $((${SLURM_RESTART_COUNT:-0} + 1)))" >&2
  scontrol requeue "$SLURM_JOB_ID" || exit "$1"
  sleep "${REQUEUE_SECONDS:-300}" # SLURM ends this script
  exit "$1"
}
