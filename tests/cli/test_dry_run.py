"""--dry_run says what the teacher would be asked and asks nothing; --retry_failed asks again."""

import dataclasses
import io
import pathlib

import pytest
import scripted

from configs import quickstart
from distill_jax import console, errors, phases, records, rounds, teacher
from distill_jax.cli import dry_run
from distill_jax.config.read import read_settings
from distill_jax.run_dir import run_dir
from distill_jax.runtime import context
from distill_jax.teacher import types as asking
from distill_jax.teacher.builtin import teacher as builtin


def config(**changes) -> dict:
  c = quickstart.get_config()
  c.world.train, c.world.test, c.world.out_of_domain, c.task.validation = 12, 4, 0, 4
  c.exam.samples, c.exam.max_new_tokens, c.feedback.mistakes = 2, 40, 2
  if changes.get("teacher__kind") == "openai":
    changes = {"teacher__prices__input": 1.0, "teacher__prices__output": 10.0, **changes}
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  c.update_from_flattened_dict(changes)
  return c.to_dict()


def opened(path, c) -> context.RunContext:
  silent = console.Console(file=io.StringIO())
  return context.RunContext(read_settings(c), run_dir.RunDir(path), silent)


def demonstrated(path, c) -> context.RunContext:
  """A run whose teacher has written the demonstrations of round 0."""
  folder = run_dir.RunDir(path)
  folder.claim(c)
  try:
    with opened(path, c) as what:
      phases.run_phase("demonstrate", what, 0, what.run_dir.phase(0, 0, "demonstrate"))
  finally:
    folder.release()
  return what


def told(capsys, path, c, **more) -> list[list[str]]:
  capsys.readouterr()
  dry_run.show(read_settings(c), c, str(path), **more)
  return [line.split() for line in capsys.readouterr().out.splitlines()]


def row(lines, phase):
  """(requests, replies, in the cache, failed, tokens in, tokens out, dollars) of a phase."""
  found = next(line for line in lines if line[1:2] == [phase])
  return [float(text.replace(",", "")) for text in found[-7:]]


def contents(path):
  files = pathlib.Path(path).rglob("*")
  return {str(f): f.read_bytes() for f in files if f.is_file()}


def test_what_is_told_is_what_is_asked_and_nothing_is_made(tmp_path, capsys, serve):
  world = context.open_task(read_settings(config())).world
  server = serve(answer=builtin.BuiltinTeacher(world, error_rate=0.05, seed=0))
  own = {"teacher__kind": "openai", "teacher__base_url": server.url}
  c = config(demonstrate__rationales=2, **own)
  requests, replies, stored, _, tokens_in, tokens_out, dollars = row(
    told(capsys, tmp_path / "run", c), "0_demonstrate"
  )
  assert not (tmp_path / "run").exists()
  demonstrated(tmp_path / "run", c)
  with opened(tmp_path / "run", c) as what:
    spent, sent = what.teacher.ledger.total(), what.teacher.ledger.requests_sent()
  assert (requests, replies, stored) == (sent, spent.calls, 0)
  assert spent.tokens_in <= tokens_in and spent.tokens_out <= tokens_out
  assert 0 < spent.dollars <= dollars
  assert dollars == pytest.approx((tokens_in + 10 * tokens_out) / 1e6, abs=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_in_the_cache_is_not_counted_again(tmp_path, capsys, shared):
  c = config(**{"teacher__cache": str(tmp_path / "shared.sqlite")} if shared else {})
  demonstrated(tmp_path / "run", c)
  (tmp_path / "run/round_00/0_demonstrate/manifest.json").unlink()
  before = contents(tmp_path)
  requests, replies, stored, *_ = row(told(capsys, tmp_path / "run", c), "0_demonstrate")
  assert (requests, replies) == (0, 0) and stored > 0
  assert contents(tmp_path) == before


def exam_done(what, number):
  """An exam with a mistake for every question but one."""
  here = what.run_dir.phase(number, what.settings.each_round.index("exam"), "exam")
  rows = [
    records.Attempt(
      problem=p.id, text=f"wrong {k}", answer="-1", correct=n == 0, round=number, sample=k,
      finish="stop", tokens=3, logprob=-1.0,
    )
    for n, p in enumerate(what.task.problems("train")) for k in range(2)
  ]  # fmt: skip
  here.write("attempts.jsonl", rows)
  here.finish({"accuracy": 0.0, "n": len(rows), "mistakes": len(rows) - 2, "questions": len(rows)})


def test_until_the_exam_is_over_feedback_is_bounded_and_says_so(tmp_path, capsys):
  c = config()
  what = demonstrated(tmp_path, c)
  for place, name in enumerate([*what.settings.opening, "evaluate"]):
    if not (here := what.run_dir.phase(0, place, name)).finished:
      here.finish({})
  lines = told(capsys, tmp_path, c)
  bound = row(lines, "1_feedback")
  assert ["at", "most:"] in [line[:2] for line in lines]
  exam_done(what, 1)
  lines = told(capsys, tmp_path, c)
  known = row(lines, "1_feedback")
  problems = len(what.task.problems("train"))
  assert bound[0] == 2 * problems and known[0] == 2 * (problems - 1)
  assert all(k <= b for k, b in zip(known, bound, strict=True))
  assert ["at", "most:"] not in [line[:2] for line in lines]


def test_no_server_hears_of_it_and_a_run_that_holds_the_folder_is_not_disturbed(
  tmp_path, capsys, serve
):
  server = serve()
  c = config(teacher__kind="openai", teacher__base_url=server.url, teacher__max_dollars=0.001)
  holder = run_dir.RunDir(tmp_path)
  holder.claim(c)
  lines = told(capsys, tmp_path, c)
  holder.release()
  assert row(lines, "0_demonstrate")[0] > 0 and server.stats.requests == 0
  assert any("config.teacher.max_dollars;" in line for line in lines)


def test_another_config_and_a_damaged_cache_are_refused(tmp_path):
  c = config()
  demonstrated(tmp_path, c)
  other = config(seed=5)
  with pytest.raises(errors.UserError, match="was started with a different config"):
    dry_run.show(read_settings(other), other, str(tmp_path))
  (tmp_path / "teacher.sqlite").write_bytes(b"no data base" * 1000)
  with pytest.raises(errors.UserError, match=r"teacher cache .*teacher\.sqlite cannot be read"):
    dry_run.show(read_settings(c), c, str(tmp_path))


def test_what_was_refused_is_asked_again_when_that_is_wanted_and_only_then(tmp_path, serve, capsys):
  server = serve(["refusal"] * 9, answer=lambda messages, n, *_: ["So.\nAnswer: 1"] * n)
  c = config(teacher__kind="openai", teacher__base_url=server.url, teacher__max_concurrency=1)
  with pytest.raises(errors.UserError, match=r"9 refusal.*--retry_failed"):
    demonstrated(tmp_path, c)
  problems = len(opened(tmp_path, c).task.problems("train"))
  asked = server.stats.requests
  assert asked == problems
  with pytest.raises(errors.UserError, match="9 refusal"):
    demonstrated(tmp_path, c)
  assert server.stats.requests == asked
  with opened(tmp_path, c) as what:
    spent = what.teacher.ledger.total()
  finished = rounds.finished_phases(what)
  assert finished == set()
  assert row(told(capsys, tmp_path, c), "0_demonstrate")[:4] == [0, 0, problems - 9, 9]
  would = told(capsys, tmp_path, c, retry_failed=True)
  assert row(would, "0_demonstrate")[:4] == [9, 9, problems - 9, 0]
  assert teacher.retry_failed(what.settings.teacher, tmp_path, finished) == 9
  what = demonstrated(tmp_path, c)
  assert (server.stats.requests, server.stats.paid_twice) == (asked + 9, 9)  # those, no others
  assert rounds.finished_phases(what) == {(0, "0_demonstrate")}
  with opened(tmp_path, c) as what:
    now = what.teacher.ledger.total()
  assert (spent.failures, now.failures, now.calls) == (9, 0, problems)
  assert now.dollars > spent.dollars and now.tokens_in > spent.tokens_in


def test_needs_of_several_teachers_add_up():
  one = asking.Estimate(1, 2, 3, 7, 4, 5, 0.5, False)
  assert asking.Estimate.sum([one, dataclasses.replace(one, unpriced=True)]) == asking.Estimate(
    2, 4, 6, 14, 8, 10, 1.0, True
  )
  assert asking.Estimate.sum([]) == asking.Estimate()


def test_gaps_between_missing_samples_are_requests_of_their_own(serve, connect):
  teacher_ = connect(serve().url)
  scripted.ask(teacher_, scripted.wanted(1, samples=1, first=2))
  need = lambda: teacher_.estimate(
    scripted.wanted(2, samples=5), round=0, phase="s", temperature=0.5
  )
  assert (need().requests, need().replies, need().stored) == (3, 9, 1)
  scripted.ask(teacher_, scripted.wanted(2, samples=5))
  assert need() == asking.Estimate(stored=10)
