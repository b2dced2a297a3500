#!/usr/bin/env bash
# Plays a recipe on this host: CPU, NVIDIA GPU or TPU.
#
#   bash launch/local.sh                                   the quickstart, into runs/quickstart
#   bash launch/local.sh --config.rounds=1 --workdir=runs/one_round
#   bash launch/local.sh configs/tailored.py --workdir=runs/first --config.task.name=svamp
#
# Makes .venv and installs what the host needs if it is not there. Relative paths start at the repository
# root, but for the config, which is first looked for where you stand. The same command resumes a run.
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

config=configs/quickstart.py
if [[ $# -gt 0 && $1 != -* ]]; then
  config=$1
  shift
fi
for argument in "$@"; do
  case $argument in
    --config | -config | --config=*) echo "the config comes first: bash launch/local.sh FILE.py ..." >&2 && exit 2 ;;
  esac
done

# FILE.py:SIZE names a size of a config; its run folder is FILE-SIZE.
name=$(basename "$config")
name=${name/.py/}
name=${name/:/-}
if [[ $config != /* && -f $here/${config%%:*} ]]; then
  config=$here/$config
fi

cd "$ROOT"
requirements=$(requirements_for_this_host)
prepare "$requirements"
exec "$ROOT/.venv/bin/python" -m distill_jax run --config="$config" --workdir="runs/$name" "$@"
