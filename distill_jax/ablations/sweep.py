"""Sweep files, and the runs that a sweep consists of.

A file in configs/sweeps/ defines get_sweep() -> Sweep, or get_sweep(which), where `which` is the
part after the colon in --config=FILE.py:which.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill_jax import disk, errors, summary
from distill_jax.cli import args
from distill_jax.config import recipes, values
from distill_jax.config.read import read_settings

ROW_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_KINDS = {"rows": dict, "seeds": tuple, "common": dict, "splits": tuple, "claims": tuple}
RESERVED = ("seed", "teacher.cache")  # settings that the sweep sets; rows must not
# Groups of settings that determine the questions of a final evaluation, and exceptions to them.
# Rows that differ in one of these settings cannot be compared question by question.
QUESTION_GROUPS, NO_QUESTIONS = (
  ("task", "world", "taxonomy"),
  ("task.train", "cross.train", "world.train", "taxonomy.train"),
)


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim of a paper: on `split`, row `better` has a higher accuracy than row `worse`."""

  text: str
  better: str
  worse: str
  split: str = "test"
  paper: str = ""
  # Smallest effect of interest, as a share of the questions: if the interval ends below it, the
  # claim does not hold.
  smallest: float = 0.01


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Rows of overrides, {row: {dotted key: value}}. Each row is run with every seed.

  All rows are compared with the row `base`.
  """

  config: str  # FILE.py or FILE.py:size
  rows: dict[str, dict[str, Any]]
  base: str
  seeds: tuple[int, ...]
  common: dict[str, Any] = dataclasses.field(default_factory=dict)  # overrides of every row
  splits: tuple[str, ...] = ("test", "out_of_domain")
  claims: tuple[Claim, ...] = ()
  cache: str = ""  # file with teacher replies; "": teacher.sqlite in the sweep's directory


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One run of a sweep."""

  row: str
  seed: int
  run_dir: pathlib.Path
  arguments: tuple[str, ...]  # of python -m distill_jax
  config: dict[str, Any]  # the complete config, as JSON stores it

  @property
  def log(self) -> pathlib.Path:
    """The file with the run's output."""
    return self.run_dir.with_name(self.run_dir.name + ".log")

  @property
  def finished(self) -> bool:
    """Whether the run directory has the summary of a run with this config.

    The location of the teacher's cache may differ.
    """
    if not (self.run_dir / "summary.json").exists():
      return False
    try:
      stored = json.loads(disk.read_bytes(self.run_dir / "config.json"))
      stored["teacher"]["cache"] = self.config["teacher"]["cache"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
      return False
    return stored == self.config


def load_sweep(path: str) -> Sweep:
  """Loads the sweep of FILE.py, FILE.py:WHICH, or sweeps/NAME of the package.

  Raises:
    UserError: The sweep does not exist or is invalid.
  """
  sweep = recipes.call(path, "get_sweep")
  if not isinstance(sweep, Sweep):
    raise errors.UserError(f"get_sweep() of {path} does not return a Sweep", errors.CONFIG)
  for fault in _faults(sweep):
    raise errors.UserError(f"{path}: {fault}", errors.CONFIG)
  return sweep


def _faults(sweep: Sweep) -> Iterator[str]:
  """What is invalid in a sweep, one line each."""
  if odd := [name for name, kind in _KINDS.items() if not isinstance(getattr(sweep, name), kind)]:
    yield f"{odd[0]} is {getattr(sweep, odd[0])!r}, but must be a {_KINDS[odd[0]].__name__}"
    return
  if odd := [row for row, own in sweep.rows.items() if not isinstance(own, dict)]:
    yield f"row {odd[0]!r} is {sweep.rows[odd[0]]!r}, but must be a dict of overrides"
    return
  for name in sweep.rows:
    if not ROW_NAME.fullmatch(name):
      yield f"row {name!r} is not a directory name of lowercase letters, digits and underscores"
  if sweep.base not in sweep.rows:
    yield f"base is {sweep.base!r}, but must be one of the rows: {', '.join(sweep.rows)}"
  if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
    yield f"seeds are {sweep.seeds}, but must be one or more distinct numbers"
  if not sweep.splits:
    yield "splits are empty, but must be one or more"
  for split in sweep.splits:
    if split not in summary.FINALS:
      yield f"split {split!r} is unknown; choose from {', '.join(summary.FINALS)}"
  for name, overrides in {"common": sweep.common, **sweep.rows}.items():
    for key in set(overrides) & set(RESERVED):
      yield f"{name} sets {key}; use the field of Sweep instead"
  for claim in sweep.claims:
    for row in {claim.better, claim.worse} - set(sweep.rows):
      yield f"claim {claim.text!r} compares {row!r}, which is not a row"
    if claim.split not in sweep.splits:
      yield f"claim {claim.text!r} is about split {claim.split!r}, which is not in splits"
    if not 0 <= claim.smallest < 1:
      yield f"claim {claim.text!r} has smallest={claim.smallest}, but must be in [0, 1)"


def plan_runs(sweep: Sweep, workdir: str | os.PathLike[str]) -> list[PlannedRun]:
  """Returns all runs: every row with the first seed, then every row with the next.

  Raises:
    UserError: The config of a row is invalid.
  """
  workdir = pathlib.Path(workdir)
  cache = sweep.cache or str(workdir / "teacher.sqlite")
  planned = []
  for seed in sweep.seeds:
    for row, own in sweep.rows.items():
      run_dir = workdir / "rows" / row / f"seed_{seed}"
      overrides = {**_common_overrides(sweep, row), **own, "seed": seed, "teacher.cache": cache}
      words = _format_overrides(overrides)
      config = read_config(sweep.config, words, row)
      arguments = ("run", f"--config={sweep.config}", f"--workdir={run_dir}", *words)
      planned.append(PlannedRun(row, seed, run_dir, arguments, config))
  return planned


def _common_overrides(sweep: Sweep, row: str) -> dict[str, Any]:
  """Returns the common overrides without those that nothing reads in this row."""
  own = sweep.rows[row]
  config = _parse(sweep.config, _format_overrides({**sweep.common, **own}), row)
  unread = {key.path for key in values.KEYS if values.unread(config, key)}
  return {key: value for key, value in sweep.common.items() if key not in unread - set(own)}


def _format_overrides(overrides: dict[str, Any]) -> list[str]:
  return [f"--config.{key}={format_value(value)}" for key, value in overrides.items()]


def _parse(config: str, overrides: Sequence[str], row: str) -> dict[str, Any]:
  try:
    parsed, _, _ = args.parse([f"--config={config}", *overrides], {}, config="required")
  except errors.UserError as error:
    raise errors.UserError(f"row {row}: {error}", error.code) from None
  assert parsed is not None  # config="required"
  return parsed


def read_config(config: str, overrides: Sequence[str], row: str) -> dict[str, Any]:
  """Returns the config of a row as JSON stores it. Raises UserError, with the row's name."""
  parsed = _parse(config, overrides, row)
  try:
    read_settings(parsed)
  except errors.UserError as error:
    raise errors.UserError(f"row {row}: {error}", error.code) from None
  return json.loads(json.dumps(parsed))


def format_value(value: object) -> str:
  """Formats a value for the command line."""
  return value if isinstance(value, str) else repr(value)


def command_line(planned: PlannedRun, environment: Mapping[str, str]) -> str:
  """Returns the command of a run with its environment variables, quoted for a shell."""
  variables = [f"{name}={value}" for name, value in environment.items()]
  return shlex.join(["env", *variables, "python", "-m", "distill_jax", *planned.arguments])


def question_settings(config: dict[str, Any], split: str) -> dict[str, Any]:
  """Returns the settings that determine the questions of a split on which a run is evaluated."""
  groups = {name: config[name] for name in QUESTION_GROUPS if name in config}
  if split == "cross":
    groups["cross"] = config["cross"]
  if split == "also" and "evaluate" in config:
    groups["also"] = config["evaluate"]["also"]
  return {
    f"{name}.{key}": value
    for name, group in groups.items()
    for key, value in group.items()
    if f"{name}.{key}" not in NO_QUESTIONS
  }
