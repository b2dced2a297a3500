"""run --dry_run: what the next unfinished round would ask the teacher, and what that may cost. Nothing is sent and nothing is written; replies in the cache are not counted again."""

import contextlib
import dataclasses
import pathlib
import sqlite3
import tempfile
from collections.abc import Sequence

from distill_jax import console, errors, phases, rounds, tasks, teacher
from distill_jax import plan as plans
from distill_jax.run_dir import run_dir
from distill_jax.runtime import context
from distill_jax.settings import Settings, Teacher
from distill_jax.teacher import local_student
from distill_jax.teacher import types as asking

SURE, AT_MOST = "", "at most"


def tell(settings, config: dict, workdir: str, *, retry_failed: bool = False) -> None:
  """Prints it; `retry_failed`: as if what has failed were asked for again. Raises errors.UserError
  for what a run would be refused for before it begins, but for what only the devices know."""
  screen, folder = console.Console(), run_dir.RunDir(workdir)
  folder.check(config)
  what = context.RunContext(settings, folder, screen)
  number = unfinished(what)
  screen.line("dry run: nothing is sent, and nothing is written")
  if number is None:
    screen.line(f"{folder.path} is finished: the teacher would be asked nothing")
    return
  with opened(what, retry_failed) as answers:
    rows = [
      row for phase in teacher_phases(what, number) for row in _needs(what, number, answers, *phase)
    ]
    spent, sent = answers.ledger.total(), answers.ledger.requests_sent()
  _show(screen, settings, number, rows, spent, sent)


def unfinished(what) -> int | None:
  """The first round with something left to do."""
  if (what.run_dir.path / "summary.json").exists():
    return None
  for number in range(what.settings.rounds + 1):
    plan = [*_plan(what, number), "evaluate"]
    if not all(what.run_dir.phase(number, k, name).finished for k, name in enumerate(plan)):
      return number
  return None


def teacher_phases(what, number: int) -> list[tuple[str, object]]:
  """(name, folder) of the round's phases that ask the teacher and are not finished."""
  named = [(name, what.run_dir.phase(number, k, name)) for k, name in enumerate(_plan(what, number))]
  return [(name, here) for name, here in named if name in plans.ASKERS and not here.finished]


def _plan(what, number: int):
  return what.settings.opening if number == 0 else what.settings.each_round


class _UnloadedStudent:
  """Stands in for a student that acts as teacher: its replies cost nothing."""

  identity, model, batch = "", "", 1

  def answer(
    self, requests: Sequence[tuple[str, str, str]], *, temperature: float, max_new_tokens: int
  ) -> list[local_student.StudentReply]:
    """Is not called: a dry run asks nothing."""
    raise NotImplementedError

  def free_memory(self) -> None:
    """Does nothing."""


@dataclasses.dataclass(frozen=True)
class _RunCopy:
  """The run as `teacher.open` sees it (`teacher.RunLike`), over a copy of its cache."""

  settings: Settings
  workdir: pathlib.Path
  task: tasks.Task
  console: console.Console

  def warn(self, text: str) -> None:
    """Shows a warning."""
    self.console.warn(text)

  def student_teacher(self, settings: Teacher, name: str) -> local_student.StudentBackend:
    """The stand-in; nothing is loaded."""
    del settings, name
    return _UnloadedStudent()


@contextlib.contextmanager
def opened(what, retry_failed: bool):
  """The run's teacher over a copy of its cache. A student as teacher costs nothing and is not
  loaded."""
  settings, path = what.settings, what.run_dir.path
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch) / teacher.CACHE
    _copy(pathlib.Path(settings.teacher.cache or path / teacher.CACHE), copy)
    if settings.teacher.cache:  # in a shared file a run is known by its folder
      over = lambda t: dataclasses.replace(t, cache=str(copy))
      others = {name: over(t) for name, t in settings.teachers.items()}
      settings = dataclasses.replace(settings, teacher=over(settings.teacher), teachers=others)
    run = _RunCopy(
      settings=settings,
      workdir=path if settings.teacher.cache else copy.parent,
      task=what.task,
      console=what.console,
    )
    if retry_failed:
      teacher.retry_failed(settings.teacher, run.workdir, rounds.finished_phases(what))
    with contextlib.closing(teacher.open(run)) as answers:
      yield answers


def _copy(source: pathlib.Path, copy: pathlib.Path) -> None:
  if not source.exists():
    return
  # Of a file that nobody has open, a reader would leave an empty journal behind.
  idle = not source.with_name(f"{source.name}-wal").exists()
  address = f"{source.absolute().as_uri()}?{'immutable=1' if idle else 'mode=ro'}"
  try:
    with (
      contextlib.closing(sqlite3.connect(address, uri=True)) as old,
      contextlib.closing(sqlite3.connect(copy)) as new,
    ):
      old.backup(new)
  except sqlite3.Error as error:
    raise errors.data(f"teacher cache {source} cannot be read ({error})") from None


def _needs(what, number: int, answers, name: str, here) -> list[tuple[str, str, asking.Estimate]]:
  """(phase, SURE or AT_MOST, need) of a phase; what is sure and what is not stand apart."""
  sure, bounded = phases.planned_requests(name, what, number)
  need = lambda wanted: answers.estimate(
    [w.request for w in wanted],
    round=number, phase=here.path.name, temperature=what.settings.teacher.temperature,
  )  # fmt: skip
  rows = [(here.path.name, SURE, need(sure))] if sure or not bounded else []
  return rows + ([(here.path.name, AT_MOST, need(bounded))] if bounded else [])


def _show(screen, settings, number: int, rows, spent: asking.Totals, sent: int) -> None:
  t = settings.teacher
  if not rows:
    screen.line(f"round {number}: no phase that asks the teacher is left")
    return
  names = (
    "round", "phase", "", "requests", "replies", "in the cache", "failed", "tokens in",
    "tokens out", "dollars",
  )  # fmt: skip
  total = asking.Estimate.sum(need for *_, need in rows)
  cells = [(str(number), phase, kind, *_cells(need)) for phase, kind, need in rows]
  cells.append((str(number), "all", AT_MOST if _any(rows) else "", *_cells(total)))
  screen.columns([names, *cells], right=[n >= 3 for n in range(len(names))])
  screen.line(
    "tokens and dollars are the most these requests can take, every reply at its longest; what has"
    " to be asked again comes on top"
  )
  if spent.calls:
    each = spent.dollars / spent.calls
    screen.line(
      f"at the ${each:.6f} a reply that this run has paid so far: about ${each * total.replies:.4f}"
    )
  if _any(rows):
    screen.line(
      f"{AT_MOST}: how many mistakes the exam of this round finds, or how many replies cannot be"
      " used, is not known yet"
    )
  _warn(screen, t, total, spent, sent)


def _warn(screen, t, total: asking.Estimate, spent: asking.Totals, sent: int) -> None:
  """Says how that compares with the caps."""
  screen.line(
    f"the run folder has spent ${spent.dollars:.4f} of config.teacher.max_dollars={t.max_dollars:g}"
    f" and {sent} of max_requests={t.max_requests} requests"
  )
  if spent.dollars + total.dollars > t.max_dollars:
    screen.warn("this may reach config.teacher.max_dollars; the run would stop there")
  if sent + total.requests > t.max_requests:
    screen.warn("this may reach config.teacher.max_requests; the run would stop there")
  if total.unpriced:
    screen.warn("config.teacher.prices are 0: the dollars are not known")


def _any(rows) -> bool:
  return any(kind == AT_MOST for _, kind, _ in rows)


def _cells(need: asking.Estimate) -> tuple[str, ...]:
  counts = (need.requests, need.replies, need.stored, need.failed, need.tokens_in, need.tokens_out)
  return (*(f"{n:,}" for n in counts), f"{need.dollars:.4f}")
