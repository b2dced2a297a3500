"""Several teachers in one config: who answers what.

config.teacher is called main; config.teachers has the others by name. config.teacher.by_phase gives
a phase to one of them, config.teacher.pool divides what is left by weight. The teacher of a request
is decided by the seed and what it says: a rerun, or one for more samples, asks the same.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.store import cache, ledger

MAIN = "main"
NAME = re.compile(r"[a-z][a-z0-9_]*")
# What all teachers have in common: further ones cannot have their own.
SHARED = (
  "pool",
  "by_phase",
  "temperature",
  "cache",
  "max_dollars",
  "max_requests",
  "min_reply_rate",
)


def merge_teachers(config: dict) -> dict:
  """The config with every further teacher whole: what it does not name is as in config.teacher.

  Raises errors.UserError for a name or a field that no further teacher can have.
  """
  others = config["teachers"] if "teachers" in config else None
  if not isinstance(others, dict) or not isinstance(config["teacher"], dict):
    return config
  for name, own in others.items():
    if name == MAIN or not NAME.fullmatch(str(name)):
      allowed = (
        f"names of small letters, digits and underscores, but {MAIN}: that is config.teacher"
      )
      raise errors.config("teachers", name, allowed)
    if not isinstance(own, dict):
      example = f"--config.teachers=\"{{'{name}': {{'model': 'MODEL'}}}}\""
      raise errors.config(f"teachers.{name}", own, "the fields that differ", example)
    for field in sorted(set(own) & set(SHARED)):
      allowed = f"left out: config.teacher.{field} is for all teachers together"
      raise errors.config(f"teachers.{name}.{field}", own[field], allowed)
  whole = {name: _over(config["teacher"], own) for name, own in others.items()}
  return {**config, "teachers": whole}


def _over(below: dict, own: dict) -> dict:
  """`own` in place of what `below` has, group by group."""
  groups = {k for k, v in own.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
  return below | {k: _over(below[k], v) if k in groups else v for k, v in own.items()}


def get(settings, name: str):
  """The settings of the teacher of that name."""
  return settings.teacher if name == MAIN else settings.teachers[name]


def weights(settings, phase: str) -> dict[str, float]:
  """{name: weight} of the teachers that a phase asks. Raises errors.UserError for entries of
  config.teacher.pool and phases that cannot be read."""
  names = (MAIN, *settings.teachers)
  own = _pairs("by_phase", settings.teacher.by_phase, "'feedback=NAME'")
  pool = _pairs("pool", settings.teacher.pool, "'main=3', 'NAME=1'")
  for field, known in (("by_phase", own.values()), ("pool", pool)):
    for name in known:
      if name not in names:
        allowed = f"made of the teachers there are: {', '.join(names)}"
        raise errors.config(f"teacher.{field}", getattr(settings.teacher, field), allowed)
  weights = {name: _weight(text) for name, text in pool.items()}
  if None in weights.values():
    example = "--config.teacher.pool=\"('main=3', 'NAME=1')\""
    raise errors.config("teacher.pool", settings.teacher.pool, "weights above 0", example)
  return {own[phase]: 1.0} if phase in own else weights or {MAIN: 1.0}


def phase_teachers(settings) -> dict[str, str]:
  """{phase: name} of config.teacher.by_phase."""
  return _pairs("by_phase", settings.teacher.by_phase, "'feedback=NAME'")


def teachers_used(settings, asking_phases) -> list[str]:
  """The names of the teachers that these phases ask."""
  return list(dict.fromkeys(n for phase in asking_phases for n in weights(settings, phase)))


def _pairs(field: str, entries, example: str) -> dict[str, str]:
  pairs = [tuple(part.strip() for part in entry.partition("=")[::2]) for entry in entries]
  if not all(all(pair) for pair in pairs) or len(dict(pairs)) < len(pairs):
    do = f'--config.teacher.{field}="({example},)"'
    raise errors.config(f"teacher.{field}", entries, "NAME=VALUE, each name once", do)
  return dict(pairs)


def _weight(text: str) -> float | None:
  return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) and float(text) else None


def choose(weights: dict[str, float], seed: int, request: types.Request) -> str:
  """Whose request it is: of many, each teacher has about its share."""
  told = json.dumps([seed, request.kind, request.messages])
  part = int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big") / 2**64
  place = part * sum(weights.values())
  for name, weight in weights.items():
    place -= weight
    if place < 0:
      return name
  return name


class Pool:
  """A Teacher made of several, over one cache file. They are asked one after the other, so that
  the caps of the run hold for all of them."""

  def __init__(
    self,
    open: Callable[[str], types.Teacher],
    of: Callable[[str], dict[str, float]],
    *,
    seed: int,
    cache_path: str,
    run: str,
  ):
    """`open(name)` gives a teacher, when it is first asked; `of(phase)` {name: weight}."""
    self._open, self._of, self._seed = open, of, seed
    self._teachers = {}
    self._store = cache.ReplyCache(cache_path)
    self.ledger = ledger.RunLedger(self._store, run)

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Reply | types.Failure]]:
    """See asking.Teacher. `phase` is a phase's name, perhaps behind its place in the plan."""
    answers = [None] * len(requests)
    progress = _Sum(on_progress, sum(request.samples for request in requests))
    for name, numbers in self._shared(requests, phase).items():
      replies = self._teacher(name).ask(
        [requests[n] for n in numbers],
        round=round, phase=phase, temperature=temperature, on_progress=progress.next(),
      )  # fmt: skip
      for number, reply in zip(numbers, replies, strict=True):
        answers[number] = reply
    return answers

  def estimate(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Estimate:
    """See asking.Teacher."""
    shared = self._shared(requests, phase)
    return types.Estimate.sum(
      self._teacher(name).estimate(
        [requests[n] for n in numbers], round=round, phase=phase, temperature=temperature
      )
      for name, numbers in shared.items()
    )

  def _shared(self, requests, phase: str) -> dict[str, list[int]]:
    """{name of a teacher: the places of its requests}."""
    place, _, rest = phase.partition("_")
    weights = self._of(rest if place.isdigit() else phase)
    chosen = [choose(weights, self._seed, request) for request in requests]
    shared = {name: [n for n, choice in enumerate(chosen) if choice == name] for name in weights}
    return {name: numbers for name, numbers in shared.items() if numbers}

  def _teacher(self, name: str) -> types.Teacher:
    if name not in self._teachers:
      self._teachers[name] = self._open(name)
    return self._teachers[name]

  def close(self) -> None:
    """Closes all of them."""
    for teacher in self._teachers.values():
      teacher.close()
    self._store.close()


class _Sum:
  """Progress over several asks, one after the other, as that of one."""

  def __init__(self, tell, total: int):
    self._tell, self._total = tell, total
    self._before, self._now = (0, 0, 0), (0, 0, 0)  # done, failures, retries

  def next(self):
    """What the next ask tells its progress; None if nobody listens."""
    self._before = self._now
    return self._told if self._tell is not None else None

  def _told(self, progress: types.Progress) -> None:
    here = (progress.done, progress.failures, progress.retries)
    self._now = tuple(a + b for a, b in zip(self._before, here, strict=True))
    done, failures, retries = self._now
    self._tell(
      dataclasses.replace(
        progress, done=done, failures=failures, retries=retries, total=self._total
      )
    )
