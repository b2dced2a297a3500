#!/usr/bin/env bash
# Checks everything: lint, format, tests. Arguments go to pytest; fails if any of the three does.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/data -k interval
#   bash launch/test.sh -m heavy
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cd "$ROOT"
prepare requirements-dev.txt
status=0
.venv/bin/python -m ruff check || status=1
.venv/bin/python -m ruff format --check || status=1
.venv/bin/python -m pytest "$@" || status=1
exit "$status"
