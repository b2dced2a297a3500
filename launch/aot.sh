#!/usr/bin/env bash
# Compiles the device programs for TPUs that are only described, and tests what they hold and send.
#
#   bash launch/aot.sh
#   bash launch/aot.sh -k decoded                   # arguments go to pytest
#
# The compiler, libtpu, is installed into .libtpu, where no other command sees it. If that fails, the
# tests are reported as skipped.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cd "$ROOT"
prepare requirements.txt requirements-dev.txt requirements-docs.txt
wanted=$(.venv/bin/python -c '
from importlib.metadata import requires
print(next(r.partition(";")[0] for r in requires("jax") if r.startswith("libtpu")))')
folder=.libtpu/${wanted//[^a-z0-9.]/_}
if [[ ! -d $folder/libtpu ]]; then
  .venv/bin/python -m pip install --quiet --no-deps --target "$folder" "$wanted" ||
    echo "libtpu cannot be installed: its tests are skipped" >&2
fi
PYTHONPATH=$folder .venv/bin/python -m pytest -m aot -rs tests/aot "$@"
