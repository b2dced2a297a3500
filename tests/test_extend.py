"""A run may be extended, moved and scored again; what changed is recorded, and nothing is lost."""

import contextlib
import dataclasses
import json
import re
import shutil
import sqlite3

import pytest

from distill_jax import errors, records
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.console import Console
from distill_jax.phases import demonstrate, feedback
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import results, resume
from distill_jax.settings import Settings
from distill_jax.teacher import pool
from tests import compilations, test_rounds
from tests.faults import test_kill

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

SMALL = {
  "world__train": 24, "world__test": 6, "world__out_of_domain": 0, "task__validation": 6,
  "exam__questions": 12, "train__steps": 3, "train__log_every": 1,
}  # fmt: skip


def run(workdir, **changes) -> tuple[dict, RunDir]:
  return test_rounds.run(workdir, **SMALL | changes)


def without_changes(workdir) -> dict[str, bytes]:
  """Returns every record, manifest and config of a run, without the list of changed settings."""
  contents = test_kill.contents(workdir)
  contents.pop("changes.jsonl", None)
  return contents


def replies(workdir) -> list[tuple]:
  """Returns what the run has paid for, by phase."""
  with contextlib.closing(sqlite3.connect(workdir / "teacher.sqlite")) as db:
    columns = "key, text, tokens_in, tokens_out, dollars, run, round, phase"
    return sorted(db.execute(f"select {columns} from replies"))


PLANS = {
  "feedback": {},
  "blind feedback and demonstrations in each round": {
    "each_round": ("demonstrate", "exam", "feedback", "train"), "feedback__kind": "blind",
  },
}  # fmt: skip


@pytest.mark.parametrize(
  "plan",
  [name if name == "feedback" else pytest.param(name, marks=pytest.mark.heavy) for name in PLANS],
)
def test_a_run_extended_from_two_rounds_to_four_equals_a_run_of_four(plan, tmp_path):
  extended, direct = tmp_path / "extended", tmp_path / "direct"
  run(extended, rounds=2, **PLANS[plan])
  first, _ = run(extended, rounds=4, **PLANS[plan])
  second, _ = run(direct, rounds=4, **PLANS[plan])
  assert without_changes(extended) == without_changes(direct)
  assert test_kill.weights(extended) == test_kill.weights(direct) != {}
  assert replies(extended) == replies(direct) != []
  assert {**first, "seconds": 0} == {**second, "seconds": 0} and len(first["rounds"]) == 5
  (change,) = map(json.loads, (extended / "changes.jsonl").read_text().splitlines())
  assert (change["key"], change["old"], change["new"]) == ("config.rounds", 2, 4)
  assert "round_02/3_evaluate" in change["finished"] or "round_02/4_evaluate" in change["finished"]
  assert "final/test" in change["finished"] and change["time"].startswith("20")


def test_a_run_killed_while_it_is_extended_is_not_taken_for_a_finished_one(tmp_path):
  run(tmp_path / "run", rounds=0)
  changed = test_rounds.config(**SMALL | {"rounds": 1})
  claimed = RunDir(tmp_path / "run")
  claimed.claim(changed)
  claimed.release()
  assert not (tmp_path / "run" / "summary.json").exists()
  summary, _ = run(tmp_path / "run", rounds=1)
  assert len(summary["rounds"]) == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of one round."""
  return run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def copied(finished, tmp_path):
  return shutil.copytree(finished[1].path, tmp_path / "run")


def modified(workdir, pattern) -> dict:
  return {str(f): f.stat().st_mtime_ns for f in sorted(workdir.glob(pattern))}


def test_evaluations_are_measured_again_with_other_settings_and_nothing_else_is(copied):
  kept = modified(copied, "round_*/[0-2]_*/*.jsonl")
  before = modified(copied, "*/*/verdicts.jsonl")
  summary, run_dir = run(copied, evaluate__max_new_tokens=9)
  assert modified(copied, "round_*/[0-2]_*/*.jsonl") == kept
  after = modified(copied, "*/*/verdicts.jsonl")
  assert before.keys() == after.keys() and all(before[name] != after[name] for name in before)
  for phase in (run_dir.find(1, "evaluate"), run_dir.final("test")):
    assert phase.facts["measured"]["evaluate"]["max_new_tokens"] == 9
    tokens = [a.tokens for a in phase.rows("attempts.jsonl", records.Attempt)]
    assert max(tokens) <= 9
  run(copied, evaluate__max_new_tokens=9)
  assert modified(copied, "*/*/verdicts.jsonl") == after
  assert summary["config"]["evaluate"]["max_new_tokens"] == 9


def test_a_test_score_of_another_student_is_measured_again(copied, tmp_path):
  """Two runs of equal settings but another seed: their final tests are exchanged."""
  _, other = run(tmp_path / "other", seed=7)
  right = (copied / "final/test/attempts.jsonl").read_bytes()
  shutil.rmtree(copied / "final/test")
  shutil.copytree(other.path / "final/test", copied / "final/test")
  assert results.final(RunDir(copied), "test", 0) is None
  assert results.final(RunDir(copied), "test", 1) is None
  summary, _ = run(copied)
  assert (copied / "final/test/attempts.jsonl").read_bytes() == right
  assert summary["test"]["n"] == 6


def test_scores_are_counted_from_the_verdicts_not_read_from_a_manifest(copied, capsys):
  """Also if someone has written a consistent manifest."""
  phase = RunDir(copied).final("test")
  phase.finish({**phase.facts, "accuracy": 1.0, "correct": 6, "low": 0.9, "high": 1.0})
  exam = RunDir(copied).find(1, "exam")
  exam.finish({**exam.facts, "accuracy": 0.987})
  summary, _ = run(copied)
  verdicts = phase.rows("verdicts.jsonl", records.Verdict)
  assert summary["test"]["correct"] == sum(v.correct for v in verdicts) < 6
  assert summary["rounds"][1]["exam"]["accuracy"] != 0.987
  assert "98.7%" not in capsys.readouterr().out


def test_an_edited_manifest_is_rejected_by_name(copied):
  file = copied / "final/test/manifest.json"
  file.write_text(file.read_text().replace('"n": 6', '"n": 7'))
  for command in (
    lambda: run(copied),
    lambda: commands.evaluate(
      read_settings(test_rounds.config(**SMALL)), workdir=str(copied), round=-1, split="test"
    ),
  ):
    with pytest.raises(errors.UserError, match=r"final/test/manifest\.json is damaged.*remove"):
      command()


def test_a_damaged_phase_can_be_removed_and_repeated_without_paying_again(copied, finished):
  file = copied / "round_01/1_feedback/rationales.jsonl"
  content = file.read_bytes()
  file.write_bytes(content.replace(b"1", b"2", 1))
  with pytest.raises(errors.UserError, match=r"1_feedback/rationales\.jsonl has changed") as error:
    run(copied)
  assert "paid for" in str(error.value) and str(copied / "round_01/1_feedback") in str(error.value)
  before = replies(copied)
  for path in (*copied.glob("round_01/[1-3]_*"), copied / "final"):
    shutil.rmtree(path)
  summary, _ = run(copied)
  assert file.read_bytes() == content and replies(copied) == before
  assert summary["rounds"] == finished[0]["rounds"] and summary["test"] == finished[0]["test"]


def written(workdir) -> list:
  """Returns the files that every command checks when it opens a run: one of each kind."""
  skipped = {"README.md", "report.html", "summary.json", "seconds.json"}
  skipped |= {"teacher.json", "teacher.sqlite"}
  found = {}
  for file in sorted(workdir.rglob("*")):
    parts = file.relative_to(workdir).parts
    weights = "student" in parts  # compared with their digests when they are loaded
    if file.is_file() and file.stat().st_size and not weights and not skipped & set(parts):
      kind = re.sub(r"\d+", "N", "/".join(parts))
      found[kind if not file.name.startswith(".") else None] = file
  found.pop(None, None)
  return list(found.values())


def test_a_flipped_byte_in_any_kind_of_record_is_named_by_every_command(copied):
  """The same for all kinds of files, weights included: tests/faults/test_flips.py."""
  c = test_rounds.config(**SMALL)
  options = {"workdir": str(copied), "round": -1}
  settings = read_settings(c)
  commands_of_a_run = (
    lambda: commands.run(settings, c, str(copied)),
    lambda: commands.evaluate(settings, split="test", **options),
    lambda: commands.sample(
      settings, question="2 + 2?", questions="", samples=1, temperature=0.0, **options
    ),
    lambda: commands.export(
      settings, out=str(copied / "out"), dtype="float32", verify=False, **options
    ),
  )
  files = written(copied)
  names = {file.name for file in files}
  assert names >= {"config.json", "manifest.json", "questions.jsonl", "tokenizer.json"}
  assert names >= {"attempts.jsonl", "rationales.jsonl", "metrics.jsonl", "examples.jsonl"}
  assert names >= {"verdicts.jsonl", "measured.json", "contrasts.jsonl"} and len(files) > 20
  for file in files:
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    for command in commands_of_a_run:
      with pytest.raises(errors.UserError, match=re.escape(str(file))) as error:
        command()
      assert error.value.code == errors.DATA
    file.write_bytes(content)


def test_a_deleted_cache_is_found_before_anything_is_paid_for(copied, capsys):
  for path in (*copied.glob("round_01/[1-3]_*"), copied / "final"):
    shutil.rmtree(path)
  for file in copied.glob("teacher.sqlite*"):
    file.unlink()
  with pytest.raises(errors.UserError, match=r"teacher\.sqlite is missing.*restore") as error:
    run(copied)
  assert error.value.code == errors.DATA and not (copied / "teacher.sqlite").exists()
  assert "round 1" not in capsys.readouterr().out


def gsm8k(path, answers):
  path.mkdir()
  for split, count in (("train", 12), ("test", 4)):
    rows = [
      {"question": f"{split} {n}: What is {n} + 1?", "answer": f"Add.\n#### {n + answers}"}
      for n in range(count)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / f"{split}.jsonl").write_text(text)
  return str(path)


def test_data_may_move_but_not_change(tmp_path):
  """A data set is known by its questions, wherever they are stored."""
  options = {
    "task__name": "gsm8k", "task__validation": 3, "demonstrate__source": "gold", "rounds": 0,
    "opening": ("demonstrate", "train"), "each_round": (), "train__losses__triplet": 0.0,
  }  # fmt: skip

  def run_on(path):
    c = test_rounds.config(**options, task__path=path)
    return commands.run(read_settings(c), c, str(tmp_path / "run"))

  first = run_on(gsm8k(tmp_path / "here", 1))
  again = run_on(gsm8k(tmp_path / "there", 1))
  assert again["rounds"] == first["rounds"] and again["test"] == first["test"]
  with pytest.raises(errors.UserError, match=r"other.*does not have the questions.*train"):
    run_on(gsm8k(tmp_path / "other", 2))
  (tmp_path / "there" / "test.jsonl").write_text(
    (tmp_path / "there" / "test.jsonl").read_text().replace("#### 2", "#### 3")
  )
  with pytest.raises(errors.UserError, match=r"there does not have.*\(test differ\)"):
    run_on(str(tmp_path / "there"))


def test_recorded_files_may_move_but_not_change(tmp_path):
  def check(path, questions=""):
    c = test_rounds.config(
      teacher__kind="replay",
      teacher__replay__path=(str(path),),
      teacher__replay__questions=questions,
    )
    run_dir = RunDir(tmp_path / "run")
    run_dir.claim(c)
    try:
      with commands.context.RunContext(read_settings(c), run_dir, Console(quiet=True)) as ctx:
        resume.check_start(ctx)
    finally:
      run_dir.release()

  for name, text in (("here", "a"), ("there", "a"), ("other", "b")):
    row = {"question": "2 + 2?", "rationale": text}
    (tmp_path / name).write_text(json.dumps(row) + "\n")
  check(tmp_path / "here")
  (tmp_path / "run" / "tokenizer").mkdir()  # the run has started
  check(tmp_path / "there")
  with pytest.raises(errors.UserError, match=r"other: not the recorded files.*another --workdir"):
    check(tmp_path / "other")
  check(tmp_path / "here")


def test_sample_numbers_never_meet_and_do_not_depend_on_the_number_of_rounds():
  for each_round in (("exam", "feedback", "train"), ("demonstrate", "exam", "feedback", "train")):
    options = {"each_round": each_round, "feedback__kind": "blind", "feedback__mistakes": 2}
    used = {}
    for rounds in (3, 9):
      s = read_settings(test_rounds.config(**options, demonstrate__rationales=3, rounds=rounds))
      ctx = dataclasses.make_dataclass("Run", ["settings", "task", "format"])(
        s, commands.context.open_task(s), commands.context.formats.get(s)
      )
      problem = ctx.task.problems("train")[0]
      numbers = []
      for index in range(4):
        if index == 0 or "demonstrate" in each_round:
          request = demonstrate.build_requests(ctx, index)[0].request
          numbers.append((request.first, request.samples))
        if index:
          requests = feedback.blind_requests(ctx, index, [problem] * 2)
          numbers += [(r.request.first, r.request.samples) for r in requests]
      used[rounds] = numbers
    assert used[3] == used[9]
    taken = [n for first, count in used[3] for n in range(first, first + count)]
    assert len(taken) == len(set(taken))
    if "demonstrate" not in each_round:
      assert sorted(taken) == list(range(len(taken)))


def served(url, **changes) -> Settings:
  c = test_rounds.config(
    teacher__kind="openai", teacher__model="m", teacher__base_url=url, **changes
  )
  return read_settings(c, teacher=False)


def test_a_server_that_moves_keeps_its_name_in_the_cache(tmp_path):
  run_dir, here, there = RunDir(tmp_path), "http://localhost:1/v1/", "http://127.0.0.1:2/v1"
  run_dir.claim({})
  (tmp_path / "round_00").mkdir()
  assert resume.name_servers(served(here), run_dir).teacher.identity == ""
  moved = resume.name_servers(served(there), run_dir)
  assert moved.teacher.identity == "http://localhost:1/v1" and moved.teacher.base_url == there
  named = resume.name_servers(served(there, teacher__identity="mine"), run_dir)
  assert named.teacher.identity == "mine"
  assert resume.name_servers(served(here), run_dir).teacher.identity == ""
  run_dir.release()
  assert resume.name_servers(served(there), RunDir(tmp_path)).teacher.identity == here.rstrip("/")


def test_a_server_may_also_move_before_a_run_has_output(tmp_path, serve):
  here, there = (serve(answer=lambda m, n, *_: ["A: 1"] * n) for _ in range(2))
  changes = {
    "teacher__kind": "openai", "teacher__model": "m", "teacher__min_reply_rate": 0.0,
    "teacher__max_concurrency": 1, "teacher__max_attempts": 1,
  }  # fmt: skip
  nowhere = "http://127.0.0.1:9/v1"  # a wrong address, which is forgotten
  with pytest.raises(errors.UserError, match="no valid response"):
    run(tmp_path, **changes, teacher__base_url=nowhere)
  with pytest.raises(errors.UserError, match="max_requests"):
    run(tmp_path, **changes, teacher__base_url=here.url, teacher__max_requests=6)
  with pytest.raises(errors.UserError):  # no reply is right: there is nothing to train on
    run(tmp_path, **changes, teacher__base_url=there.url)
  assert (here.stats.requests, there.stats.requests) == (5, 24 - 5)


def test_a_further_teacher_at_another_address_does_not_inherit_the_name():
  teacher = {"base_url": "http://localhost:1/v1", "identity": "one", "model": "m"}
  others = {"near": {"model": "n"}, "far": {"base_url": "http://localhost:2/v1"}}
  merged = pool.merge_teachers({"teacher": teacher, "teachers": others})["teachers"]
  assert (merged["near"]["identity"], merged["far"]["identity"]) == ("one", "")
