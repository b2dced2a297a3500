#!/usr/bin/env bash
# Runs a recipe on this host: CPU, NVIDIA GPU or TPU.
#
#   bash launch/local.sh                                   # the quickstart, in runs/quickstart
#   bash launch/local.sh --config.rounds=1 --workdir=runs/one_round
#   bash launch/local.sh configs/tailored.py --workdir=runs/first --config.task.name=svamp
#
# Creates .venv and installs the requirements of this host if they are missing. Relative paths start
# at the repository root; the config is first looked up in the current directory. Re-run the same
# command to resume a run.
set -euo pipefail

cwd=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

config=configs/quickstart.py
if [[ $# -gt 0 && $1 != -* ]]; then
  config=$1
  shift
fi
for argument in "$@"; do
  case $argument in
    --config | -config | --config=*) echo "The config comes first: bash launch/local.sh FILE.py ..." >&2 && exit 2 ;;
  esac
done

# FILE.py:SIZE selects a size of a config. Its run directory is FILE-SIZE.
name=$(basename "$config")
name=${name/.py/}
name=${name/:/-}
if [[ $config != /* && -f $cwd/${config%%:*} ]]; then
  config=$cwd/$config
fi

cd "$ROOT"
requirements=$(requirements_for_this_host)
# shellcheck disable=SC2086 # a list of files
prepare $requirements
exec "$ROOT/.venv/bin/python" -m distill_jax run --config="$config" --workdir="runs/$name" "$@"
