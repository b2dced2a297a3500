"""Results of finished rows: one small JSON file per row and seed, in `benchmarks/real/results`.

Tables and plot are made from these files alone, so that they can be printed again without the run
directories. A file has the settings of its row, the verdict on every question, and what the run
took; it has no question and no text of a student or teacher.
"""

import json
import math
import pathlib
from typing import Any

from benchmarks.real import rows, sittings
from distill_jax import errors
from distill_jax.ablations import sweep, table
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import results

DIRECTORY = pathlib.Path(__file__).parent / "results"

Stored = dict[str, Any]


def write(block: str, row: str, run: sweep.PlannedRun, directory: pathlib.Path) -> None:
  """Writes the file of a finished run.

  Raises:
    UserError: A file of the run is damaged, or the file cannot be written.
  """
  measured = table.measure(run, rows.BLOCKS[block].splits)
  summary = json.loads((run.run_dir / "summary.json").read_text())
  sat = sittings.read(run.run_dir)
  fields = {
    **_settings(block, row),
    "seed": run.seed,
    **measured.costs,
    **_training(summary),
    "cpu_minutes": round(math.fsum(sitting["cpu_minutes"] for sitting in sat), 1),
    "peak_mib": max((sitting["peak_mib"] for sitting in sat), default=None),
    "machines": sorted({_machine(sitting, summary["versions"]) for sitting in sat}),
    "verdicts": {
      split: {problem: int(correct) for problem, correct in sorted(found.items())}
      for split, found in measured.verdicts.items()
    },
  }
  lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
  content = "{\n" + ",\n".join(lines) + "\n}\n"
  directory.mkdir(parents=True, exist_ok=True)
  phase_dir.write_bytes(_file(block, row, run.seed, directory), content.encode())


def read(block: str, directory: pathlib.Path) -> dict[tuple[str, int], Stored]:
  """Returns the files of a block by row and seed.

  Raises:
    UserError: A file is not valid JSON, or its row has other settings by now.
  """
  found = {}
  for row in rows.BLOCKS[block].rows:
    for seed in rows.BLOCKS[block].seeds:
      file = _file(block, row, seed, directory)
      if not file.exists():
        continue
      try:
        stored = json.loads(file.read_text())
        settings = {name: stored[name] for name in ("recipe", "overrides")}
      except (ValueError, KeyError, TypeError) as error:
        raise errors.data(f"{file}: not a result of a row ({error}); restore it") from None
      if settings != json.loads(json.dumps(_settings(block, row))):
        raise errors.data(f"{file}: of other settings than the row has; run it again or remove it")
      found[row, seed] = stored
  return found


def measured(stored: Stored) -> table.Measured:
  """Returns what a stored run contributes to a table. The rows of a block share their questions."""
  verdicts = {
    split: {problem: bool(correct) for problem, correct in found.items()}
    for split, found in stored["verdicts"].items()
  }
  return table.Measured(verdicts, {}, {n: stored[n] for n in ("replies", "steps", "seconds")})


def _file(block: str, row: str, seed: int, directory: pathlib.Path) -> pathlib.Path:
  return directory / f"{rows.name_of(block, row)}-{seed}.json"


def _settings(block: str, row: str) -> Stored:
  """Recipe and overrides; directories and addresses are names in braces."""
  found = rows.BLOCKS[block]
  return {
    "recipe": f"{found.rows[row].recipe}:{found.size}",
    "overrides": rows.common_of(found) | found.rows[row].overrides,
  }


def _training(summary: dict[str, Any]) -> Stored:
  """Peak learning rate, last loss, validation by round, and rationales kept and dropped."""
  config = summary["config"]
  trainer = config["train" if "train" in (*config["opening"], *config["each_round"]) else "prefer"]
  trained = [row for row in summary["rounds"] if row["steps"]]
  validation = [row["validation"] for row in summary["base"] + summary["rounds"]]
  return {
    "lr": trainer["lr"] if trained else None,
    "loss": trained[-1]["loss"] if trained else None,
    "validation": [{"accuracy": v["accuracy"], "n": v["n"]} for v in validation if v],
    "kept": sum(row["kept"] for row in summary["rounds"]),
    "dropped": results.sum_by_key([row["dropped"] for row in summary["rounds"]]),
  }


def _machine(sitting: dict[str, Any], versions: dict[str, str]) -> str:
  named = ", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "flax", "optax"))
  return f"{sitting['cpu']}, {sitting['cores']} of its cores; {named}"
