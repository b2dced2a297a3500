#!/usr/bin/env bash
# Checks everything: lint, format, tests. Arguments go to pytest; fails if any of the three does.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/data -k interval
#   bash launch/test.sh -m heavy
#   PROCESSES=0 bash launch/test.sh      # in one process; otherwise in two, each with files of its own
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cd "$ROOT"
prepare requirements-dev.txt
status=0
.venv/bin/python -m ruff check || status=1
.venv/bin/python -m ruff format --check || status=1
.venv/bin/python -m pytest -n "${PROCESSES:-2}" --dist loadfile "$@" || status=1
exit "$status"
