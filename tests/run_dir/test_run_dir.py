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
def folder(tmp_path):
  opened = run_dir.RunDir(tmp_path / "run")
  opened.claim(CONFIG)
  yield opened
  opened.release()


@pytest.fixture
def phase(folder):
  return folder.phase(2, 1, "feedback")


def refusal(call, *args) -> errors.UserError:
  with pytest.raises(errors.UserError) as caught:
    call(*args)
  assert "\n" not in str(caught.value)
  return caught.value


def test_a_folder_is_claimed_again_with_the_same_config(folder):
  folder.release()
  again = run_dir.RunDir(folder.path)
  again.claim(CONFIG)
  assert json.loads((folder.path / "config.json").read_text())["train"]["buckets"] == [64, 96]
  again.release()


def test_another_config_is_refused_with_its_keys_and_both_values(folder, phase):
  phase.write("rows.jsonl", ROWS)
  folder.release()
  other = {"rounds": 4, "train": {"lr": 0.001, "buckets": [64]}, "seed": 1}
  error = refusal(run_dir.RunDir(folder.path).claim, other)
  assert error.code == errors.CONFIG
  for part in (
    "config.rounds: 3 there, 4 now",
    "[64, 96] there, [64] now",
    "config.seed: nothing there, 1 now",
  ):
    assert part in str(error)
  assert "--workdir" in str(error) and "config.train.lr" not in str(error)


def test_a_folder_in_which_no_phase_has_written_takes_another_config(folder):
  folder.release()
  folder.claim({"rounds": 4})
  assert json.loads((folder.path / "config.json").read_text()) == {"rounds": 4}


def test_the_cap_on_what_the_teacher_costs_can_be_raised_while_a_run_lasts(tmp_path):
  folder = run_dir.RunDir(tmp_path / "run")
  capped = lambda dollars, rounds: {"rounds": rounds, "teacher": {"max_dollars": dollars}}
  folder.claim(capped(1.0, 3))
  folder.phase(0, 0, "demonstrate").write("rows.jsonl", ROWS)
  folder.release()
  folder.claim(capped(2.0, 3))
  folder.release()
  assert json.loads((folder.path / "config.json").read_text()) == capped(2.0, 3)
  error = refusal(folder.claim, capped(3.0, 4))
  assert "config.rounds" in str(error) and "max_dollars" not in str(error)


def test_prices_that_were_forgotten_or_have_changed_can_be_set_while_a_run_lasts(tmp_path):
  folder = run_dir.RunDir(tmp_path / "run")
  priced = lambda dollars: {"teacher": {"prices": {"input": dollars, "output": dollars}}}
  folder.claim(priced(0.0))
  folder.phase(0, 0, "demonstrate").write("rows.jsonl", ROWS)
  folder.release()
  folder.claim(priced(2.0))
  assert json.loads((folder.path / "config.json").read_text()) == priced(2.0)
  folder.release()


def test_a_second_process_is_refused_until_the_first_has_died(folder):
  folder.release()
  program = (
    "import json, sys, time; from distill_jax.run_dir import run_dir;"
    "folder = run_dir.RunDir(sys.argv[1]); folder.claim(json.loads(sys.argv[2]));"
    "print('ours', flush=True); time.sleep(60)"
  )
  command = [sys.executable, "-c", program, folder.path, json.dumps(CONFIG)]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
    assert other.stdout.readline() == b"ours\n"
    error = refusal(run_dir.RunDir(folder.path).claim, CONFIG)
    assert error.code == errors.DATA and "another process" in str(error)
    other.send_signal(signal.SIGKILL)
    other.wait()
  again = run_dir.RunDir(folder.path)
  again.claim(CONFIG)
  again.release()


@pytest.mark.parametrize("content", [b"", b'{"rounds": 3', b"\xff\xfe"])
def test_a_torn_config_is_refused_by_name(folder, content):
  folder.release()
  (folder.path / "config.json").write_bytes(content)
  assert "config.json" in str(refusal(run_dir.RunDir(folder.path).claim, CONFIG))


def test_a_refused_claim_holds_nothing(folder, phase):
  phase.write("rows.jsonl", ROWS)
  folder.release()
  other = run_dir.RunDir(folder.path)
  refusal(other.claim, {})
  folder.claim(CONFIG)


def test_records_come_back_as_they_went(phase):
  phase.write("a.jsonl", ROWS)
  phase.append("b.jsonl", ROWS[:2])
  phase.append("b.jsonl", [])
  phase.append("b.jsonl", ROWS[2:])
  assert phase.rows("a.jsonl", records.Example) == phase.rows("b.jsonl", records.Example) == ROWS
  assert phase.rows("none.jsonl", records.Example) == []


def test_a_phase_is_finished_when_its_manifest_is_there(folder, phase):
  phase.write("a.jsonl", ROWS)
  assert not phase.finished and folder.finished(2) == {}
  assert "no finished phase 'feedback'" in str(refusal(folder.find, 2, "feedback"))
  refusal(lambda: phase.facts)
  phase.finish({"kept": 5})
  assert phase.finished and phase.verify() and phase.facts == {"kept": 5}
  assert phase.path == folder.path / "round_02" / "1_feedback"
  assert folder.find(2, "feedback").facts == {"kept": 5}


def test_finished_phases_stand_in_the_order_of_the_plan(folder):
  for place, name in reversed(list(enumerate(["exam", "feedback", *["train"] * 9]))):
    folder.phase(1, place, name).finish({"place": place})
  found = folder.finished(1)
  assert list(found) == ["exam", "feedback", "train"] and found["train"].facts == {"place": 10}


def test_a_manifest_is_the_same_for_the_same_content(folder):
  for name in ("a", "b"):
    phase = folder.final(name)
    phase.write("rows.jsonl", ROWS)
    phase.finish({"z": 1, "a": 2})
  read = lambda name: (folder.final(name).path / "manifest.json").read_bytes()
  assert read("a") == read("b")


def test_subfolders_answer_for_themselves(phase):
  (phase.path / "checkpoints").mkdir(parents=True)
  (phase.path / "checkpoints" / "weights").write_text("x")
  phase.finish({})
  (phase.path / "checkpoints" / "weights").unlink()
  assert phase.verify()


def test_damage_to_a_finished_phase_is_refused_by_name(phase):
  phase.write("a.jsonl", ROWS)
  phase.finish({})
  file = phase.path / "a.jsonl"
  content = file.read_bytes()
  file.write_bytes(content.replace(b"one", b"two", 1))
  assert phase.finished and "a.jsonl has changed" in str(refusal(phase.verify))
  file.write_bytes(content[:-1])
  assert "a.jsonl has" in str(refusal(lambda: phase.finished))
  file.unlink()
  assert "a.jsonl is missing" in str(refusal(lambda: phase.finished))


def test_a_torn_manifest_is_refused_by_name(phase):
  phase.finish({})
  (phase.path / "manifest.json").write_text('{"facts"')
  again = phase_dir.PhaseDir(phase.path)
  assert "manifest.json" in str(refusal(lambda: again.finished))


def test_a_torn_last_line_is_set_aside_and_the_rest_goes_on(phase):
  phase.append("a.jsonl", ROWS[:3])
  file = phase.path / "a.jsonl"
  whole = file.read_bytes()
  file.write_bytes(whole + b'{"problem": "p3", "pro')
  assert phase.rows("a.jsonl", records.Example) == ROWS[:3]
  assert file.read_bytes() == whole
  assert (phase.path / "a.jsonl.torn").read_bytes() == b'{"problem": "p3", "pro'
  phase.append("a.jsonl", ROWS[3:])
  assert phase.rows("a.jsonl", records.Example) == ROWS


def test_a_first_line_can_be_torn_too(phase):
  phase.append("a.jsonl", ROWS[:1])
  os.truncate(phase.path / "a.jsonl", 10)
  assert phase.rows("a.jsonl", records.Example) == []


@pytest.mark.parametrize("broken", [b"{}", b"{", b"", b"[1]", b'\xff"', b'{"problem": 3}'])
def test_a_broken_middle_line_is_refused_with_its_number(phase, broken):
  phase.append("a.jsonl", ROWS[:3])
  lines = (phase.path / "a.jsonl").read_bytes().split(b"\n")
  (phase.path / "a.jsonl").write_bytes(b"\n".join([lines[0], broken, *lines[1:]]))
  error = refusal(phase.rows, "a.jsonl", records.Example)
  assert "a.jsonl:2" in str(error) and error.code == errors.DATA


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("method", ["write", "append"])
def test_trouble_with_the_disk_loses_nothing_and_says_so(phase, monkeypatch, call, number, method):
  phase.append("a.jsonl", ROWS[:2])
  before = (phase.path / "a.jsonl").read_bytes()

  def fail(*_):
    raise OSError(number, os.strerror(number))

  with monkeypatch.context() as patched:
    patched.setattr(os, call, fail)
    error = refusal(getattr(phase, method), "a.jsonl", ROWS[2:])
  assert (
    error.code == errors.DATA
    and "a.jsonl" in str(error)
    and "nothing that was finished is lost" in str(error)
  )
  assert ("make room" in str(error)) == (number == errno.ENOSPC)
  assert (phase.path / "a.jsonl").read_bytes() == before


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_no_half_of_it(phase, monkeypatch):
  phase.append("a.jsonl", ROWS[:2])
  write, calls = os.write, []

  def nearly_full(fd, content):
    calls.append(len(content))
    if len(calls) > 1:
      raise OSError(errno.ENOSPC, "full")
    return write(fd, content[:7])

  with monkeypatch.context() as patched:
    patched.setattr(os, "write", nearly_full)
    refusal(phase.append, "a.jsonl", ROWS[2:])
  assert phase.rows("a.jsonl", records.Example) == ROWS[:2]
  assert not (phase.path / "a.jsonl.torn").exists()


def test_a_write_that_is_taken_in_pieces_is_whole(phase, monkeypatch):
  write = os.write
  monkeypatch.setattr(os, "write", lambda fd, content: write(fd, content[:5]))
  phase.write("a.jsonl", ROWS)
  phase.append("a.jsonl", ROWS)
  assert phase.rows("a.jsonl", records.Example) == ROWS + ROWS


def test_seconds_add_up_over_restarts(folder):
  folder.add_seconds(1.5)
  again = run_dir.RunDir(folder.path)
  again.add_seconds(2.0)
  assert folder.seconds == 3.5
