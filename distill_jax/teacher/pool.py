"""Several teachers in one config.

config.teacher is the teacher called "main"; config.teachers holds the others by name.
config.teacher.by_phase assigns a phase to one of them; config.teacher.pool divides the requests of
the remaining phases by weight. The seed and the text of a request determine its teacher, so a
resumed run, or a request for more samples, goes to the same teacher.
"""

import dataclasses
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill_jax import errors, settings
from distill_jax.teacher import local_student, presets, types
from distill_jax.teacher.client import interrupts
from distill_jax.teacher.store import cache, ledger

MAIN = "main"
JOIN_SECONDS = 0.05  # between looks at the threads of a pool
NAME = re.compile(r"[a-z][a-z0-9_]*")
# Fields of config.teacher that apply to all teachers together: the others cannot set them.
SHARED = (
  "pool",
  "by_phase",
  "temperature",
  "cache",
  "max_dollars",
  "max_requests",
  "min_reply_rate",
  "thinking",
)


def merge_teachers(config: dict[str, Any]) -> dict[str, Any]:
  """Completes config.teachers: fields that a teacher leaves out are those of config.teacher.

  Returns:
    A new config; the same one if it has no config.teachers.

  Raises:
    UserError: A teacher has an invalid name, is not a dictionary, or sets one of SHARED.
  """
  others = config["teachers"] if "teachers" in config else None
  main = config["teacher"] if "teacher" in config else None
  if not isinstance(others, dict) or not isinstance(main, dict):
    return config
  for name, fields in others.items():
    if name == MAIN or not NAME.fullmatch(str(name)):
      allowed = (
        f"names of lower-case letters, digits and underscores, except {MAIN!r}, which is"
        " config.teacher"
      )
      raise errors.config("teachers", name, allowed)
    if not isinstance(fields, dict):
      example = f"--config.teachers=\"{{'{name}': {{'model': 'MODEL'}}}}\""
      raise errors.config(f"teachers.{name}", fields, "the fields that differ", example)
    for field in sorted(set(fields) & set(SHARED)):
      allowed = f"left out: config.teacher.{field} applies to all teachers together"
      raise errors.config(f"teachers.{name}.{field}", fields[field], allowed)
  merged = {name: _merge(_inherited(main, fields), fields) for name, fields in others.items()}
  return {**config, "teachers": merged}


def _inherited(main: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
  """The fields of config.teacher that a teacher with these fields has, too.

  Prices are of a model. The address of a server, its key and its name are of the server: of
  VENDOR/MODEL they follow from the vendor.
  """
  default = settings.Teacher()
  changes: dict[str, Any] = {}
  if "model" in fields:
    changes["prices"] = dataclasses.asdict(default.prices)
  if "base_url" in fields:
    changes["identity"] = default.identity
  elif presets.parse(str(fields.get("model", ""))) is not None:
    names = ("base_url", "identity", "key_env", "key_file", "max_tokens_field")
    changes |= {name: getattr(default, name) for name in names}
  return main | {name: value for name, value in changes.items() if name in main}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
  """`base` with `changes`, group by group."""
  groups = {k for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
  return base | {k: _merge(base[k], v) if k in groups else v for k, v in changes.items()}


def get(config: settings.Settings, name: str) -> settings.Teacher:
  """The settings of the teacher `name`."""
  return config.teacher if name == MAIN else config.teachers[name]


def phase_weights(config: settings.Settings, phase: str) -> dict[str, float]:
  """{name: weight} of the teachers that a phase's requests go to.

  Raises:
    UserError: An entry of config.teacher.by_phase or config.teacher.pool is invalid.
  """
  names = (MAIN, *config.teachers)
  by_phase = phase_teachers(config)
  pool = _pairs("pool", config.teacher.pool, "'main=3', 'NAME=1'")
  for field, entries, used in (
    ("by_phase", config.teacher.by_phase, by_phase.values()),
    ("pool", config.teacher.pool, pool.keys()),
  ):
    for name in used:
      if name not in names:
        allowed = f"made of the configured teachers: {', '.join(names)}"
        raise errors.config(f"teacher.{field}", entries, allowed)
  weights: dict[str, float] = {}
  for name, text in pool.items():
    weight = _parse_weight(text)
    if weight is None:
      example = "--config.teacher.pool=\"('main=3', 'NAME=1')\""
      raise errors.config("teacher.pool", config.teacher.pool, "weights above 0", example)
    weights[name] = weight
  if phase in by_phase:
    return {by_phase[phase]: 1.0}
  return weights or {MAIN: 1.0}


def phase_teachers(config: settings.Settings) -> dict[str, str]:
  """{phase: teacher name} of config.teacher.by_phase."""
  return _pairs("by_phase", config.teacher.by_phase, "'feedback=NAME'")


def teachers_used(config: settings.Settings, phases: Iterable[str]) -> list[str]:
  """Names of the teachers that these phases' requests go to."""
  return list(dict.fromkeys(name for phase in phases for name in phase_weights(config, phase)))


def _pairs(field: str, entries: Sequence[str], example: str) -> dict[str, str]:
  """Parses NAME=VALUE entries."""
  parts = [entry.partition("=") for entry in entries]
  pairs = [(name.strip(), value.strip()) for name, _, value in parts]
  if not all(name and value for name, value in pairs) or len(dict(pairs)) < len(pairs):
    usage = f'--config.teacher.{field}="({example},)"'
    raise errors.config(f"teacher.{field}", entries, "NAME=VALUE, each name once", usage)
  return dict(pairs)


def _parse_weight(text: str) -> float | None:
  """A weight above 0; None if the text is not one."""
  weight = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else 0.0
  return weight or None


def choose(weights: Mapping[str, float], seed: int, request: types.Request) -> str:
  """The teacher that receives a request; over many requests, each gets its share."""
  text = json.dumps([seed, request.kind, request.messages])
  fraction = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
  point = fraction * sum(weights.values())
  for name, weight in weights.items():
    point -= weight
    if point < 0:
      return name
  return list(weights)[-1]  # by rounding


class Pool:
  """Teacher that divides requests among several teachers over one cache file.

  Those behind a server are asked at the same time, in a thread each, under one budget; a student of
  this machine, which needs its devices, is asked before them.

  Attributes:
    ledger: What this run has used and spent.
  """

  def __init__(
    self,
    open_teacher: Callable[[str], types.Teacher],
    weights_of: Callable[[str], dict[str, float]],
    *,
    seed: int,
    cache_path: str,
    run: str,
  ):
    """Opens the cache; opens each teacher when it is first needed.

    Args:
      open_teacher: Opens the teacher of a name.
      weights_of: {name: weight} of the teachers for a phase.
      seed: Decides, with a request's text, who receives it.
      cache_path: SQLite file that all teachers share.
      run: Name of this run in the cache.
    """
    self._open, self._weights_of, self._seed = open_teacher, weights_of, seed
    self._teachers: dict[str, types.Teacher] = {}
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
  ) -> list[list[types.Outcome]]:
    """See `types.Teacher.ask`; `phase` may carry its position in the plan, as in 1_feedback."""
    outcomes: list[list[types.Outcome]] = [[] for _ in requests]
    split = self._split(requests, phase)
    total = sum(request.samples for request in requests)
    progress = None if on_progress is None else _ProgressSum(on_progress, total, self.ledger.spent)

    def ask_one(name: str) -> None:
      answers = self._teacher(name).ask(
        [requests[index] for index in split[name]],
        round=round,
        phase=phase,
        temperature=temperature,
        on_progress=None if progress is None else functools.partial(progress.report, name),
      )
      for index, answer in zip(split[name], answers, strict=True):
        outcomes[index] = answer

    local = [n for n in split if isinstance(self._teacher(n), local_student.LocalStudentTeacher)]
    for name in local:
      ask_one(name)
    _at_once(ask_one, [name for name in split if name not in local])
    return outcomes

  def estimate(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Estimate:
    """See `types.Teacher.estimate`."""
    return types.Estimate.sum(
      self._teacher(name).estimate(
        [requests[index] for index in indices], round=round, phase=phase, temperature=temperature
      )
      for name, indices in self._split(requests, phase).items()
    )

  def close(self) -> None:
    """Closes all teachers and the cache."""
    for teacher in self._teachers.values():
      teacher.close()
    self._store.close()

  def _split(self, requests: Sequence[types.Request], phase: str) -> dict[str, list[int]]:
    """{teacher name: indices of its requests}, without teachers that receive none."""
    position, _, name = phase.partition("_")
    weights = self._weights_of(name if position.isdigit() else phase)
    split: dict[str, list[int]] = {name: [] for name in weights}
    for index, request in enumerate(requests):
      split[choose(weights, self._seed, request)].append(index)
    return {name: indices for name, indices in split.items() if indices}

  def _teacher(self, name: str) -> types.Teacher:
    if name not in self._teachers:
      self._teachers[name] = self._open(name)
    return self._teachers[name]


def _at_once(ask_one: Callable[[str], None], names: Sequence[str]) -> None:
  """Asks teachers in a thread each, and waits for all of them.

  An error of one stops the others: they send nothing more, and store what is in flight. A teacher
  that waits for another machine does not stop them.

  Raises:
    BaseException: The first error; `types.ElsewhereError` only if there is no other.
  """
  if len(names) == 1:
    return ask_one(names[0])
  raised: list[BaseException] = []

  def work(name: str) -> None:
    try:
      ask_one(name)
    except BaseException as error:
      raised.append(error)

  threads = [threading.Thread(target=work, args=(name,), name=f"teacher {name}") for name in names]
  with interrupts.handle_signals():
    for thread in threads:
      thread.start()
    while any(thread.is_alive() for thread in threads):
      for error in raised:
        if not isinstance(error, types.ElsewhereError):
          interrupts.stop_all(error)  # again and again: an ask may have begun after the error
      for thread in threads:
        thread.join(JOIN_SECONDS)
    if raised:
      raise min(raised, key=lambda error: isinstance(error, types.ElsewhereError))


class _ProgressSum:
  """Reports the progress of several asks at the same time as that of one."""

  def __init__(
    self, on_progress: Callable[[types.Progress], None], total: int, spent: Callable[[], float]
  ):
    self._on_progress, self._total, self._spent = on_progress, total, spent
    self._start = spent()
    self._latest: dict[str, types.Progress] = {}
    self._lock = threading.Lock()

  def report(self, name: str, progress: types.Progress) -> None:
    """Reports the sum, in which `progress` is now that of the teacher `name`."""
    with self._lock:
      self._latest[name] = progress
      parts = list(self._latest.values())
      done = sum(part.done for part in parts)
      finished = done == self._total
      left = [part.seconds_left for part in parts if part.seconds_left is not None]
      self._on_progress(
        types.Progress(
          done=done,
          total=self._total,
          failures=sum(part.failures for part in parts),
          retries=sum(part.retries for part in parts),
          dollars=self._spent() if finished else self._sum_dollars(parts),
          in_flight=sum(part.in_flight for part in parts),
          limit=sum(part.limit for part in parts),
          requests_per_second=sum(part.requests_per_second for part in parts),
          tokens_per_second=sum(part.tokens_per_second for part in parts),
          seconds_left=max(left, default=None),
          idle=min(part.idle for part in parts),
          pause=max(part.pause for part in parts),
        )
      )

  def _sum_dollars(self, parts: Sequence[types.Progress]) -> float:
    """What was spent before, and what each teacher has spent since."""
    return self._start + sum(max(part.dollars - self._start, 0.0) for part in parts)
