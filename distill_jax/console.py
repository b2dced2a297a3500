"""What a person sees: bars in a terminal, a plain line every few seconds elsewhere, a row a round.

Text of teachers and students is printed as it is, never as markup, and without control characters.
"""

import contextlib
import re
import sys
import threading
import time
import types
import unicodedata

from rich import box, progress, table
from rich import console as rich_console
from rich import text as rich_text

EVERY, AT_MOST = 5.0, 600.0  # seconds between plain lines: a twentieth of what has passed
WIDTH = 140  # columns, where there is no terminal to ask

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


COLUMNS = (
  *("round", "exam", "mistakes", "calls", "cached", "tokens", "dollars", "kept", "dropped"),
  *("steps", "loss", "validation", "95 % interval"),
)
FIRST_TO_GO = (
  "dollars",
  "cached",
  "tokens",
  "dropped",
  "calls",
  "steps",
  "loss",
  "mistakes",
)  # when narrow


def plain(text: str) -> str:
  """The text without terminal escapes, control characters, direction overrides; line ends stay."""
  text = _ESCAPES.sub("", text.replace("\r\n", "\n")).expandtabs(2)
  return "".join(c if c == "\n" or not _unprintable(c) else "\ufffd" for c in text)


def _unprintable(c: str) -> bool:
  return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _DIRECTIONS


class Console:
  """Prints to `file` (standard output). If quiet, warnings and nothing else."""

  def __init__(self, quiet: bool = False, file=None, clock=time.monotonic):
    file = file or sys.stdout
    width = None if file.isatty() else WIDTH
    self._rich = rich_console.Console(
      file=file, width=width, highlight=False, markup=False, emoji=False
    )
    self._quiet, self._clock = quiet, clock
    self._encoding = getattr(file, "encoding", None) or "utf-8"

  def line(self, text: str = "") -> None:
    if not self._quiet:
      self._print(text)

  def warn(self, text: str) -> None:
    self._print(f"warning: {text}", "bold yellow")

  def columns(self, rows, *, right) -> None:
    """Rows of texts as plain lines, aligned; `right` says which columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
      parts = [
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(row, widths, right, strict=True)
      ]
      self.line("  ".join(parts).rstrip())

  def round_row(self, row: dict) -> None:
    """One line for a round, in the format of summary.json; parts that are None are left out."""
    self.line("  ".join([f"round {row['round']}", *filter(None, _parts(row))]))

  def rounds_table(self, rows: list[dict], best: int | None = None) -> None:
    """All rounds; the best one is marked."""
    if self._quiet:
      return
    shown = self._table(rows, best, range(len(COLUMNS)))
    unbounded = self._rich.options.update(max_width=1000)
    for narrower in range(1, len(FIRST_TO_GO) + 1):
      if self._rich.measure(shown, options=unbounded).maximum <= self._rich.width:
        break
      gone = FIRST_TO_GO[:narrower]
      shown = self._table(rows, best, [n for n, name in enumerate(COLUMNS) if name not in gone])
    self._rich.print(shown)

  def _table(self, rows, best, places) -> table.Table:
    """The table of rounds with the columns at `places`."""
    style = box.SIMPLE_HEAD if self._encoding.lower() == "utf-8" else box.ASCII_DOUBLE_HEAD
    shown = table.Table(box=style)
    for place in places:
      shown.add_column(COLUMNS[place], justify="right", no_wrap=True)
    for row in rows:
      style = "bold green" if row["round"] == best else ""
      cells = _cells(row, best)
      shown.add_row(*(rich_text.Text(cells[place], style) for place in places))
    return shown

  def examples(self, examples) -> None:
    """(question, before, after, gold) of questions answered wrong before and right after."""
    for number, (question, before, after, gold) in enumerate(examples, 1):
      self.line(f"example {number}")
      for label, text, style in (
        ("question", question, ""),
        ("before", before, "red"),
        ("after", after, "green"),
        ("gold", gold, ""),
      ):
        self._block(label, text, style)

  @contextlib.contextmanager
  def progress(self, label: str, total: int, unit: str):
    """Yields a bar with update(done, **facts), where `done` counts from 0 to `total` in `unit`s."""
    if self._quiet:
      yield types.SimpleNamespace(update=lambda done, **facts: None)
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

  def _block(self, label: str, text: str, style: str) -> None:
    if not self._quiet:
      for n, part in enumerate(plain(text).split("\n")):
        self._print(f"  {label if n == 0 else '':<9} {part}", style)

  def _print(self, text: str, style: str = "") -> None:
    shown = plain(text).encode(self._encoding, "replace").decode(self._encoding)
    self._rich.print(rich_text.Text(shown, style), soft_wrap=True)


class _Bar:
  def __init__(self, bars, task):
    self._bars, self._task = bars, task

  def update(self, done: int, **facts) -> None:
    self._bars.update(self._task, completed=done, facts=_facts(facts))


class _Cell(progress.ProgressColumn):
  """A field of the task as text, never as markup."""

  def __init__(self, field: str):
    super().__init__()
    self._field = field

  def render(self, task):
    return rich_text.Text(plain(task.fields[self._field]))


class _Lines:
  """Says how far it is every few seconds, seldomer the longer it takes, and at the end."""

  def __init__(self, say, clock, label, total, unit):
    self._say, self._clock, self._label, self._total, self._unit = say, clock, label, total, unit
    self._begun = self._told = clock()
    self._first = None  # what a run before this one had done
    self._moving = None  # when something was done for the first time, and how much then
    self._done, self._facts, self._shown = 0, "", None
    self._closed = threading.Event()
    threading.Thread(target=self._breathe, daemon=True).start()

  def _breathe(self) -> None:
    """Says something also while nothing gets done: a program compiles, a server is slow."""
    while not self._closed.wait(EVERY):
      if self._due():
        self._tell()

  def update(self, done: int, **facts) -> None:
    self._first = done if self._first is None else self._first
    if self._moving is None and done > self._first:
      self._moving = self._clock(), done
    self._done, self._facts = done, _facts(facts)
    if self._due():
      self._tell()

  def _due(self) -> bool:
    now = self._clock()
    return now - self._told >= min(max(EVERY, (now - self._begun) / 20), AT_MOST)

  def close(self) -> None:
    self._closed.set()
    if self._shown != (self._done, self._facts):
      self._tell()

  def _tell(self) -> None:
    self._told = self._clock()
    self._shown = self._done, self._facts
    elapsed = self._told - self._begun
    rate = (self._done - (self._first or 0)) / elapsed if elapsed > 0 else 0.0
    parts = [f"{duration(elapsed)}  {self._label}  {self._done}/{self._total} {self._unit}"]
    if rate > 0:
      parts.append(f"{rate:.3g}/s")
      since, before = self._moving or (self._begun, self._first)
      if since < self._told and before < self._done < self._total:  # compiling happens once
        pace = (self._done - before) / (self._told - since)
        parts.append(f"{duration((self._total - self._done) / pace)} left")
    self._say("  ".join([*parts, self._facts]).rstrip())


def duration(seconds: float) -> str:
  """1:02:03, or 2:03 below an hour."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _facts(facts: dict) -> str:
  return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())


def _share(value) -> str:
  return "-" if value is None else f"{100 * value:.1f} %"


def _parts(row: dict) -> list[str]:
  """The parts of a round's line that there is something to say about."""
  parts = {
    name: row.get(name) for name in ("exam", "teacher", "kept", "dropped", "loss", "validation")
  }
  said = []
  if exam := parts["exam"]:
    said.append(f"exam {_share(exam['accuracy'])} ({exam['mistakes']} mistakes of {exam['n']})")
  if teacher := parts["teacher"]:
    said.append(
      f"teacher {teacher['calls']} calls, {teacher['cache_hits']} cached, "
      f"{teacher['tokens']} tokens, ${teacher['dollars']:.4f}"
    )
    said.append(f"kept {parts['kept'] or 0}{_dropped(parts['dropped'])}")
  if row.get("steps"):
    said.append(
      f"{row['steps']} steps"
      + (f", {row['contrasts']} contrasts" if "contrasts" in row else "")
      + ("" if parts["loss"] is None else f", loss {parts['loss']:.4f}")
    )
  if validation := parts["validation"]:
    said.append(
      f"validation {_share(validation['accuracy'])} "
      f"[{100 * validation['low']:.1f}, {100 * validation['high']:.1f}] of {validation['n']}"
    )
  return said


def _dropped(reasons: dict | None) -> str:
  if not reasons:
    return ""
  listed = ", ".join(
    f"{name} {n}" for name, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))
  )
  return f", dropped {sum(reasons.values())} ({listed})"


def _cells(row: dict, best) -> list[str]:
  exam, teacher, validation = (row.get(name) or {} for name in ("exam", "teacher", "validation"))
  count = lambda part, name: str(part[name]) if name in part else "-"
  return [
    f"{row['round']}{' *' if row['round'] == best else ''}",
    _share(exam["accuracy"]) if exam else "-",
    count(exam, "mistakes"),
    count(teacher, "calls"),
    count(teacher, "cache_hits"),
    count(teacher, "tokens"),
    f"{teacher['dollars']:.4f}" if teacher else "-",
    str(row.get("kept") or 0),
    str(sum((row.get("dropped") or {}).values())),
    str(row.get("steps") or 0),
    "-" if row.get("loss") is None else f"{row['loss']:.4f}",
    _share(validation["accuracy"]) if validation else "-",
    f"{100 * validation['low']:.1f} - {100 * validation['high']:.1f}" if validation else "-",
  ]
