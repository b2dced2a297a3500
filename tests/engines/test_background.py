"""Processes that are kept running without an engine, on one host and on a slice of TPU VMs.

A fake gcloud runs what it is told in one home directory per host, and a fake Python takes the place
of the program.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import pytest

from tests.small_sweeps import ROOT

HOSTS = 3
GCLOUD = """#!/usr/bin/env bash
# gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all|N --batch-size=all --command=COMMAND
[[ "$1 $2 $3 $4 $5" == "compute tpus tpu-vm ssh slice" && $6 == --zone=z ]] || exit 9
for word in "$@"; do
  case $word in
    --worker=*) worker=${word#*=} ;;
    --command=*) command=${word#*=} ;;
  esac
done
[[ $worker != all ]] || worker=$(seq 0 $((HOSTS - 1)))
for n in $worker; do
  export HOME=$HOMES/$n DISTILL_JAX_PROCESS=$n DISTILL_JAX_PROCESSES=$HOSTS
  (cd "$HOME" && bash -c "$command") || failed=1
done
exit ${failed:-0}
"""
PYTHON = """#!/usr/bin/env bash
# Logs its words and its number; then does what the file `act` says.
printf '%s|' "$DISTILL_JAX_PROCESS" "$@" >>"$HOMES/calls"; echo >>"$HOMES/calls"
trap 'echo saved; exit 75' TERM
source "$HOMES/act"
"""
WAIT = "while true; do sleep 0.1; done"


class Started:
  """A command whose output goes to a file: what it leaves running may keep a pipe open."""

  def __init__(self, words: list[str], environment: dict[str, str], path: pathlib.Path):
    with tempfile.NamedTemporaryFile(dir=path, delete=False) as out:
      self.out = pathlib.Path(out.name)
      self.process = subprocess.Popen(words, env=environment, stdout=out, stderr=out)

  def end(self) -> tuple[int, str]:
    """Returns the exit code and the output."""
    code = self.process.wait(60)
    return code, self.out.read_text()


class Hosts:
  """Home directories of hosts, with the repository in each."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    for n in range(HOSTS):
      (path / str(n)).mkdir()
      (path / str(n) / "distill_jax").symlink_to(ROOT)
    for name, text in (("gcloud", GCLOUD), ("python", PYTHON)):
      (path / name).write_text(text)
      (path / name).chmod(0o755)
    self.act(WAIT)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DISTILL_JAX")}
    self.environment = {
      **inherited,
      "PATH": f"{path}:{os.environ['PATH']}",
      "HOMES": str(path),
      "HOSTS": str(HOSTS),
      "DISTILL_JAX_PYTHON": str(path / "python"),
      "FOLLOW_SECONDS": "0.3",
      "RESTART_SECONDS": "0.1",
      "STOP_SECONDS": "3",
    }

  def act(self, text: str) -> None:
    """Says what the program does from now on."""
    (self.path / "new").write_text(f"{text}\n")
    (self.path / "new").rename(self.path / "act")

  def start(self, *words: str) -> "Started":
    """Starts launch/tpu_vm.sh with these words."""
    return Started(
      ["bash", str(ROOT / "launch/tpu_vm.sh"), "slice", "z", *words], self.environment, self.path
    )

  def call(self, *words: str) -> tuple[int, str]:
    """Runs launch/tpu_vm.sh with these words."""
    return self.start(*words).end()

  def calls(self) -> list[str]:
    """The starts of the program: number of the host and words, each followed by |."""
    file = self.path / "calls"
    return sorted(file.read_text().splitlines()) if file.exists() else []

  def until(self, true: Callable[[], bool]) -> None:
    """Waits until something is true."""
    deadline = time.monotonic() + 60
    while not true():
      assert time.monotonic() < deadline, self.calls()
      time.sleep(0.05)

  def processes(self) -> list[str]:
    """All processes that the hosts run."""
    found, marker = [], f"HOMES={self.path}".encode()
    for file in pathlib.Path("/proc").glob("[0-9]*/environ"):
      try:
        if marker in file.read_bytes().split(b"\0"):
          found.append(f"{file.parent.name} {(file.parent / 'cmdline').read_bytes()!r}")
      except OSError:
        continue
    return found


@pytest.fixture
def hosts(tmp_path):
  made = Hosts(tmp_path)
  yield made
  made.call("stop")
  made.until(lambda: not made.processes())


def started(restarts: int = 0, words: str = "run|--workdir=a b|") -> list[str]:
  one = [f"{n}|-m|distill_jax|{words}" for n in range(HOSTS)]
  return sorted(one * (1 + restarts))


def test_all_hosts_get_the_same_words_and_a_second_start_is_refused(hosts):
  following = hosts.start("start", "run", "--workdir=a b", "--config.task.path=$HOME'*")
  words = "run|--workdir=a b|--config.task.path=$HOME'*|"
  hosts.until(lambda: hosts.calls() == started(words=words))
  code, out = hosts.call("start", "run")
  assert code == 3 and "follow or stop it first" in out
  assert hosts.calls() == started(words=words)
  assert hosts.call("status")[1].count("running ") == HOSTS
  following.process.send_signal(signal.SIGKILL)  # a connection that breaks
  assert following.end()[0] == -signal.SIGKILL
  assert hosts.call("status")[1].count("running ") == HOSTS
  assert hosts.call("stop")[0] == 0
  assert hosts.call("status")[1].split() == ["ended", "75"] * HOSTS
  hosts.until(lambda: not hosts.processes())


def test_a_run_that_ends_ends_the_following(hosts):
  hosts.act("echo the result of $DISTILL_JAX_PROCESS; exit 0")
  code, out = hosts.call("start", "run", "--workdir=a b")
  assert code == 0 and "the result of 0" in out and "the result of 1" not in out
  assert hosts.calls() == started()


@pytest.mark.heavy
@pytest.mark.parametrize("code", [75, 134, 137, 139, 143])
def test_what_the_machine_ends_is_started_again(hosts, code):
  hosts.act(f"exit {code}")
  following = hosts.start("start", "run", "--workdir=a b")
  hosts.until(lambda: len(hosts.calls()) > 2 * HOSTS)
  hosts.act("exit 0")
  ended, out = following.end()
  assert ended == 0 and f"Exit code {code}: starting again" in out


@pytest.mark.heavy
def test_a_command_that_keeps_nothing_is_not_started_again(hosts):
  hosts.act("exit 134")
  ended, out = hosts.call("start", "evaluate", "--workdir=a b")
  assert ended == 134 and "starting again" not in out
  assert hosts.calls() == started(words="evaluate|--workdir=a b|")


ABORT = """
import os
from distill_jax.cli import restarts
with restarts.counted([f"--workdir={os.environ['HOME']}/run"], None):
  os.abort()
"""


@pytest.mark.heavy
def test_a_run_that_aborts_in_the_same_place_each_time_is_not_started_for_ever(hosts):
  (hosts.path / "abort.py").write_text(ABORT)
  hosts.environment["PYTHONPATH"] = str(ROOT)
  hosts.act(f"{sys.executable} {hosts.path}/abort.py; code=$?; ((code == 134)) || exit 4; exit 134")
  ended, out = hosts.call("start", "run", "--workdir=a b")
  assert ended == 4 and "Exit code 134: starting again" in out
  assert hosts.calls() == started(restarts=3)


@pytest.mark.heavy
@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 127])
def test_a_host_that_fails_ends_the_others(hosts, code):
  hosts.act(f"[[ $DISTILL_JAX_PROCESS == 1 ]] && exit {code}; {WAIT}")
  ended, out = hosts.call("start", "run", "--workdir=a b")
  assert ended == code and "stopping all hosts" in out
  assert hosts.calls() == started()
  hosts.until(lambda: not hosts.processes())


@pytest.mark.heavy
def test_a_process_that_does_not_end_is_killed(hosts):
  hosts.act("trap '' TERM; " + WAIT)
  following = hosts.start("start", "run", "--workdir=a b")
  hosts.until(lambda: hosts.calls() == started())
  assert hosts.call("stop")[0] == 0
  following.end()
  hosts.until(lambda: not hosts.processes())


@pytest.mark.heavy
def test_a_stop_between_two_starts_starts_nothing(hosts):
  hosts.act("exit 75")
  hosts.environment["RESTART_SECONDS"] = "60"
  following = hosts.start("start", "run", "--workdir=a b")
  logs = [hosts.path / str(n) / ".distill_jax/log" for n in range(HOSTS)]
  hosts.until(lambda: all(f.exists() and "starting again" in f.read_text() for f in logs))
  hosts.act(WAIT)
  stopped, status = hosts.call("stop")[0], hosts.call("status")[1].split()
  following.end()
  assert stopped == 0 and status == ["ended", "75"] * HOSTS
  assert hosts.calls() == started()


@pytest.mark.parametrize("words", [[], ["begin"]])
def test_wrong_words_are_rejected(hosts, words):
  code, out = hosts.call(*words)
  assert code == 2 and "usage: " in out and hosts.calls() == []
