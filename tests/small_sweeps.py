"""A small sweep for tests, and directories of its runs that are written by hand."""

import dataclasses
import pathlib

from distill_jax import records
from distill_jax.ablations import sweep, table
from distill_jax.run_dir import run_dir

ROOT = pathlib.Path(__file__).parents[1]
SPLITS = ("test", "out_of_domain")
TINY = {
  "world.train": 40, "world.test": 12, "world.out_of_domain": 6, "task.validation": 10,
  "rounds": 0, "stop.patience": 0,
  "student.scratch.width": 32, "student.scratch.head_width": 8, "student.scratch.mlp": 64,
  "student.scratch.vocab": 320,
  "exam.questions": 16, "exam.samples": 2, "exam.max_new_tokens": 12, "evaluate.max_new_tokens": 12,
  "rollout.batch": 16, "rollout.buckets": (128,), "train.buckets": (192,),
  "train.steps": 4, "train.batch": 8, "train.warmup": 2,
}  # fmt: skip


def small_sweep(**changes) -> sweep.Sweep:
  rows = {"plain": {}, "other": {"train.losses.triplet": 0.0}}
  claims = (sweep.Claim("plain helps", "plain", "other", paper="nobody"),)
  fields = dict(config="configs/quickstart.py", common=TINY, rows=rows, base="plain", claims=claims)
  return sweep.Sweep(**{**fields, "seeds": (0, 1), **changes})


def sweep_file(tmp_path, **changes) -> str:
  """Writes a sweep file that returns small_sweep(**changes)."""
  fields = {
    f.name: getattr(small_sweep(**changes), f.name) for f in dataclasses.fields(sweep.Sweep)
  }
  body = ", ".join(f"{name}={value!r}" for name, value in fields.items() if name != "claims")
  claims = "".join(f"sweep.{claim!r}, " for claim in fields["claims"])
  lines = (
    "from distill_jax.ablations import sweep",
    "def get_sweep():",
    f"  return sweep.Sweep({body}, claims=({claims}))",
  )
  (tmp_path / "small.py").write_text("\n".join(lines) + "\n")
  return str(tmp_path / "small.py")


def write_runs(workdir, swept: sweep.Sweep, verdicts: dict, data: str = "digest") -> None:
  """Writes directories of finished runs. `verdicts`: {(row, seed): verdicts on every split}."""
  for p in sweep.plan_runs(swept, workdir):
    if (p.row, p.seed) not in verdicts:
      continue
    directory = run_dir.RunDir(p.run_dir)
    directory.claim(p.config)
    for index in (0, 1):
      asked, trained = directory.phase(index, 0, "feedback"), directory.phase(index, 1, "train")
      asked.finish({"teacher": {"calls": 3, "cache_hits": 4}, "kept": 0, "dropped": {}})
      trained.write("metrics.jsonl", [records.Metrics(step=10, loss=1.0, grad_norm=1.0)])
      trained.finish({"steps": 10, "loss": 1.0, "weights": {"student": f"{p.row} {index}"}})
    marks = verdicts[p.row, p.seed]
    for split in swept.splits:
      tested = directory.final(split)
      rows = [records.Verdict(f"q{n}", "1", bool(v)) for n, v in enumerate(marks)]
      tested.write("verdicts.jsonl", rows)
      about = {"round": 1, "weights": {"student": f"{p.row} 1"}, "data": data}
      tested.finish({"measured": about})
    directory.write_json("summary.json", {})
    directory.release()


def build(workdir, swept: sweep.Sweep) -> dict:
  return table.build(swept, sweep.plan_runs(swept, workdir))


def row(results: dict, name: str, split: str = "test") -> dict:
  return next(r for r in results["rows"] if r["row"] == name)["splits"][split]
