#!/usr/bin/env bash
# Checks lint, format, types, documentation and tests. Runs all five and fails if any of them fails.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/data -k interval      # arguments go to pytest
#   bash launch/test.sh -m heavy                    # tests that take minutes each
#   PROCESSES=0 bash launch/test.sh                 # pytest in one process instead of two
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cd "$ROOT"
prepare requirements.txt requirements-dev.txt requirements-docs.txt
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
status=0
.venv/bin/python -m ruff check || status=1
.venv/bin/python -m ruff format --check || status=1
.venv/bin/python -m pyright || status=1
NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet --site-dir "$site" || status=1
.venv/bin/python -m pytest -n "${PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@" || status=1
exit "$status"
