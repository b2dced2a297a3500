import io

import pytest

from distill_jax import console, round_text

ROW = {
  "round": 1,
  "exam": {"accuracy": 0.412, "n": 1000, "mistakes": 588},
  "teacher": {"calls": 300, "cache_hits": 12, "tokens": 41210, "dollars": 0.0123},
  "kept": 288,
  "dropped": {"duplicate": 2, "wrong_answer": 10},
  "steps": 400,
  "loss": 0.12345,
  "validation": {"accuracy": 0.715, "low": 0.649, "high": 0.773, "n": 200},
  "no_mistakes": False,
}
BARE = {"round": 0, "exam": None, "teacher": None, "kept": 0, "dropped": None, "validation": None}


class Screen(io.StringIO):
  """An output file that may be a terminal and supports only the characters of its encoding."""

  def __init__(self, terminal: bool = False, encoding: str = "utf-8"):
    super().__init__()
    self._terminal, self._encoding = terminal, encoding

  def isatty(self) -> bool:
    return self._terminal

  @property
  def encoding(self) -> str:
    return self._encoding

  def write(self, text: str) -> int:
    text.encode(self._encoding)
    return super().write(text)


class Clock:
  now = 100.0

  def __call__(self) -> float:
    return self.now


@pytest.fixture
def screen(monkeypatch):
  for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    monkeypatch.delenv(name, raising=False)
  return Screen()


def test_a_round_shows_its_accuracies_and_then_their_costs(screen):
  console.Console(file=screen).round_row(ROW)
  assert screen.getvalue().splitlines() == [
    "round 1  exam 41.2 % (588 of 1000 wrong)  validation 71.5 % [64.9, 77.3]",
    "  teacher 300 calls, 12 cached, 41210 tokens, $0.0123",
    "  kept 288, dropped 12 (wrong_answer 10, duplicate 2)  400 steps, loss 0.1235",
  ]


WIDEST = {
  "round": 12,
  "exam": {"accuracy": 0.99999, "n": 99999, "mistakes": 99999},
  "teacher": {"calls": 99999, "cache_hits": 99999, "tokens": 999999999, "dollars": 99999.9999},
  "kept": 99999,
  "dropped": {"wrong_answer": 99999, "wrong_form": 99999, "duplicate": 99999, "unreadable": 99999},
  "contrasts": 99999,
  "pairs": 99999,
  "steps": 99999,
  "loss": 12345.5,
  "validation": {"accuracy": 1.0, "low": 0.99999, "high": 1.0, "n": 99999},
}


@pytest.mark.parametrize("row", [ROW, BARE, WIDEST, {**WIDEST, "dropped": {}}])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_of_a_round_is_wider_than_80_columns(screen, row, terminal, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  screen._terminal = terminal
  console.Console(file=screen).round_row(row)
  lines = screen.getvalue().splitlines()
  assert max(map(len, lines)) <= 80 and lines[0].startswith(f"round {row['round']}")
  if row is WIDEST:
    text = " ".join(lines)
    for fact in ("(99999 of 99999 wrong)", "validation 100.0 % [100.0, 100.0]", "kept 99999"):
      assert fact in text
    assert "99999 steps, 99999 triplets, 99999 pairs, loss 12345.5000" in text


@pytest.mark.parametrize("missing", [name for name in ROW if name != "round"])
def test_a_round_that_lacks_a_part_is_still_shown(screen, missing):
  shown = console.Console(file=screen)
  shown.round_row({**ROW, missing: None})
  shown.rounds_table([{k: v for k, v in ROW.items() if k != missing}])
  assert screen.getvalue().startswith("round 1  ")


def test_the_table_has_one_row_per_round_and_marks_the_best(screen):
  shown = console.Console(file=screen)
  shown.round_row(BARE)
  shown.rounds_table([BARE, ROW], best=1)
  lines = [line.split() for line in screen.getvalue().splitlines() if line.strip()]
  assert lines[0] == ["round", "0"]
  assert lines[-2] == ["0", "-", "-", "-", "-", "-", "-", "0", "0", "0", "-", "-", "-"]
  assert lines[-1][:5] == ["1", "*", "41.2", "%", "588"]
  assert lines[-1][-5:] == ["71.5", "%", "64.9", "-", "77.3"]


def test_a_round_without_teacher_calls_needs_no_teacher_facts(screen):
  shown = console.Console(file=screen)
  shown.round_row({**ROW, "teacher": {}})
  shown.rounds_table([{**ROW, "teacher": {}}])
  assert "teacher" not in screen.getvalue()


HOSTILE = [
  ("[red]not markup[/red] [/] :smile:", "[red]not markup[/red] [/] :smile:"),
  ("\x1b[31mred\x1b[0m", "red"),
  ("\x1b]0;title\x07text", "text"),
  ("\x1b]8;;http://x\x1b\\link", "link"),
  ("bell\x07 back\x08 \x9b31m", "bell\ufffd back\ufffd \ufffd31m"),
  ("a\rb", "a\ufffdb"),
  ("\u202egnp.exe", "\ufffdgnp.exe"),
  ("lone \ud800 surrogate", "lone \ufffd surrogate"),
  ("a\u2028b", "a\ufffdb"),
  ("é × − 漢", "é × − 漢"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_shown_literally(screen, text, shown, terminal):
  screen._terminal = terminal
  out = console.Console(file=screen)
  out.line(text)
  out.examples([(text, text, text, text)])
  with out.progress(text, 1, "x") as bar:
    bar.update(1, said=text)
  assert console.plain(text) == shown
  assert screen.getvalue().splitlines()[0] == shown
  assert "\x07" not in screen.getvalue() and "\u202e" not in screen.getvalue()
  if not terminal:
    assert "\x1b" not in screen.getvalue()


def test_characters_the_encoding_lacks_are_shown_as_question_marks():
  screen = Screen(encoding="ascii")
  shown = console.Console(file=screen)
  shown.line("2 × 3 − é")
  shown.rounds_table([ROW])
  with shown.progress("é", 1, "x") as bar:
    bar.update(1)
  assert screen.getvalue().startswith("2 ? 3 ? ?\n")


def test_examples_keep_their_line_breaks(screen):
  console.Console(file=screen).examples([("How many?", "3\nAnswer: 3", "2 + 2\nAnswer: 4", "4")])
  assert screen.getvalue().splitlines() == [
    "example 1",
    "  question  How many?",
    "  before    3",
    "            Answer: 3",
    "  after     2 + 2",
    "            Answer: 4",
    "  gold      4",
  ]


def test_without_a_terminal_progress_is_a_line_every_few_seconds_and_one_at_the_end(screen):
  clock = Clock()
  with console.Console(file=screen, clock=clock).progress("round 1 exam", 400, "attempts") as bar:
    bar.update(100)  # done by an earlier process
    for done in range(110, 310, 10):
      clock.now += 1
      bar.update(done, right=done // 2, loss=0.123456)
  assert screen.getvalue().splitlines() == [
    "0:05  round 1 exam  150/400 attempts  10/s  0:25 left  right 75  loss 0.1235",
    "0:10  round 1 exam  200/400 attempts  10/s  0:20 left  right 100  loss 0.1235",
    "0:15  round 1 exam  250/400 attempts  10/s  0:15 left  right 125  loss 0.1235",
    "0:20  round 1 exam  300/400 attempts  10/s  0:10 left  right 150  loss 0.1235",
  ]


def test_the_time_left_excludes_the_time_before_the_first_step(screen):
  clock = Clock()
  with console.Console(file=screen, clock=clock).progress("round 0 train", 60, "steps") as bar:
    bar.update(0)
    for passed, done in ((30, 10), (5, 20), (5, 30)):
      clock.now += passed
      bar.update(done)
  assert screen.getvalue().splitlines() == [
    "0:30  round 0 train  10/60 steps  0.333/s",
    "0:35  round 0 train  20/60 steps  0.571/s  0:20 left",
    "0:40  round 0 train  30/60 steps  0.75/s  0:15 left",
  ]


def test_slow_progress_is_reported_every_minute(screen):
  clock = Clock()
  with console.Console(file=screen, clock=clock).progress("exam", 10**6, "attempts") as bar:
    for done in range(360):
      clock.now += 10
      bar.update(done)
  assert 60 <= len(screen.getvalue().splitlines()) < 60 + 60


def test_waiting_for_a_day_is_not_reported_every_few_seconds(screen):
  clock = Clock()
  with console.Console(file=screen, clock=clock).progress("batches", 10, "replies") as bar:
    for _ in range(24 * 360):
      clock.now += 10
      bar.update(0)
  assert 24 * 6 < len(screen.getvalue().splitlines()) < 24 * 6 + 100


def test_a_very_short_phase_prints_one_line(screen):
  with console.Console(file=screen, clock=Clock()).progress("round 0 train", 3, "steps") as bar:
    bar.update(3, loss=1.5)
  assert screen.getvalue() == "0:00  round 0 train  3/3 steps  loss 1.5\n"


def test_progress_is_reported_when_an_exception_is_raised(screen):
  with pytest.raises(ValueError), console.Console(file=screen).progress("x", 9, "y") as bar:
    bar.update(4)
    raise ValueError
  assert "4/9 y" in screen.getvalue()


def test_a_compilation_is_announced_and_timed(screen):
  clock = Clock()
  with console.Console(file=screen, clock=clock).compiling("the train step for rows of 256"):
    assert screen.getvalue() == "compiling the train step for rows of 256 (first time)\n"
    clock.now += 3.21
  assert screen.getvalue().splitlines()[1:] == ["compiled in 3.2 s"]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_state_of_several_jobs_is_shown_now_and_then(screen, terminal):
  screen._terminal, clock = terminal, Clock()
  with console.Console(file=screen, clock=clock).status() as show:
    for n in range(100):
      clock.now += 1
      show(lambda n=n: [f"one\x07 {n}", f"two {n}"])
  text = screen.getvalue()
  assert "one\ufffd 4\ntwo 4" in text and "two 99" in text and "\x07" not in text
  assert len(text.splitlines()) == 40 or terminal


def test_in_a_terminal_progress_is_a_bar_and_lines_are_printed_above_it(screen):
  screen._terminal = True
  shown = console.Console(file=screen)
  with shown.progress("exam", 4, "attempts") as bar:
    bar.update(2, right=1)
    shown.line("a line")
    bar.update(4, right=3)
  text = screen.getvalue()
  assert "exam" in text and "4/4" in text and "right 3" in text and "a line\n" in text


def test_a_quiet_console_prints_only_warnings(screen):
  shown = console.Console(quiet=True, file=screen)
  shown.line("x")
  shown.round_row(ROW)
  shown.rounds_table([ROW])
  shown.examples([("a", "b", "c", "d")])
  with shown.progress("x", 2, "y") as bar:
    bar.update(2)
  assert screen.getvalue() == ""
  shown.warn("[b]careful[/b]")
  assert screen.getvalue() == "warning: [b]careful[/b]\n"


@pytest.mark.parametrize(
  ("seconds", "shown"),
  [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3599.7, "1:00:00"), (90061, "25:01:01")],
)
def test_durations_are_formatted_like_a_clock(seconds, shown):
  assert console.duration(seconds) == shown


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_loses_columns_but_never_digits(width, monkeypatch):
  monkeypatch.setenv("COLUMNS", str(width))
  file = io.StringIO()
  row = {
    "round": 3,
    "exam": {"accuracy": 0.849, "n": 8000, "mistakes": 1209},
    "teacher": {"calls": 911, "cache_hits": 7, "tokens": 245630, "dollars": 0.1234},
    "kept": 531,
    "dropped": {"duplicate": 345},
    "steps": 350,
    "loss": 0.0655,
    "validation": {"accuracy": 0.927, "low": 0.891, "high": 0.951, "n": 300},
  }
  shown = console.Console(file=file)
  shown._rich.width = width
  shown.rounds_table([row], best=3)
  text = file.getvalue()
  assert "…" not in text and "..." not in text
  for kept in ("3 *", "84.9 %", "531", "92.7 %", "89.1 - 95.1"):
    assert kept in text
  assert ("245630" in text) == (width == 140)


def test_rounds_are_plotted_in_a_terminal_only():
  def row(index, low, accuracy, high, exam=None):
    exam = None if exam is None else {"accuracy": exam, "n": 9, "mistakes": 1}
    score = {"accuracy": accuracy, "low": low, "high": high, "n": 9}
    return {"round": index, "validation": score, "exam": exam}

  rows = [row(0, 0.0, 0.0, 0.25, 0.0), row(1, 0.25, 0.5, 0.75), row(10, 0.9, 1.0, 1.0, 1.0)]
  title, *bars = round_text.plot(rows)
  assert len(bars) == 3 and all(len(line) == round_text.WIDTH for line in bars)
  assert len(title) <= round_text.WIDTH and all(line.isascii() for line in bars)
  counts = [(line.count("#"), line.count("="), line.count("o") - 1) for line in bars]
  width = bars[0].rindex("|") - bars[0].index("|") - 1
  assert [sum(c) for c in counts] == [round(0.25 * width), round(0.75 * width), width]
  assert counts[1][0] == round(0.25 * width) and bars[2].endswith("100.0 %")
  assert (
    round_text.plot(rows[:1]) == [] and round_text.plot([{"round": 0, "validation": None}]) == []
  )
  for terminal in (True, False):
    out = io.StringIO()
    out.isatty = lambda terminal=terminal: terminal
    console.Console(file=out).rounds_plot(rows)
    assert ("round 10" in out.getvalue()) == terminal
