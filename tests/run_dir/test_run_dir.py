import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from distill_jax import errors, records
from distill_jax.run_dir import phase_dir, run_dir

ROWS = [records.Example(f"p{n}", f"question {n} \u2028 é", "one\ntwo") for n in range(5)]
CONFIG = {"rounds": 3, "train": {"lr": 0.001, "buckets": (64, 96)}}


@pytest.fixture
def directory(tmp_path):
  directory = run_dir.RunDir(tmp_path / "run")
  directory.claim(CONFIG)
  yield directory
  directory.release()


@pytest.fixture
def phase(directory):
  return directory.phase(2, 1, "feedback")


def rejection(call, *args) -> errors.UserError:
  with pytest.raises(errors.UserError) as caught:
    call(*args)
  assert "\n" not in str(caught.value)
  return caught.value


def test_a_run_directory_can_be_claimed_again_with_the_same_config(directory):
  directory.release()
  again = run_dir.RunDir(directory.path)
  again.claim(CONFIG)
  assert json.loads((directory.path / "config.json").read_text())["train"]["buckets"] == [64, 96]
  again.release()


def test_a_different_config_is_rejected_with_its_keys_and_both_values(directory, phase):
  phase.write("rows.jsonl", ROWS)
  directory.release()
  other = {"rounds": 4, "train": {"lr": 0.002, "buckets": [64]}, "seed": 1}
  error = rejection(run_dir.RunDir(directory.path).claim, other)
  assert error.code == errors.CONFIG
  for part in (
    "config.train.lr: 0.001 there, 0.002 now",
    "[64, 96] there, [64] now",
    "config.seed: nothing there, 1 now",
  ):
    assert part in str(error)
  assert "--workdir" in str(error) and "config.rounds" not in str(error)


def test_a_run_directory_without_phase_output_accepts_another_config(directory):
  directory.release()
  directory.claim({"rounds": 4})
  assert json.loads((directory.path / "config.json").read_text()) == {"rounds": 4}


def test_the_limit_on_teacher_cost_can_be_raised_between_restarts(tmp_path):
  directory = run_dir.RunDir(tmp_path / "run")

  def capped(dollars, seed):
    return {"seed": seed, "teacher": {"max_dollars": dollars}}

  directory.claim(capped(1.0, 3))
  directory.phase(0, 0, "demonstrate").write("rows.jsonl", ROWS)
  directory.release()
  directory.claim(capped(2.0, 3))
  directory.release()
  assert json.loads((directory.path / "config.json").read_text()) == capped(2.0, 3)
  error = rejection(directory.claim, capped(3.0, 4))
  assert "config.seed" in str(error) and "max_dollars" not in str(error)


def test_prices_can_be_set_or_changed_between_restarts(tmp_path):
  directory = run_dir.RunDir(tmp_path / "run")

  def priced(dollars):
    return {"teacher": {"prices": {"input": dollars, "output": dollars}}}

  directory.claim(priced(0.0))
  directory.phase(0, 0, "demonstrate").write("rows.jsonl", ROWS)
  directory.release()
  directory.claim(priced(2.0))
  assert json.loads((directory.path / "config.json").read_text()) == priced(2.0)
  directory.release()


def test_a_second_process_is_rejected_until_the_first_has_died(directory):
  directory.release()
  program = (
    "import json, sys, time; from distill_jax.run_dir import run_dir;"
    "directory = run_dir.RunDir(sys.argv[1]); directory.claim(json.loads(sys.argv[2]));"
    "print('claimed', flush=True); time.sleep(60)"
  )
  command = [sys.executable, "-c", program, directory.path, json.dumps(CONFIG)]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
    assert other.stdout.readline() == b"claimed\n"
    error = rejection(run_dir.RunDir(directory.path).claim, CONFIG)
    assert error.code == errors.DATA and "another process" in str(error)
    other.send_signal(signal.SIGKILL)
    other.wait()
  again = run_dir.RunDir(directory.path)
  again.claim(CONFIG)
  again.release()


@pytest.mark.parametrize("content", [b"", b'{"rounds": 3', b"\xff\xfe"])
def test_a_torn_config_is_rejected_by_name(directory, content):
  directory.release()
  (directory.path / "config.json").write_bytes(content)
  assert "config.json" in str(rejection(run_dir.RunDir(directory.path).claim, CONFIG))


def test_a_rejected_claim_holds_no_lock(directory, phase):
  phase.write("rows.jsonl", ROWS)
  directory.release()
  other = run_dir.RunDir(directory.path)
  rejection(other.claim, {})
  directory.claim(CONFIG)


def test_records_read_back_as_written(phase):
  phase.write("a.jsonl", ROWS)
  phase.append("b.jsonl", ROWS[:2])
  phase.append("b.jsonl", [])
  phase.append("b.jsonl", ROWS[2:])
  assert phase.rows("a.jsonl", records.Example) == phase.rows("b.jsonl", records.Example) == ROWS
  assert phase.rows("none.jsonl", records.Example) == []


def test_a_phase_is_finished_when_its_manifest_is_there(directory, phase):
  phase.write("a.jsonl", ROWS)
  assert not phase.finished and directory.finished(2) == {}
  assert "no finished phase 'feedback'" in str(rejection(directory.find, 2, "feedback"))
  rejection(lambda: phase.facts)
  phase.finish({"kept": 5})
  assert phase.finished and phase.verify() and phase.facts == {"kept": 5}
  assert phase.path == directory.path / "round_02" / "1_feedback"
  assert directory.find(2, "feedback").facts == {"kept": 5}


def test_finished_phases_are_in_the_order_of_the_plan(directory):
  plan = ["exam", "feedback", *["train"] * 9]
  for position, name in reversed(list(enumerate(plan))):
    directory.phase(1, position, name).finish({"position": position})
  phases = directory.finished(1)
  assert list(phases) == ["exam", "feedback", "train"]
  assert phases["train"].facts == {"position": 10}


def test_a_manifest_is_the_same_for_the_same_content(directory):
  for name in ("a", "b"):
    phase = directory.final(name)
    phase.write("rows.jsonl", ROWS)
    phase.finish({"z": 1, "a": 2})
  a, b = ((directory.final(name).path / "manifest.json").read_bytes() for name in ("a", "b"))
  assert a == b


def test_a_manifest_does_not_cover_subdirectories(phase):
  (phase.path / "checkpoints").mkdir(parents=True)
  (phase.path / "checkpoints" / "weights").write_text("x")
  phase.finish({})
  (phase.path / "checkpoints" / "weights").unlink()
  assert phase.verify()


def test_damage_to_a_finished_phase_is_rejected_by_name(phase):
  phase.write("a.jsonl", ROWS)
  phase.finish({})
  file = phase.path / "a.jsonl"
  content = file.read_bytes()
  file.write_bytes(content.replace(b"one", b"two", 1))
  assert phase.finished and "a.jsonl has changed" in str(rejection(phase.verify))
  file.write_bytes(content[:-1])
  assert "a.jsonl has" in str(rejection(lambda: phase.finished))
  file.unlink()
  assert "a.jsonl is missing" in str(rejection(lambda: phase.finished))


def test_a_torn_manifest_is_rejected_by_name(phase):
  phase.finish({})
  (phase.path / "manifest.json").write_text('{"facts"')
  again = phase_dir.PhaseDir(phase.path)
  assert "manifest.json" in str(rejection(lambda: again.finished))


def test_a_torn_last_line_is_set_aside_and_the_other_lines_are_kept(phase):
  phase.append("a.jsonl", ROWS[:3])
  file = phase.path / "a.jsonl"
  complete = file.read_bytes()
  file.write_bytes(complete + b'{"problem": "p3", "pro')
  assert phase.rows("a.jsonl", records.Example) == ROWS[:3]
  assert file.read_bytes() == complete
  assert (phase.path / "a.jsonl.torn").read_bytes() == b'{"problem": "p3", "pro'
  phase.append("a.jsonl", ROWS[3:])
  assert phase.rows("a.jsonl", records.Example) == ROWS


def test_a_first_line_can_be_torn_too(phase):
  phase.append("a.jsonl", ROWS[:1])
  os.truncate(phase.path / "a.jsonl", 10)
  assert phase.rows("a.jsonl", records.Example) == []


@pytest.mark.parametrize("broken", [b"{}", b"{", b"", b"[1]", b'\xff"', b'{"problem": 3}'])
def test_a_broken_middle_line_is_rejected_with_its_number(phase, broken):
  phase.append("a.jsonl", ROWS[:3])
  lines = (phase.path / "a.jsonl").read_bytes().split(b"\n")
  (phase.path / "a.jsonl").write_bytes(b"\n".join([lines[0], broken, *lines[1:]]))
  error = rejection(phase.rows, "a.jsonl", records.Example)
  assert "a.jsonl:2" in str(error) and error.code == errors.DATA


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("method", ["write", "append"])
def test_a_disk_error_loses_nothing_and_the_message_says_so(
  phase, monkeypatch, call, number, method
):
  phase.append("a.jsonl", ROWS[:2])
  before = (phase.path / "a.jsonl").read_bytes()

  def fail(*_):
    raise OSError(number, os.strerror(number))

  with monkeypatch.context() as patched:
    patched.setattr(os, call, fail)
    error = rejection(getattr(phase, method), "a.jsonl", ROWS[2:])
  assert (
    error.code == errors.DATA
    and "a.jsonl" in str(error)
    and "no finished work is lost" in str(error)
  )
  assert ("free some space" in str(error)) == (number == errno.ENOSPC)
  assert (phase.path / "a.jsonl").read_bytes() == before


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_no_partial_line(phase, monkeypatch):
  phase.append("a.jsonl", ROWS[:2])
  write, calls = os.write, []

  def nearly_full(fd, content):
    calls.append(len(content))
    if len(calls) > 1:
      raise OSError(errno.ENOSPC, "full")
    return write(fd, content[:7])

  with monkeypatch.context() as patched:
    patched.setattr(os, "write", nearly_full)
    rejection(phase.append, "a.jsonl", ROWS[2:])
  assert phase.rows("a.jsonl", records.Example) == ROWS[:2]
  assert not (phase.path / "a.jsonl.torn").exists()


def test_a_write_that_the_system_splits_is_complete(phase, monkeypatch):
  write = os.write
  monkeypatch.setattr(os, "write", lambda fd, content: write(fd, content[:5]))
  phase.write("a.jsonl", ROWS)
  phase.append("a.jsonl", ROWS)
  assert phase.rows("a.jsonl", records.Example) == ROWS + ROWS


def test_seconds_add_up_over_restarts(directory):
  directory.add_seconds(1.5)
  again = run_dir.RunDir(directory.path)
  again.add_seconds(2.0)
  assert directory.seconds == 3.5


def test_a_file_system_without_locks_is_named_in_one_line(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(phase_dir.fcntl, "flock", refuse)
  with pytest.raises(errors.UserError, match=r"cannot be locked \(No locks available\)"):
    run_dir.RunDir(tmp_path / "run").claim({})
