"""run --dry_run: shows the requests of the next unfinished round to the teacher, and their cost.

Nothing is sent and nothing is written; replies in the cache are not counted again.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from distill_jax import console, disk, phases, plan, rounds, tasks, teacher, together
from distill_jax.run_dir.phase_dir import PhaseDir, report_os_errors
from distill_jax.run_dir.run_dir import SUMMARY, RunDir
from distill_jax.runtime import resume
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings, Teacher
from distill_jax.teacher import local_student, pool, presets, types
from distill_jax.teacher.store import cache_file

SURE, AT_MOST = "", "at most"
HEADER = (
  *("round", "phase", "", "requests", "replies", "in the cache", "failed"),
  *("tokens in", "tokens out", "dollars"),
)


class _Row(NamedTuple):
  """An estimate for a phase: for certain requests, or an upper bound for others."""

  phase: str  # the name of its directory
  kind: str  # SURE | AT_MOST
  estimate: types.Estimate


@together.on_first
def show(
  settings: Settings, config: dict[str, Any], workdir: str, *, retry_failed: bool = False
) -> None:
  """Prints the requests of the next unfinished round and their cost.

  With several processes, process 0 does this.

  Args:
    settings: The settings.
    config: The config they were read from.
    workdir: The run directory; it need not exist.
    retry_failed: Count failed requests as if they were sent again.

  Raises:
    UserError: The run would be rejected before it starts. Devices are not checked.
  """
  screen, run_dir = console.Console(), RunDir(workdir)
  with report_os_errors(workdir):
    disk.check_can_be_dir(workdir)
  run_dir.verify()
  same = run_dir.check(config)
  teacher.check_cache(settings.teacher, run_dir.path)
  ctx = RunContext(resume.name_servers(settings, run_dir), run_dir, screen)
  if run_dir.started:
    resume.check_questions(ctx)
  round_index = next_round(ctx) if same else first_unfinished(ctx)
  screen.line("Dry run: nothing is sent or written")
  if round_index is None:
    screen.line(f"{run_dir.path} is finished: no requests are left to send")
    return
  with _open_teacher(ctx, retry_failed) as opened:
    rows = [
      row
      for name, out in _teacher_phases(ctx, round_index)
      for row in _estimates(ctx, round_index, opened, name, out)
    ]
    spent, sent = opened.ledger.total(), opened.ledger.requests_sent()
    unanswered = opened.ledger.unanswered().dollars
  if not rows:
    screen.line(f"Round {round_index}: no remaining phase asks the teacher")
    return
  total = _show_rows(screen, round_index, rows, spent)
  for name in pool.teachers_used(settings, [name for name, _ in _teacher_phases(ctx, round_index)]):
    if prices := presets.describe_prices(pool.get(settings, name)):
      screen.line(prices)
  _show_caps(screen, settings.teacher, total, spent.dollars, unanswered, sent)


def next_round(ctx: RunContext) -> int | None:
  """The first round with an unfinished phase; None if the run is finished."""
  return None if (ctx.run_dir.path / SUMMARY).exists() else first_unfinished(ctx)


def first_unfinished(ctx: RunContext) -> int | None:
  """The first round with an unfinished phase, also if the run has stopped before it; or None."""
  for round_index in range(ctx.settings.rounds + 1):
    names = [*_plan(ctx, round_index), "evaluate"]
    directories = [ctx.run_dir.phase(round_index, k, name) for k, name in enumerate(names)]
    if not all(directory.finished for directory in directories):
      return round_index
  return None


def _teacher_phases(ctx: RunContext, round_index: int) -> list[tuple[str, PhaseDir]]:
  """(name, directory) of the round's unfinished phases that ask the teacher."""
  names = _plan(ctx, round_index)
  directories = [ctx.run_dir.phase(round_index, k, name) for k, name in enumerate(names)]
  pairs = zip(names, directories, strict=True)
  return [(name, out) for name, out in pairs if name in plan.ASKERS and not out.finished]


def _plan(ctx: RunContext, round_index: int) -> tuple[str, ...]:
  return ctx.settings.opening if round_index == 0 else ctx.settings.each_round


class _UnloadedStudent:
  """Stands in for a student that acts as teacher: its replies cost nothing."""

  identity, model, batch = "", "", 1

  def answer(
    self, requests: Sequence[tuple[str, str, str]], *, temperature: float, max_new_tokens: int
  ) -> list[local_student.StudentReply]:
    """Refuses: an estimate computes no reply."""
    raise RuntimeError("a dry run computes no replies")

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
def _open_teacher(ctx: RunContext, retry_failed: bool) -> Iterator[types.Teacher]:
  """The run's teacher over a copy of its cache."""
  settings, path = ctx.settings, ctx.run_dir.path
  shared = settings.teacher.cache
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch) / teacher.CACHE
    cache_file.copy(pathlib.Path(shared or path / teacher.CACHE), copy)
    if shared:  # in a shared file, a run is known by its directory
      main = dataclasses.replace(settings.teacher, cache=str(copy))
      others = {
        name: dataclasses.replace(other, cache=str(copy))
        for name, other in settings.teachers.items()
      }
      settings = dataclasses.replace(settings, teacher=main, teachers=others)
    run = _RunCopy(
      settings=settings, workdir=path if shared else copy.parent, task=ctx.task, console=ctx.console
    )
    if retry_failed:
      teacher.retry_failed(settings.teacher, run.workdir, rounds.finished_phases(ctx))
    with contextlib.closing(teacher.open(run)) as opened:
      yield opened


def _estimates(
  ctx: RunContext, round_index: int, asked: types.Teacher, name: str, out: PhaseDir
) -> list[_Row]:
  """The rows of a phase: its certain requests, and a bound for those that are not known yet."""
  sure, bounded = phases.planned_requests(name, ctx, round_index)
  rows: list[_Row] = []
  for kind, wanted in ((SURE, sure), (AT_MOST, bounded)):
    if wanted or (kind == SURE and not bounded):
      estimate = asked.estimate(
        [item.request for item in wanted],
        round=round_index,
        phase=out.path.name,
        temperature=ctx.settings.teacher.temperature,
      )
      rows.append(_Row(out.path.name, kind, estimate))
  return rows


def _show_rows(
  screen: console.Console, round_index: int, rows: list[_Row], spent: types.Totals
) -> types.Estimate:
  """Prints a table and its notes; returns the total."""
  bounded = any(row.kind == AT_MOST for row in rows)
  total = types.Estimate.sum(row.estimate for row in rows)
  cells = [(str(round_index), row.phase, row.kind, *_cells(row.estimate)) for row in rows]
  cells.append((str(round_index), "all", AT_MOST if bounded else SURE, *_cells(total)))
  screen.columns([HEADER, *cells], right=[n >= 3 for n in range(len(HEADER))])
  screen.line(
    "Tokens and dollars are upper bounds: every reply has the maximum length. Retries are extra."
  )
  if spent.calls:
    each = spent.dollars / spent.calls
    screen.line(
      f"At ${each:.6f} per reply, the average of this run so far: about ${each * total.replies:.4f}"
    )
  if bounded:
    screen.line(
      f"{AT_MOST}: the number of mistakes in this round's exam, or of unusable replies, is not"
      " known yet"
    )
  return total


def _show_caps(
  screen: console.Console,
  asked: Teacher,
  total: types.Estimate,
  spent: float,
  unanswered: float,
  sent: int,
) -> None:
  """Prints how the total compares with the caps."""
  estimated = f" and at most ${unanswered:.4f} for unanswered requests" if unanswered else ""
  screen.line(
    f"Spent so far: ${spent:.4f}{estimated} of config.teacher.max_dollars={asked.max_dollars:g}, "
    f"{sent} of max_requests={asked.max_requests} requests"
  )
  if spent + unanswered + total.dollars > asked.max_dollars:
    screen.warn("this may reach config.teacher.max_dollars; the run would stop there")
  if sent + total.requests > asked.max_requests:
    screen.warn("this may reach config.teacher.max_requests; the run would stop there")
  if total.unpriced:
    screen.warn("the price of the model is unknown or 0: set config.teacher.prices")


def _cells(estimate: types.Estimate) -> tuple[str, ...]:
  counts = (
    *(estimate.requests, estimate.replies, estimate.stored, estimate.failed),
    *(estimate.tokens_in, estimate.tokens_out),
  )
  return (*(f"{n:,}" for n in counts), f"{estimate.dollars:.4f}")
