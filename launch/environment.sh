# Sourced by the scripts beside it. Defines ROOT and two functions; changes nothing by itself.
#
#   requirements_for_this_host   prints the requirements file that fits the accelerator found here
#   prepare FILE                 .venv in the repository root holds what FILE asks for
#
# PYTHON=python3.12 picks the interpreter a new .venv is made from.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

requirements_for_this_host() {
  if nvidia-smi >/dev/null 2>&1; then
    echo requirements-gpu.txt
  elif tpu_here; then
    echo requirements-tpu.txt
  else
    echo requirements.txt
  fi
}

# Older TPU machines show /dev/accel0; newer ones /dev/vfio/0, which other machines may have too.
tpu_here() {
  [[ -e /dev/accel0 ]] && return 0
  [[ -e /dev/vfio/0 ]] || return 1
  [[ -n ${TPU_NAME:-}${TPU_WORKER_ID:-}${TPU_ACCELERATOR_TYPE:-} ]] ||
    grep -qs Google /sys/class/dmi/id/product_name
}

# What was installed stands in a stamp, written last: an interrupted installation is repeated.
prepare() {
  local file=$1 python=$ROOT/.venv/bin/python stamp=$ROOT/.venv/installed-$1 wanted
  wanted=$(cat "$ROOT/$file" "$ROOT/requirements.txt" | cksum)
  if [[ -x $python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    return 0
  fi
  [[ -x $python ]] || make_venv
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
  echo "installing $file into $ROOT/.venv (minutes the first time)" >&2
  if ! "$python" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$file"; then
    echo "installing $file failed, see above; the same command tries again" >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}

make_venv() {
  local base=${PYTHON:-python3}
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$base is missing or older than Python 3.11; name another: PYTHON=python3.12 bash launch/local.sh" >&2
    return 1
  fi
  "$base" -m venv "$ROOT/.venv"
}
