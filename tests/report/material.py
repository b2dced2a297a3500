"""Run directories written by hand, with every kind of record a report shows."""

import dataclasses
import json
import pathlib
import random

from distill_jax import records
from distill_jax.run_dir import questions
from distill_jax.run_dir.run_dir import RunDir
from tests.teacher.client.test_hostile import HOSTILE

WORDS = "each friend has coins boxes shells buys sells gives away more than the first day".split()


def attempt(question: str, text: str, *, correct: bool, round_index: int, **other):
  answer = other.pop("answer", "18" if correct else "17")
  fields = {"sample": 0, "finish": "stop", "tokens": 4, "logprob": -1.5, **other}
  return records.Attempt(question, text, answer, correct, round_index, **fields)


def rationale(question: str, text: str, round_index: int, **other) -> records.Rationale:
  return records.Rationale(
    question, text, "18", "big", round_index, "correct", 0, 0.7, tokens=9, **other
  )


def teacher(calls: int) -> dict:
  return {"calls": calls, "cache_hits": 1, "tokens": 100 * calls, "dollars": 0.25 * calls}


def write_run(path, texts: dict[str, str] = HOSTILE, *, finished: bool = True) -> RunDir:
  """A run of two rounds whose questions, attempts and replies are `texts`."""
  run = RunDir(path)
  run.write_json("config.json", {"recipe": "r", "seed": 3, "task": {"name": "t<b>"}})
  names = list(texts)
  asked = [(split, f"t/{split}/{n}") for split in ("train", "validation", "test") for n in names]
  problems = [
    (split, records.Problem(q, split, texts[q.rpartition("/")[2]], "18", decomposition=steps))
    for (split, q), steps in zip(asked, [(("a", "b"),), ()] * len(asked), strict=False)
  ]
  questions.write(run, problems)
  train = [q for split, q in asked if split == "train"]
  for index in (0, 1):
    exam = run.phase(index, 0, "exam")
    exam.write("attempts.jsonl", [
      attempt(q, f"{texts[names[n]]}!{k}", correct=bool(index and k), round_index=index, sample=k,
              finish="length" if n == 0 else "stop", answer=None if n == 1 else "17")
      for n, q in enumerate(train) for k in (0, 1)])  # fmt: skip
    exam.finish({})
    if index and not finished:
      break
    feedback = run.phase(index, 1, "feedback")
    feedback.write("rationales.jsonl", [
      rationale(q, f"{texts[n]}\nAnswer: 18", index, corrects=f"{texts[n]}!0", critique=texts[n])
      for q, n in zip(train, names, strict=True)])  # fmt: skip
    feedback.write("dropped.jsonl", [
      records.Dropped(train[0], name, text, 0) for name, text in texts.items()])  # fmt: skip
    dropped = {"wrong_answer": len(texts), "duplicate": 2, "timeout": 1}
    facts = {"teacher": teacher(10), "kept": len(train), "dropped": dropped}
    feedback.finish(facts)
    trained = run.phase(index, 2, "train")
    rows = [records.Metrics(s, 1.0 / s, 0.5, sft=1.0 / s, margin=0.1 * s) for s in range(1, 9)]
    trained.write("metrics.jsonl", rows)
    trained.finish({"steps": 8, "loss": 0.125, "contrasts": 0, "examples": 9, "too_long": 2})
    write_scores(run.phase(index, 3, "evaluate"), [q for s, q in asked if s == "validation"], index)
  if finished:
    write_scores(run.final("test"), [q for s, q in asked if s == "test"], 1)
  return run


def write_scores(phase, asked: list[str], index: int) -> None:
  """In round 0 every third question is right, in round 1 every second."""
  right = [n % (3 - index) == 0 for n in range(len(asked))]
  pairs = list(zip(asked, right, strict=True))
  phase.write("attempts.jsonl", [
    attempt(q, "so", correct=r, round_index=index) for q, r in pairs])  # fmt: skip
  phase.write("verdicts.jsonl", [records.Verdict(q, "18", r) for q, r in pairs])
  phase.finish({"measured": {"round": 1, "weights": {}}})


def large_run(path, attempts: int) -> RunDir:
  """A run with many attempts of about 250 characters, in two exams with 4 samples."""
  rng, run = random.Random(0), RunDir(path)
  run.write_json("config.json", {"recipe": "large", "seed": 0, "task": {"name": "words"}})
  asked = [f"w/train/{n}" for n in range(attempts // 8)]

  def text() -> str:
    return " ".join(f"{rng.choice(WORDS)} {rng.randrange(100)}" for _ in range(32))

  questions.write(run, [("train", records.Problem(q, "train", text(), "18")) for q in asked])
  for index in (0, 1):
    exam = run.phase(index, 0, "exam")
    first = attempt("", "", correct=False, round_index=index)
    exam.append("attempts.jsonl", (
      dataclasses.replace(first, problem=q, text=text(), sample=k, correct=rng.random() < 0.5)
      for q in asked for k in range(4)))  # fmt: skip
    exam.finish({})
  return run


def long_run(path, rounds: int) -> RunDir:
  """A run of many rounds, the last of which is short, with large numbers in its tables."""
  run = RunDir(path)
  run.write_json("config.json", {"recipe": "long", "seed": 1, "task": {"name": "words"}})
  asked = [f"w/validation/{n}" for n in range(9)]
  asked_problems = [records.Problem(q, "validation", "How many?", "18") for q in asked]
  questions.write(run, [("validation", problem) for problem in asked_problems])
  for index in range(rounds):
    feedback = run.phase(index, 0, "feedback")
    feedback.write("rationales.jsonl", [rationale(q, "so", index) for q in asked])
    dropped = {name: 12_345 for name in ("wrong_answer", "duplicate", "no_answer", "timeout")}
    feedback.finish({"teacher": teacher(1_234_567), "kept": len(asked), "dropped": dropped})
    trained = run.phase(index, 1, "train")
    steps = range(1, 5 if index == rounds - 1 else 400, 4)
    trained.write("metrics.jsonl", [records.Metrics(s, 1e6 / s, 0.5 / s, sft=1.0) for s in steps])
    trained.finish({"steps": 400, "loss": 0.125, "contrasts": 0, "examples": 1_234_567})
    write_scores(run.phase(index, 2, "evaluate"), asked, index % 2)
  return run


def write_sweep(path: pathlib.Path) -> dict:
  """Writes and returns the table of a sweep, with long names and one hostile message."""
  change = {"mean": 0.1, "low": -0.05, "high": 0.2, "p": 0.04}
  score = {"mean": 0.5, "low": 0.4, "high": 0.6, "sd": None, "n": 9, "by_seed": {"0": 0.5}}
  row = {"overrides": {"a.b": "<i>"}, "seeds": [0], "missing": [1], "replies": 3.0, "steps": 1.0,
         "seconds": 2.0}  # fmt: skip
  new = "feedback_with_the_mistakes_of_the_student_and_its_previous_rationale"
  claim = {"text": "it helps", "better": new, "worse": "old", "split": "test", "missing": 1,
           "verdict": "undecided", "effect": change}  # fmt: skip
  table = {
    "sweep": "s", "config": "c", "seeds": [0, 1], "date": "today", "base": "old", "common": {},
    "splits": ["test"], "claims": [claim], "failed": [
      {"row": new, "seed": 1, "reason": "exit code 4", "said": "<script>alert(1)</script>"}],
    "rows": [{"row": "old", **row, "splits": {"test": {**score, "difference": None}}},
             {"row": new, **row, "splits": {"test": {**score, "difference": change}}}],
  }  # fmt: skip
  (path / "rows" / new / "seed_0").mkdir(parents=True)
  (path / "table.json").write_text(json.dumps(table))
  (path / "rows" / new / "seed_0" / "report.html").write_text("")
  return table
