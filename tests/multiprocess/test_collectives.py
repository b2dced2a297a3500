"""What two processes send each other is what the two devices of one process do.

python -m pytest -m heavy tests/multiprocess/test_collectives.py
"""

import collections
import pathlib
import re

import pytest

from tests.multiprocess import commands

COLLECTIVE = re.compile(
  r"\b(all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
  r"|ragged-all-to-all|send|recv)(?:-start)?\("
)
STEP = "jit_train_step"
# Compiled by several processes only: for what leaves the devices (sharding.to_host), and for
# comparisons of what processes have, which a step must not make.
OUTSIDE_STEPS = ("jit__lambda", "jit__identity_fn")
# Loaded by Python at its start: logs who asks for such a comparison.
HOOK = """
import os, traceback
from jax.experimental import multihost_utils

gather, log = multihost_utils.process_allgather, os.open(os.environ["GATHERS"], 0o2101, 0o600)

def logged(*args, **kwargs):
  frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()]
  own = [frame for frame in frames if "/distill_jax/" in frame]
  who = "orbax" if any("/orbax/" in frame for frame in frames) else own[-1]
  os.write(log, f"{who}\\n".encode())
  return gather(*args, **kwargs)

multihost_utils.process_allgather = logged
"""


def programs(path: pathlib.Path) -> dict[str, set[tuple[str, ...]]]:
  """{program: the collectives of each of its versions} of the dumped programs that have any."""
  found = collections.defaultdict(set)
  for file in path.glob("module_*after_optimizations.txt"):
    name = file.name.split(".")[1]
    if kinds := tuple(sorted(COLLECTIVE.findall(file.read_text()))):
      found[name].add(kinds)
  return dict(found)


@pytest.mark.heavy
def test_two_processes_have_the_collectives_of_one_with_two_devices(tmp_path):
  dumped, gathers = {}, tmp_path / "gathers"
  (tmp_path / "sitecustomize.py").write_text(HOOK)
  for count in (1, 2):
    environment = {
      "XLA_FLAGS": f"--xla_dump_to={tmp_path / str(count)} --xla_dump_hlo_as_text",
      "JAX_ENABLE_COMPILATION_CACHE": "false",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
      "GATHERS": str(gathers),
      "PYTHONPATH": f"{tmp_path}:{commands.ROOT}",
    }
    words = ["run", *commands.tiny(rounds=0), f"--workdir={tmp_path / f'run{count}'}"]
    commands.run(
      tmp_path / f"logs{count}", words, count, devices=3 - count, environment=environment
    )
    dumped[count] = programs(tmp_path / str(count))
  assert dumped[1][STEP] == dumped[2][STEP] and any("all-reduce" in c for c in dumped[1][STEP])
  others = dumped[2].keys() - dumped[1].keys()
  assert [name for name in others if not name.startswith(OUTSIDE_STEPS)] == []
  assert set(gathers.read_text().splitlines()) == {"orbax"}  # when it saves and restores
  assert all(dumped[2][name] <= dumped[1][name] for name in dumped[1].keys() & dumped[2].keys())
