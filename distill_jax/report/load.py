"""Reads a run directory for a report. Unfinished phases are read up to their last complete line."""

import dataclasses
import math
import pathlib
import re
from typing import Any

from distill_jax import errors, records, summary
from distill_jax.run_dir import absent, phase_dir, questions
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.run_dir.run_dir import SUMMARY, RunDir
from distill_jax.runtime import results

ROUND, PHASE = re.compile(r"round_(\d{1,6})"), re.compile(r"(\d{1,6})_(\w{1,80})")


@dataclasses.dataclass(frozen=True)
class Phase:
  """What a phase has written.

  Attributes:
    name: Its name in the plan; for the final test, the split.
    finished: Whether it has a manifest.
    facts: The facts of its manifest; {} if it is unfinished.
    attempts: What the student wrote.
    verdicts: {question: correct?} after the vote, of an evaluation.
    rationales: What was kept.
    dropped: Examples of what was dropped.
    metrics: Training metrics.
  """

  name: str
  finished: bool
  facts: dict[str, Any]
  attempts: list[records.Attempt]
  verdicts: dict[str, bool]
  rationales: list[records.Rationale]
  dropped: list[records.Dropped]
  metrics: list[records.Metrics]


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, finished or not.

  Attributes:
    name: The name of its directory.
    config: Every setting, as in config.json.
    questions: {id: question}.
    rounds: {round: its phases in the order of the plan}.
    finals: {split: phase} of the final test.
    summary: summary.json; None while the run is unfinished.
    seconds: Run time over all restarts.
    directory: Its directory.
  """

  name: str
  config: dict[str, Any]
  questions: dict[str, records.Question]
  rounds: dict[int, list[Phase]]
  finals: dict[str, Phase]
  summary: dict[str, Any] | None
  seconds: float
  directory: RunDir

  def phase(self, round_index: int, name: str) -> Phase | None:
    """Returns the last finished phase of this name in a round, or None."""
    phases = [p for p in self.rounds.get(round_index, []) if p.name == name and p.finished]
    return phases[-1] if phases else None

  def setting(self, path: str) -> str:
    """Returns a setting by its dotted path, as text; "?" if config.json lacks it."""
    value: Any = self.config
    for name in path.split("."):
      value = value[name] if isinstance(value, dict) and name in value else None
    return "?" if value in (None, "") else str(value)

  @property
  def teacher(self) -> str:
    """The model of the teacher, or what kind of teacher it is."""
    model = self.setting("teacher.model")
    return self.setting("teacher.kind") if model == "?" else model

  @property
  def best(self) -> int | None:
    """The round with the best validation accuracy; ties go to the first. None: none is finished."""
    scores = {
      index: sum(phase.verdicts.values()) / max(len(phase.verdicts), 1)
      for index in self.rounds
      if (phase := self.phase(index, "evaluate"))
    }
    return max(scores, key=lambda index: (scores[index], -index)) if scores else None


def read(path: str | pathlib.Path) -> Run:
  """Reads the directory of a run.

  Rounds beyond config.rounds, which may have been lowered since, are left out.

  Raises:
    UserError: It is not a run directory, or a file is damaged.
  """
  path = pathlib.Path(path)
  if not (path / "config.json").is_file():
    raise absent.error(path)
  config = phase_dir.read_json(path / "config.json")
  if not isinstance(config, dict):
    raise errors.data(f"{path / 'config.json'} is damaged; restore it")
  rounds: dict[int, list[Phase]] = {}
  planned = "rounds" in config and type(config["rounds"]) is int
  last = config["rounds"] if planned else math.inf  # a damaged config has every round
  for index, name, directory in _phases(path):
    if index > last:
      break
    rounds.setdefault(index, []).append(_phase(directory, name))
  finals = {
    split: _phase(path / "final" / split, split)
    for split in summary.FINALS
    if (path / "final" / split).is_dir()
  }
  directory, written = RunDir(path), path / SUMMARY
  return Run(
    name=path.resolve().name,
    config=config,
    questions=questions.read(path) if rounds or (path / questions.QUESTIONS).exists() else {},
    rounds=dict(sorted(rounds.items())),
    finals=finals,
    summary=_summary(written) if written.exists() else None,
    seconds=directory.seconds,
    directory=directory,
  )


def _summary(file: pathlib.Path) -> dict[str, Any]:
  """The summary of a run; what the report reads of it is checked."""
  found = phase_dir.read_json(file)
  base = found.get("base") if isinstance(found, dict) else None
  keys = {"shots", "validation"}
  if not isinstance(base, list) or not all(isinstance(r, dict) and keys <= set(r) for r in base):
    raise errors.data(f"{file} is damaged; remove it and re-run the command, which rewrites it")
  return found


def _phases(path: pathlib.Path) -> list[tuple[int, str, pathlib.Path]]:
  """Returns (round, phase, directory) of every phase of a round, in order."""
  found: list[tuple[int, int, str, pathlib.Path]] = []
  for directory in path.glob("round_*/*"):
    place, phase = ROUND.fullmatch(directory.parent.name), PHASE.fullmatch(directory.name)
    if place and phase and directory.is_dir():
      found.append((int(place[1]), int(phase[1]), phase[2], directory))
  return [(index, name, directory) for index, _, name, directory in sorted(found)]


def _phase(path: pathlib.Path, name: str) -> Phase:
  directory = PhaseDir(path)
  finished = directory.verify()
  verdicts = _rows(path, results.VERDICTS, records.Verdict)
  return Phase(
    name=name,
    finished=finished,
    facts=directory.facts if finished else {},
    attempts=_rows(path, phase_dir.ATTEMPTS, records.Attempt),
    verdicts={row.problem: row.correct for row in verdicts},
    rationales=_rows(path, phase_dir.RATIONALES, records.Rationale),
    dropped=_rows(path, phase_dir.DROPPED, records.Dropped),
    metrics=_rows(path, results.METRICS, records.Metrics),
  )


def _rows(path: pathlib.Path, name: str, kind: type[records.R]) -> list[records.R]:
  return questions.read_records(path / name, kind) if (path / name).is_file() else []
