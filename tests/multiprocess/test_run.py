"""Commands on several processes: the same bytes as one process, and how they end.

bash launch/test.sh -m heavy tests/multiprocess
"""

import signal
import subprocess
import sys
import time

import pytest

from distill_jax import errors
from tests.multiprocess import commands

HEAVY = pytest.mark.heavy


def test_two_processes_write_the_bytes_and_weights_of_one_with_two_devices(tmp_path):
  words = ["run", *commands.tiny(rounds=0)]
  one, two = tmp_path / "one", tmp_path / "two"
  with commands.started(tmp_path / "2", [*words, f"--workdir={two}"], 2) as several:
    commands.run(tmp_path / "1", [*words, f"--workdir={one}"], 1, devices=2)
    assert several.wait() == [0, 0], (several.err(0), several.err(1))
  commands.assert_equal(one, two)
  assert several.out(1) == "" == several.err(1)


def test_one_process_does_not_load_what_several_need():
  code = (
    "import sys; from distill_jax.cli import main, processes; processes.take([]); "
    "print(sorted(m for m in sys.modules if m.split('.')[0] == 'jax'"
    " or m in ('distill_jax.machine.processes', 'distill_jax.machine.meeting')))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
  ("words", "text"),
  [
    (["--processes=2"], "--processes=N also needs"),
    (["--processes=two"], "--processes=two must be"),
    (["--process=1"], "--process and --coordinator need --processes=N"),
    (["--process=0", "--coordinator=a:1"], "--process and --coordinator need --processes=N"),
    (["--processes=2", "--process=2", "--coordinator=a:1"], "must be a number from 0 to 1"),
    (["--processes=2", "--process=1", "--coordinator=a"], "is not HOST:PORT"),
  ],
)
def test_wrong_options_are_refused_in_one_line(words, text, capsys, monkeypatch):
  from distill_jax.cli import main

  monkeypatch.delenv("DISTILL_JAX_PROCESSES", raising=False)
  assert main.main(["run", *commands.tiny(), "--workdir=x", *words]) == errors.USAGE
  error = capsys.readouterr().err
  assert text in error and error.count("\n") == 1


@pytest.mark.parametrize(
  ("name", "value"), [("PATIENCE", "abc"), ("PROCESSES", "x"), ("PROCESS", "2")]
)
def test_a_wrong_variable_is_named_as_such(name, value, capsys, monkeypatch):
  from distill_jax.cli import main

  variables = {"PROCESSES": "2", "PROCESS": "0", "COORDINATOR": "a:1"} | {name: value}
  for key, text in variables.items():
    monkeypatch.setenv(f"DISTILL_JAX_{key}", text)
  assert main.main(["run", *commands.tiny(), "--workdir=x"]) == errors.USAGE
  assert f"DISTILL_JAX_{name}={value} must be" in capsys.readouterr().err


@HEAVY
def test_a_process_that_sleeps_for_ten_seconds_is_not_missed(tmp_path):
  words = ["run", *commands.tiny(train__steps=30), f"--workdir={tmp_path / 'run'}"]
  with commands.started(tmp_path / "logs", words, 2) as run:
    run.wait_for("the train step")
    run.processes[1].send_signal(signal.SIGSTOP)
    time.sleep(10)
    run.processes[1].send_signal(signal.SIGCONT)
    assert run.wait() == [0, 0], run.err(0)


@HEAVY
def test_another_setting_on_one_process_is_refused_by_its_name(tmp_path):
  words = ["run", *commands.tiny(), f"--workdir={tmp_path / 'run'}"]
  other = {1: ["--config.train.lr=0.5"]}
  with commands.started(tmp_path / "logs", words, 2, of_process=other) as run:
    assert run.wait(120) == [errors.CONFIG] * 2
  assert "process 1 (" in run.err(0) and "train.lr: 0.5 there" in run.err(0)
  assert run.err(0).count("\n") == 1 and run.err(1) == ""
  assert not (tmp_path / "run").exists()


@HEAVY
def test_a_run_directory_that_is_not_shared_is_refused(tmp_path):
  words = ["run", *commands.tiny()]
  own = {n: [f"--workdir={tmp_path / str(n)}"] for n in range(2)}
  with commands.started(tmp_path / "logs", words, 2, of_process=own) as run:
    assert run.wait(120) == [errors.DATA] * 2
  assert "process 1 (" in run.err(0) and "does not see" in run.err(0)


@HEAVY
def test_a_refusal_on_process_0_ends_all_with_its_code(tmp_path):
  (tmp_path / "run").write_text("a file")
  words = ["run", *commands.tiny(), f"--workdir={tmp_path / 'run'}"]
  with commands.started(tmp_path / "logs", words, 2) as run:
    assert run.wait(120) == [errors.DATA] * 2
  assert run.err(0).count("\n") == 1 and run.err(1) == ""
