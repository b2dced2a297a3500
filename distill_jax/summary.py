"""What a run came to: one row a round, and summary.json, the format that later tools rely on."""

import dataclasses
import importlib.metadata
import platform

from distill_jax import plan as plans
from distill_jax import records
from distill_jax.phases import evaluate
from distill_jax.run_dir import phase_dir

PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "transformers",
  "tokenizers",
  "openai",
  "numpy",
)

FINALS = ("test", "out_of_domain", "cross")  # what the best student is tested on
NOTHING = {"calls": 0, "cache_hits": 0, "tokens": 0, "dollars": 0.0}


def row(run, number: int, *, no_mistakes: bool = False) -> dict:
  """{round, exam, teacher, kept, dropped, contrasts, pairs, steps, loss, validation, no_mistakes}
  from the manifests of a round.

  Parts whose phase is not in the round's plan are None (teacher, kept, dropped, contrasts, pairs,
  steps: zero); with two trainings, steps are of both and the loss is the last one's. After an exam
  without mistakes the validation of the round before stands, since the student is the same.
  """
  facts = {name: here.facts for name, here in run.folder.finished(number).items()}
  written = [facts[name] for name in plans.WRITERS if name in facts]
  trained = [facts[name] for name in plans.TRAINERS if name in facts]
  if no_mistakes:
    facts["evaluate"] = run.folder.find(number - 1, "evaluate").facts
  pick = lambda phase, *names: {n: facts[phase][n] for n in names} if phase in facts else None
  return {
    "round": number,
    "exam": pick("exam", "accuracy", "n", "mistakes"),
    "teacher": total([NOTHING, *(t["teacher"] for t in written if "teacher" in t)]),
    "kept": sum(t["kept"] for t in written),
    "dropped": total([t["dropped"] for t in written]),
    "contrasts": facts["train"]["contrasts"] if "train" in facts else 0,
    "pairs": facts["pair"]["pairs"] if "pair" in facts else 0,
    "steps": sum(t["steps"] for t in trained),
    "loss": trained[-1]["loss"] if trained else None,
    "validation": pick("evaluate", "accuracy", "low", "high", "n"),
    "no_mistakes": no_mistakes,
  }


def total(parts: list[dict]) -> dict:
  out = {}
  for part in parts:
    for name, value in part.items():
      out[name] = out.get(name, 0) + value
  return out


def write(run, rows: list[dict], best: int) -> dict:
  """Writes and returns summary.json."""
  final = {}
  for split in FINALS:
    here = run.folder.final(split)
    facts = here.facts if here.finished else None
    final[split] = facts and {n: facts[n] for n in ("accuracy", "correct", "low", "high", "n")}
  summary = {
    "recipe": run.settings.recipe,
    "rounds": rows,
    "best_round": best,
    **final,
    "seconds": round(run.folder.seconds, 1),
    "config": dataclasses.asdict(run.settings),
    "versions": {
      "python": platform.python_version(),
      **{p: importlib.metadata.version(p) for p in PACKAGES},
    },
  }
  run.folder.write_json("summary.json", summary)
  return summary


def before_and_after(run, best: int, count: int = 3):
  """(question, first attempt, last attempt, gold) of questions that round 0's student got wrong and
  the best one right; of several attempts, one with the answer that was voted for."""

  def attempts(number):
    here, found = run.folder.find(number, "evaluate"), {}
    voted = {v.problem: v.answer for v in here.rows(evaluate.VERDICTS, records.Verdict)}
    for a in here.rows(phase_dir.ATTEMPTS, records.Attempt):
      if a.answer == voted[a.problem]:
        found.setdefault(a.problem, a)
    return found

  first, last = attempts(0), attempts(best)
  problems = [
    p for p in run.task.problems("validation") if not first[p.id].correct and last[p.id].correct
  ]
  return [(p.question, first[p.id].text, last[p.id].text, p.gold) for p in problems[:count]]
