#!/usr/bin/env bash
# Starts the process of this host. Each host of a run executes it once, with the same arguments:
#
#   bash launch/process.sh run --config=quickstart --workdir=/shared/runs/quickstart
#   bash launch/process.sh evaluate --workdir=/shared/runs/quickstart
#
# Relative paths start at the repository root. Environment:
#
#   DISTILL_JAX_PROCESSES    number of processes; default: auto, which asks SLURM, Open MPI or the TPU
#   DISTILL_JAX_PROCESS      number of this process, from 0
#   DISTILL_JAX_COORDINATOR  HOST:PORT of process 0
#   DISTILL_JAX_TRIES        starts in a row that may store nothing new; default: 3; 0: no limit
#   DISTILL_JAX_PYTHON       Python that has the requirements; default: .venv, which is created
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Prints the processes that use the accelerators of this host, one per line. nvidia-smi prints errors
# to the same stream, for example with CUDA_VISIBLE_DEVICES=-1.
accelerator_users() {
  local gpus=()
  [[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || gpus=("--id=$CUDA_VISIBLE_DEVICES")
  if nvidia-smi >/dev/null 2>&1; then
    nvidia-smi "${gpus[@]}" --query-compute-apps=pid,name --format=csv,noheader |
      grep '^[0-9]' || true
  elif has_tpu; then
    find /proc/[0-9]*/fd \( -lname '/dev/accel*' -o -lname '/dev/vfio/[0-9]*' \) 2>/dev/null |
      cut -d / -f 3 | sort -u || true
  fi
}

users=""
# A process that was just killed releases them within seconds.
for ((tries = 0; tries < ${ACCELERATOR_TRIES:-15}; tries++)); do
  users=$(accelerator_users)
  [[ -n $users ]] || break
  sleep 2
done
if [[ -n $users ]]; then
  echo "$(hostname): the accelerators are in use by process ${users//$'\n'/; }. Wait for it, or stop it." >&2
  exit 3
fi

cd "$ROOT"
python=${DISTILL_JAX_PYTHON:-$ROOT/.venv/bin/python}
if [[ -z ${DISTILL_JAX_PYTHON:-} ]]; then
  requirements=$(requirements_for_this_host)
  exec 9>"$ROOT/.venv.lock"
  flock 9 # hosts that share the checkout: one installs, the others wait
  # shellcheck disable=SC2086 # a list of files
  prepare $requirements
  exec 9>&-
fi
export DISTILL_JAX_PROCESSES=${DISTILL_JAX_PROCESSES:-auto} DISTILL_JAX_TRIES=${DISTILL_JAX_TRIES:-3}
exec "$python" -m distill_jax "$@" # signals reach Python
