"""Starts a command in several processes over loopback, and compares what they write."""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).parents[2]

TINY = {
  "rounds": 1, "world.train": 24, "world.test": 4, "world.out_of_domain": 0, "world.operand_max": 8,
  "task.validation": 4, "exam.questions": 8, "exam.samples": 2, "exam.max_new_tokens": 12,
  "evaluate.max_new_tokens": 12, "demonstrate.questions": 16, "rollout.batch": 8,
  "rollout.buckets": "192", "train.buckets": "256", "train.steps": 4, "train.batch": 8,
  "train.warmup": 0, "train.log_every": 1, "feedback.cut": True, "student.scratch.width": 32,
  "student.scratch.head_width": 8, "student.scratch.mlp": 64, "student.scratch.vocab": 320,
  "student.scratch.layers": 1,
}  # fmt: skip
# What is about a process, or differs from run to run.
PRIVATE = ("seconds.json", "report.html", ".lock", "teacher.json")
WEIGHTS = ("student", "decomposer", "solver")  # Orbax's layout depends on the processes


def tiny(recipe: str = "quickstart", **changes: object) -> list[str]:
  """The words of a tiny run; `world__train=8` overrides config.world.train."""
  values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
  return [f"--config={recipe}", *(f"--config.{name}={value}" for name, value in values.items())]


def free_port() -> int:
  with socket.create_server(("", 0)) as server:
    return server.getsockname()[1]


@dataclasses.dataclass
class Started:
  """A command in several processes.

  Attributes:
    processes: The processes, by number.
    logs: The directory of their outputs.
  """

  processes: list[subprocess.Popen]
  logs: pathlib.Path

  def wait(self, seconds: float = 560.0) -> list[int]:
    """Waits for all; returns their exit codes."""
    deadline = time.monotonic() + seconds
    return [p.wait(max(deadline - time.monotonic(), 0.1)) for p in self.processes]

  def out(self, number: int) -> str:
    return (self.logs / f"out.{number}").read_text()

  def err(self, number: int) -> str:
    return (self.logs / f"err.{number}").read_text()

  def wait_for(self, text: str, seconds: float = 400.0) -> None:
    """Waits until process 0 has printed a text."""
    deadline = time.monotonic() + seconds
    while text not in self.out(0):
      assert time.monotonic() < deadline and self.processes[0].poll() is None, self.err(0)
      time.sleep(0.1)


@contextlib.contextmanager
def started(
  logs: pathlib.Path,
  words: Sequence[str],
  count: int,
  *,
  devices: int = 1,
  of_process: dict[int, Sequence[str]] | None = None,
  address: str = "",
  environment: dict[str, str] | None = None,
) -> Iterator[Started]:
  """Starts `python -m distill_jax` in `count` processes; kills what is left at the end."""
  logs.mkdir(parents=True, exist_ok=True)
  address = address or f"127.0.0.1:{free_port()}"
  run = Started([], logs)
  for number in range(count):
    own = [*words, *(of_process or {}).get(number, ())]
    if count > 1:
      own += [f"--processes={count}", f"--process={number}", f"--coordinator={address}"]
    # On one core, XLA takes a thread per device, and their number decides how sums are rounded.
    variables = os.environ | {
      "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "NPROC": "2",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONHASHSEED": str(number),
      "TZ": f"UTC{number}", "LANG": ("C.UTF-8", "C")[number % 2], "PYTHONUNBUFFERED": "1",
      "PYTHONPATH": str(ROOT),
      **(environment or {}),
    }  # fmt: skip
    directory = logs / f"directory.{number}"
    directory.mkdir(exist_ok=True)
    with open(logs / f"out.{number}", "wb") as out, open(logs / f"err.{number}", "wb") as err:
      run.processes.append(
        subprocess.Popen(
          [sys.executable, "-m", "distill_jax", *own],
          stdin=subprocess.DEVNULL,
          stdout=out,
          stderr=err,
          cwd=directory,
          env=variables,
        )
      )
  try:
    yield run
  finally:
    for process in run.processes:
      process.kill()
      process.wait()


@contextlib.contextmanager
def teacher(logs: pathlib.Path, words: Sequence[str], port: int) -> Iterator[str]:
  """Runs the built-in teacher for the world of a run in a process of its own; yields its URL."""
  logs.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-m", "distill_jax", "teacher", "serve", f"--port={port}", *words]
  with open(logs / "teacher", "wb") as log:
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
  assert process.stdout is not None
  try:
    line = process.stdout.readline()
    yield next(word for word in line.split() if word.startswith("http"))
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def run(logs: pathlib.Path, words: Sequence[str], count: int, **options) -> Started:
  """Runs a command to its end; all processes must succeed."""
  with started(logs, words, count, **options) as command:
    codes = command.wait()
  assert codes == [0] * count, [command.err(n) for n in range(count)]
  return command


def records(workdir: pathlib.Path) -> dict[str, bytes]:
  """{path: content} of what two equal runs share; digests of weights are in the manifests."""
  found = {}
  for file in sorted(workdir.rglob("*")):
    name = file.relative_to(workdir)
    if not file.is_file() or "sqlite" in name.name or name.name in PRIVATE:
      continue
    if set(name.parts) & {*WEIGHTS, "checkpoints", "batches"}:
      continue
    content = file.read_bytes()
    if name.name == "summary.json":
      content = json.dumps(json.loads(content) | {"seconds": 0}).encode()
    found[name.as_posix()] = content
  return found


def assert_equal(one: pathlib.Path, other: pathlib.Path) -> None:
  expected, found = records(one), records(other)
  assert expected.keys() == found.keys()
  assert [name for name in expected if expected[name] != found[name]] == []
  assert any('"weights"' in content.decode("utf-8", "replace") for content in found.values())
