"""What a sweep file says, and the runs it comes to.

A file under configs/sweeps/ has get_sweep() -> Sweep, or get_sweep(which), where `which` is what
stands behind the colon of --config=FILE.py:which.
"""

import dataclasses
import inspect
import json
import pathlib
import re
import runpy
import shlex

from distill_jax import errors
from distill_jax.cli import args
from distill_jax.config.read import read_settings

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
OURS = ("seed", "teacher.cache")  # settings that are the sweep's to say, not a row's
# Settings that decide which questions are asked at the end, and do not: rows that differ in one of
# the former are not comparable question by question.
QUESTIONS, NOT_ASKED = ("task", "world", "taxonomy"), ("task.train", "cross.train")


@dataclasses.dataclass(frozen=True)
class Claim:
  """What a paper says: on `split`, `better` does better than `worse`."""

  text: str
  better: str
  worse: str
  split: str = "test"
  paper: str = ""
  # Smallest effect of interest, a share of the questions: an interval that ends below it speaks
  # against the claim.
  smallest: float = 0.01


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Rows of overrides ({dotted key: value}), each played with every seed and compared with the
  row `base`."""

  config: str  # FILE.py or FILE.py:size
  rows: dict
  base: str
  seeds: tuple[int, ...]
  common: dict = dataclasses.field(default_factory=dict)  # overrides of every row
  splits: tuple[str, ...] = ("test", "out_of_domain")
  claims: tuple[Claim, ...] = ()
  cache: str = ""  # file of the teacher's replies; "": teacher.sqlite in the sweep's folder


@dataclasses.dataclass(frozen=True)
class Planned:
  """One run of a sweep."""

  row: str
  seed: int
  folder: pathlib.Path
  words: tuple[str, ...]  # of the command line, after python -m distill_jax
  config: dict  # the whole config, with JSON's lists for tuples

  @property
  def log(self) -> pathlib.Path:
    return self.folder.with_name(self.folder.name + ".log")

  @property
  def finished(self) -> bool:
    """Is there the summary of a run of this config? Where the replies were kept does not matter."""
    if not (self.folder / "summary.json").exists():
      return False
    try:
      stored = json.loads((self.folder / "config.json").read_bytes())
      stored["teacher"]["cache"] = self.config["teacher"]["cache"]
    except (OSError, ValueError, KeyError, TypeError):
      return False
    return stored == self.config


def load(path: str) -> Sweep:
  """The sweep in FILE.py[:which]. Raises UserError if there is none, or it makes no sense."""
  file, _, which = path.partition(":")
  with args.one_line(path):
    program = runpy.run_path(file)
    if "get_sweep" not in program:
      raise errors.UserError(f"{file} has no function get_sweep()", errors.CONFIG)
    found = program["get_sweep"]
    if which and not inspect.signature(found).parameters:
      raise errors.usage(f"{file} is one sweep, and knows no {which!r}")
    made = found(which) if which else found()
  if not isinstance(made, Sweep):
    raise errors.UserError(f"get_sweep() of {file} gives no Sweep", errors.CONFIG)
  for wrong in _faults(made):
    raise errors.UserError(f"{path}: {wrong}", errors.CONFIG)
  return made


def _faults(sweep: Sweep):
  """What makes no sense in a sweep, a line each."""
  for name in sweep.rows:
    if not NAME.fullmatch(name):
      yield f"row {name!r} wants a name of small letters, digits and underscores: it is a folder"
  if sweep.base not in sweep.rows:
    yield f"base is {sweep.base!r}, but must be one of its rows: {', '.join(sweep.rows)}"
  if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
    yield f"seeds are {sweep.seeds}, but must be one or more, once each"
  if not sweep.splits:
    yield "splits are empty, but a table has at least one"
  for name, overrides in {"common": sweep.common, **sweep.rows}.items():
    for key in set(overrides) & set(OURS):
      yield f"{name} sets {key}, which is for the sweep's own field to say"
  for claim in sweep.claims:
    for row in {claim.better, claim.worse} - set(sweep.rows):
      yield f"the claim {claim.text!r} is about {row!r}, which is no row"
    if claim.split not in sweep.splits:
      yield f"the claim {claim.text!r} is about {claim.split!r}, which is none of its splits"
    if not 0 <= claim.smallest < 1:
      yield f"the claim {claim.text!r} has {claim.smallest} as its smallest effect, no share"


def plan(sweep: Sweep, workdir) -> list[Planned]:
  """Every run: all rows with the first seed, then with the next. Raises UserError if a row does not
  pass the door."""
  workdir = pathlib.Path(workdir)
  cache = sweep.cache or str(workdir / "teacher.sqlite")
  planned = []
  for seed in sweep.seeds:
    for row, own in sweep.rows.items():
      folder = workdir / "rows" / row / f"seed_{seed}"
      overrides = {**sweep.common, **own, "seed": seed, "teacher.cache": cache}
      words = [f"--config.{key}={word(value)}" for key, value in overrides.items()]
      config = read(sweep.config, words, row)
      command = ("run", f"--config={sweep.config}", f"--workdir={folder}", *words)
      planned.append(Planned(row, seed, folder, command, config))
  return planned


def read(config: str, words, row: str) -> dict:
  """The config of a row as JSON has it. Raises UserError, with the row's name, at the door."""
  try:
    found, _, _ = args.parse([f"--config={config}", *words], {}, config="required")
    read_settings(found)
  except errors.UserError as refusal:
    raise errors.UserError(f"row {row}: {refusal}", refusal.code) from None
  return json.loads(json.dumps(found))


def word(value) -> str:
  """A value as it is written on the command line."""
  return value if isinstance(value, str) else repr(value)


def line(planned: Planned) -> str:
  """The command of a run, as a shell reads it."""
  return shlex.join(["python", "-m", "distill_jax", *planned.words])


def same_questions(one: dict, other: dict, split: str) -> bool:
  """Whether runs of two configs are asked the same questions of a split at the end."""
  return _questions(one, split) == _questions(other, split)


def _questions(config: dict, split: str) -> dict:
  return {
    f"{group}.{key}": value
    for group in (*QUESTIONS, *(["cross"] if split == "cross" else []))
    if group in config
    for key, value in config[group].items()
    if f"{group}.{key}" not in NOT_ASKED
  }
