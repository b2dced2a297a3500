"""Continuous batching: completions that arrive join the ones that are being decoded.

Completions of one group, that is with the same student, prompt bucket, temperature and top_p, are
rows of one rollout. The rollouts of several groups take turns. The tokens of a row do not depend on
the others.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from distill_jax.decoding import decode_loop, rollout
from distill_jax.runtime.completions import Written, cut
from distill_jax.runtime.student import Params, Student

LIVE = 3  # groups decoded in turns; each holds its rows in device memory


class Group(NamedTuple):
  """What rows of one rollout share."""

  student: str
  bucket: int
  temperature: float
  top_p: float


@dataclasses.dataclass(frozen=True)
class Row:
  """A completion that is wanted.

  Attributes:
    group: See `Group`.
    ids: The tokens of its prompt.
    name: Seeds its random numbers.
    stop: It ends before the first of these texts.
    max_tokens: The most tokens of it that are used.
    done: Gets what was written.
    fail: Gets the error if it cannot be computed.
    is_wanted: Whether somebody still waits for it.
  """

  group: Group
  ids: Sequence[int]
  name: str
  stop: Sequence[str]
  max_tokens: int
  done: Callable[[Written], None]
  fail: Callable[[Exception], None]
  is_wanted: Callable[[], bool]


class Batcher:
  """Decodes rows. All calls are made by one thread."""

  def __init__(self, students: dict[str, tuple[Student, Params]], max_new_tokens: int):
    """`max_new_tokens`: the most tokens of any row."""
    self._students, self._max_new_tokens = students, max_new_tokens
    self._weights: dict[str, decode_loop.Held] = {}
    self._arrivals = itertools.count()
    # Rows that wait, by group, with the order of their arrival.
    self._waiting: dict[Group, collections.deque[tuple[int, Row]]] = {}
    self._live: dict[Group, tuple[rollout.Rollout, dict[int, Row]]] = {}

  @property
  def has_work(self) -> bool:
    """Whether rows wait or are being decoded."""
    return bool(self._waiting or self._live)

  def add(self, row: Row) -> None:
    """Adds a row."""
    queue = self._waiting.setdefault(row.group, collections.deque())
    queue.append((next(self._arrivals), row))

  def step(self) -> None:
    """Starts waiting rows where rows are free, and decodes every group for some tokens."""
    self._admit()
    for group, (running, rows) in list(self._live.items()):
      try:
        if rows:  # the only one may have been canceled before it started
          self._decode(group, running, rows)
      except Exception as error:  # whatever the device raises: it fails this group only
        self._fail(group, error)
      if not rows:
        self._live.pop(group, None)

  def _fail(self, group: Group, error: Exception) -> None:
    """Fails all rows of a group and forgets its rollout."""
    _, rows = self._live.pop(group, (None, {}))
    waiting = self._waiting.pop(group, ())
    for row in [*rows.values(), *(row for _, row in waiting)]:
      row.fail(error)

  def _admit(self) -> None:
    """Moves rows into rollouts, the groups with the oldest rows first.

    A group that cannot start yet keeps younger rows of other groups from joining, so the running
    groups end and it gets its turn.
    """
    for group, queue in sorted(self._waiting.items(), key=lambda item: item[1][0][0]):
      while queue and not queue[0][1].is_wanted():
        queue.popleft()
      try:
        if queue and not self._start(group, queue):
          break
      except Exception as error:  # there is no room for another rollout, for example
        self._fail(group, error)
    self._waiting = {group: queue for group, queue in self._waiting.items() if queue}

  def _start(self, group: Group, queue: collections.deque[tuple[int, Row]]) -> bool:
    """Moves waiting rows of a group into its rollout. Returns False if it cannot be opened yet."""
    if group not in self._live:
      if len(self._live) >= LIVE:
        return False
      self._live[group] = self._open(group), {}
    running, rows = self._live[group]
    student, _ = self._students[group.student]
    while queue and running.waiting + running.running < 2 * student.rows:
      _, row = queue.popleft()
      if row.is_wanted():
        (number,) = running.add(row.ids, student.key(row.name)[None])
        rows[number] = row
    return True

  def _open(self, group: Group) -> rollout.Rollout:
    student, params = self._students[group.student]
    if group.student not in self._weights:
      self._weights[group.student] = student.prepare(params)
    return student.open_rollout(
      self._weights[group.student],
      group.bucket,
      temperature=group.temperature,
      top_p=group.top_p,
      max_new_tokens=self._max_new_tokens,
    )

  def _decode(self, group: Group, running: rollout.Rollout, rows: dict[int, Row]) -> None:
    student, _ = self._students[group.student]

    def has_stopped(number: int, tokens: list[int]) -> bool:
      row = rows[number]
      if len(tokens) >= row.max_tokens or not row.is_wanted():
        return True
      return bool(row.stop) and student.has_stopped(tokens, stop=row.stop)

    with jax.set_mesh(student.mesh):
      complete, _ = running.step(has_stopped)
    for number, tokens, logprobs, ended in complete:
      row = rows.pop(number)
      try:
        written = cut(student.decode, tokens, logprobs, ended=ended, stop=row.stop)
        row.done(_limit(student, written, row.max_tokens))
      except Exception as error:  # of a format that reads the text
        row.fail(error)


def _limit(student: Student, written: Written, max_tokens: int) -> Written:
  """Returns the first `max_tokens` of what was written."""
  if len(written.ids) <= max_tokens:
    return written
  ids = written.ids[:max_tokens]
  return Written(student.decode(ids), "length", ids, written.logprobs[:max_tokens])
