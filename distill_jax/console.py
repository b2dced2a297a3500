"""Console output: progress bars in a terminal, otherwise plain lines; one row per round.

Text from teachers and students is printed literally: markup is not interpreted, and control
characters are replaced.
"""

import contextlib
import json
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TextIO

from rich import box, live, progress, table
from rich import console as rich_console
from rich import text as rich_text

from distill_jax import round_text, together

# Seconds between plain progress lines: a twentieth of the elapsed time, at least MIN_INTERVAL, and
# at most MAX_INTERVAL if there was progress, WAITING_INTERVAL if not.
MIN_INTERVAL, MAX_INTERVAL, WAITING_INTERVAL = 5.0, 60.0, 600.0
REFRESH = 0.5  # seconds between states of several jobs in a terminal
WIDTH = 140  # columns, if the output is not a terminal

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
# Invisible characters that are shown as they are: joiners inside words and emoji, soft hyphens.
_JOINERS = frozenset("\u00ad\u200c\u200d")


class ProgressBar(Protocol):
  """What `Console.progress` yields."""

  def update(self, done: int, **facts: Any) -> None:
    """Shows how many units are done, and facts such as the loss."""


def plain(text: str) -> str:
  """Returns the text without terminal escapes; other control characters become U+FFFD.

  Invisible characters, such as those that change the direction of text, count as control
  characters; joiners do not. Line ends are kept.
  """
  text = _ESCAPES.sub("", text.replace("\r\n", "\n")).expandtabs(2)
  return "".join(c if c == "\n" or not _unprintable(c) else "\ufffd" for c in text)


def json_line(value: object) -> str:
  """Returns a value as one line of valid JSON: infinite numbers and NaN become null."""
  try:
    return json.dumps(value, allow_nan=False)
  except ValueError:
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


def _unprintable(c: str) -> bool:
  return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in _JOINERS


class Console:
  """Prints to `file`, by default standard output. If `quiet`, it prints warnings only.

  Of several processes, process 0 alone prints.
  """

  def __init__(
    self,
    quiet: bool = False,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    output = file or sys.stdout
    self._silent = not together.is_first()
    width = None if output.isatty() else WIDTH
    self._rich = rich_console.Console(
      file=output, width=width, highlight=False, markup=False, emoji=False
    )
    self._quiet, self._clock = quiet or self._silent, clock
    self._encoding = getattr(output, "encoding", None) or "utf-8"

  def line(self, text: str = "") -> None:
    """Prints a line."""
    if not self._quiet:
      self._print(text)

  def warn(self, text: str) -> None:
    """Prints a warning, also if quiet."""
    if not self._silent:
      self._print(f"warning: {text}", "bold yellow")

  def columns(self, rows: Sequence[Sequence[str]], *, right: Sequence[bool]) -> None:
    """Prints rows as aligned plain text; `right` says which columns are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
      cells = [
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(row, widths, right, strict=True)
      ]
      self.line("  ".join(cells).rstrip())

  def round_row(self, row: dict[str, Any]) -> None:
    """Prints a round: a line with its accuracies, then indented lines with what they cost.

    No line is longer than `round_text.WIDTH`.

    Args:
      row: A round as in summary.json. Its missing parts (None) are not shown.
    """
    for line in round_text.lines(row):
      self.line(line)

  def rounds_plot(self, rows: list[dict[str, Any]]) -> None:
    """Plots accuracy by round in a terminal; elsewhere, nothing is printed."""
    if self._rich.is_terminal:
      for line in round_text.plot(rows):
        self.line(line)

  def rounds_table(self, rows: list[dict[str, Any]], best: int | None = None) -> None:
    """Prints a table of all rounds and marks the best one. A narrow terminal loses columns."""
    if self._quiet:
      return
    shown = self._table(rows, best, round_text.COLUMNS)
    unbounded = self._rich.options.update(max_width=1000)
    for count in range(1, len(round_text.OPTIONAL) + 1):
      if self._rich.measure(shown, options=unbounded).maximum <= self._rich.width:
        break
      shown = self._table(
        rows, best, [name for name in round_text.COLUMNS if name not in round_text.OPTIONAL[:count]]
      )
    self._rich.print(shown)

  def _table(
    self, rows: list[dict[str, Any]], best: int | None, names: Iterable[str]
  ) -> table.Table:
    """The table of rounds with these columns."""
    names = list(names)
    utf8 = self._encoding.lower() == "utf-8"
    shown = table.Table(box=box.SIMPLE_HEAD if utf8 else box.ASCII_DOUBLE_HEAD)
    for name in names:
      shown.add_column(round_text.COLUMNS[name], justify="right", vertical="bottom", no_wrap=True)
    for row in rows:
      style = "bold green" if row["round"] == best else ""
      cells = round_text.cells(row, best)
      shown.add_row(*(rich_text.Text(cells[name], style) for name in names))
    return shown

  def examples(self, examples: Iterable[tuple[str, str, str, str]]) -> None:
    """Prints questions that were answered wrong before and right after training.

    Args:
      examples: (question, answer before, answer after, gold) of each.
    """
    for number, (question, before, after, gold) in enumerate(examples, 1):
      self.line(f"example {number}")
      self.block("question", question)
      self.block("before", before, "red")
      self.block("after", after, "green")
      self.block("gold", gold)

  @contextlib.contextmanager
  def compiling(self, program: str) -> Iterator[None]:
    """Announces the first call of a program, which compiles it, and then how long it took."""
    self.line(f"compiling {program} (first time)")
    started = self._clock()
    yield
    self.line(f"compiled in {self._clock() - started:.1f} s")

  @contextlib.contextmanager
  def progress(self, label: str, total: int, unit: str) -> Iterator[ProgressBar]:
    """Yields a progress bar that counts from 0 to `total`, in `unit` (for example "steps")."""
    if self._quiet:
      yield _NoBar()
    elif self._rich.is_terminal:
      columns = (
        _Cell("label"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        _Cell("unit"),
        progress.TimeRemainingColumn(),
        _Cell("facts"),
      )
      with progress.Progress(*columns, console=self._rich) as bars:
        task = bars.add_task("", total=total, label=label, unit=unit, facts="")
        yield _Bar(bars, task)
    else:
      lines = _Lines(self.line, self._clock, label, total, unit)
      try:
        yield lines
      finally:
        lines.close()

  @contextlib.contextmanager
  def status(self) -> Iterator[Callable[[Callable[[], Sequence[str]]], None]]:
    """Yields a function that shows what several jobs are doing, a line for each.

    The function is called often, with a function that returns the lines. In a terminal the lines
    replace those before; otherwise they are printed every few seconds, later less often.
    """
    started = shown_at = self._clock()
    in_place = self._rich.is_terminal and not self._quiet
    view = live.Live(console=self._rich, transient=True, auto_refresh=False)

    def show(lines: Callable[[], Sequence[str]]) -> None:
      nonlocal shown_at
      now = self._clock()
      if now - shown_at < (REFRESH if in_place else _interval(now - started, WAITING_INTERVAL)):
        return
      shown_at = now
      if in_place:
        text = plain("\n".join(lines()))
        view.update(rich_text.Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
      else:
        for line in lines():
          self.line(line)

    with view if in_place else contextlib.nullcontext():
      yield show

  def block(self, label: str, text: str, style: str = "") -> None:
    """Prints a text next to its label; further lines are indented below the first."""
    if not self._quiet:
      for n, part in enumerate(plain(text).split("\n")):
        self._print(f"  {label if n == 0 else '':<9} {part}", style)

  def _print(self, text: str, style: str = "") -> None:
    shown = plain(text).encode(self._encoding, "replace").decode(self._encoding)
    self._rich.print(rich_text.Text(shown, style), soft_wrap=True)


class _NoBar:
  def update(self, done: int, **facts: Any) -> None:
    pass


class _Bar:
  def __init__(self, bars: progress.Progress, task: progress.TaskID):
    self._bars, self._task = bars, task

  def update(self, done: int, **facts: Any) -> None:
    self._bars.update(self._task, completed=done, facts=_facts(facts))


class _Cell(progress.ProgressColumn):
  """A field of the task, as text without markup."""

  def __init__(self, field: str):
    super().__init__()
    self._field = field

  def render(self, task: progress.Task) -> rich_text.Text:
    return rich_text.Text(plain(task.fields[self._field]))


class _Lines:
  """Prints progress as plain lines, less often the longer the work takes, and at the end."""

  def __init__(
    self,
    write: Callable[[str], None],
    clock: Callable[[], float],
    label: str,
    total: int,
    unit: str,
  ):
    self._write, self._clock = write, clock
    self._label, self._total, self._unit = label, total, unit
    self._started = self._printed_at = clock()
    self._initial: int | None = None  # what an earlier process had done
    self._first_progress: tuple[float, int] | None = None  # time and count of the first increase
    self._done, self._facts = 0, ""
    self._printed: tuple[int, str] | None = None
    self._closed = threading.Event()
    threading.Thread(target=self._heartbeat, daemon=True).start()

  def _heartbeat(self) -> None:
    """Prints also while there is no progress: during a compilation, or while a server is slow."""
    while not self._closed.wait(MIN_INTERVAL):
      if self._due():
        self._print()

  def update(self, done: int, **facts: Any) -> None:
    self._initial = done if self._initial is None else self._initial
    if self._first_progress is None and done > self._initial:
      self._first_progress = self._clock(), done
    self._done, self._facts = done, _facts(facts)
    if self._due():
      self._print()

  def _due(self) -> bool:
    now = self._clock()
    waits = self._printed == (self._done, self._facts)
    longest = WAITING_INTERVAL if waits else MAX_INTERVAL
    return now - self._printed_at >= _interval(now - self._started, longest)

  def close(self) -> None:
    self._closed.set()
    if self._printed != (self._done, self._facts):
      self._print()

  def _print(self) -> None:
    self._printed_at = self._clock()
    self._printed = self._done, self._facts
    elapsed = self._printed_at - self._started
    rate = (self._done - (self._initial or 0)) / elapsed if elapsed > 0 else 0.0
    parts = [f"{duration(elapsed)}  {self._label}  {self._done}/{self._total} {self._unit}"]
    if rate > 0:
      parts.append(f"{rate:.3g}/s")
      # The time before the first progress is left out: compilation happens once.
      since, before = self._first_progress or (self._started, self._initial or 0)
      if since < self._printed_at and before < self._done < self._total:
        pace = (self._done - before) / (self._printed_at - since)
        parts.append(f"{duration((self._total - self._done) / pace)} left")
    self._write("  ".join([*parts, self._facts]).rstrip())


def _interval(elapsed: float, longest: float) -> float:
  """Seconds between plain progress lines, after `elapsed` seconds."""
  return min(max(MIN_INTERVAL, elapsed / 20), longest)


def duration(seconds: float) -> str:
  """Formats a duration as 1:02:03, or as 2:03 below an hour."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _facts(facts: dict[str, Any]) -> str:
  return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
