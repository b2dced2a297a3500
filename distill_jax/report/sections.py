"""The first page of a run's report: tables and charts that need no script."""

from collections.abc import Sequence
from typing import Any

from distill_jax import console, plan, records
from distill_jax.report import alarms, charts, layout, numbers
from distill_jax.report.load import Phase, Run
from distill_jax.report.nodes import Child, Html, join, tag

EXAMPLES = 3  # dropped replies that are shown of each reason
ORDER = ("asked", "replied", "readable", "right", "kept")
FATES = (  # parts of the bars of requested rationales, with their colors
  ("kept", 0),
  ("repeated or without reasoning", 4),
  ("wrong answer", 1),
  ("unreadable", 3),
  ("no reply", 7),
)
CURVES = (  # charts of training: title, metrics drawn together
  ("loss", ("loss",)),
  ("parts of the loss", ("sft", "triplet", "preference", "nll")),
  ("gradient norm", ("grad_norm",)),
  ("margin (nats)", ("margin",)),
  ("log-probability of chosen and rejected (nats)", ("chosen", "rejected")),
  ("KL from the reference (nats)", ("kl",)),
  ("pairs with a positive margin", ("accuracy",)),
)


def state(run: Run) -> str:
  """Describes in a few words whether a run is finished, and what it does otherwise."""
  if run.summary:
    return "finished"
  for split, phase in run.finals.items():
    if not phase.finished:
      return f"unfinished: in the final test ({split})"
  for index in reversed(run.rounds):
    if unfinished := [p.name for p in run.rounds[index] if not p.finished]:
      return f"unfinished: in round {index}, phase {unfinished[0]}"
    return f"unfinished: after round {index}, phase {run.rounds[index][-1].name}"
  return "not started"


def tiles(run: Run, rows: Sequence[dict[str, Any]]) -> Html:
  """Returns the key figures."""
  total = numbers.teacher_use([p for phases in run.rounds.values() for p in phases])
  best = run.best
  figures: list[tuple[str, str, str]] = []
  if best is not None:
    score = next(r["validation"] for r in rows if r["round"] == best)
    figures.append(
      (f"validation, round {best} (best)", layout.percent(score["accuracy"]), layout.span(score))
    )
  for split, phase in run.finals.items():
    if phase.finished:
      score = numbers.accuracy(phase.verdicts)
      figures.append(
        (split.replace("_", " "), layout.percent(score["accuracy"]), layout.span(score))
      )
  cached = f"{total['cache_hits']:,} more from the cache" if total["cache_hits"] else "none cached"
  figures.append(("teacher calls", f"{total['calls']:,}", cached))
  figures.append(("cost", layout.dollars(total["dollars"]), f"{total['tokens']:,} tokens"))
  if run.seconds:
    figures.append(("run time", console.duration(run.seconds), "over all restarts"))
  return tag(
    "div",
    *(
      tag("div", tag("span", name), tag("strong", value), tag("small", more), class_="tile")
      for name, value, more in figures
    ),
    class_="tiles",
  )


def accuracy(run: Run, rows: Sequence[dict[str, Any]], others: Sequence[Run]) -> Html:
  """Returns accuracy by round: chart, table, and paired differences to round 0."""
  drawn = [_validation(run, "validation")]
  exams = [(r["round"], r["exam"]["accuracy"]) for r in rows if r["exam"]]
  drawn.append(charts.Series("training questions (exam, before the round)", exams))
  drawn += [_validation(other, f"validation of {other.name}") for other in others]
  chart = charts.lines("accuracy by round", drawn, x_label="round", percent=True, points=True)
  first = run.phase(min(run.rounds), "evaluate") if run.rounds else None
  body = _untrained(run)
  for r in rows:
    phase, before = run.phase(r["round"], "evaluate"), run.phase(r["round"] - 1, "evaluate")
    to_first = numbers.difference(phase.verdicts, first.verdicts) if phase and first else None
    to_last = numbers.difference(phase.verdicts, before.verdicts) if phase and before else None
    name = f"{r['round']} (best)" if r["round"] == run.best else str(r["round"])
    body.append(
      (
        name,
        layout.scored(r["validation"]),
        layout.percent(r["exam"]["accuracy"]) if r["exam"] else "–",
        f"{r['exam']['mistakes']:,} of {r['exam']['n']:,}" if r["exam"] else "–",
        layout.points(to_last),
        f"{to_last.gained} / {to_last.lost}" if to_last else "–",
        f"{to_last.p:.2g}" if to_last else "–",
        layout.points(to_first) if r["round"] != min(run.rounds) else "–",
      )
    )
  head = ("round", "validation (95% CI)", "exam", "mistakes", "change to the round before",
          "gained / lost", "p", "change to round 0")  # fmt: skip
  note = (
    "The exam of a round asks training questions of the student of the round before. Changes are "
    "in points with 95% bootstrap intervals, on the same questions; p is McNemar's test."
  )
  return layout.section(
    "Accuracy by round",
    layout.grid(chart, _forest(run)),
    layout.table(head, body),
    layout.note(note),
  )


def _untrained(run: Run) -> list[Sequence[Child]]:
  """Returns the rows of the student before training, as summary.json has them."""
  found = run.summary.get("base", []) if run.summary else []
  return [
    (f"base, {r['shots']} worked examples" if r["shots"] else "base",
     layout.scored(r["validation"]), *["–"] * 6)
    for r in found
  ]  # fmt: skip


def _validation(run: Run, name: str) -> charts.Series:
  scores = {
    index: numbers.accuracy(phase.verdicts)
    for index in run.rounds
    if (phase := run.phase(index, "evaluate"))
  }
  return charts.Series(
    name,
    [(index, score["accuracy"]) for index, score in scores.items()],
    [score["low"] for score in scores.values()],
    [score["high"] for score in scores.values()],
  )


def _forest(run: Run) -> Html:
  """Returns the paired change of each round to the one before as a chart."""
  rows = []
  for index in run.rounds:
    now, before = run.phase(index, "evaluate"), run.phase(index - 1, "evaluate")
    if now and before and (change := numbers.difference(now.verdicts, before.verdicts)):
      label = f"round {index} − round {index - 1}"
      rows.append((label, 100 * change.mean, 100 * change.low, 100 * change.high))
  return layout.differences("change of validation accuracy, points", rows)


def finals(run: Run, others: Sequence[Run]) -> Html:
  """Returns the scores of the final test, and paired differences to other runs."""
  body, tested = [], []
  for split, phase in run.finals.items():
    if not phase.finished:
      continue
    tested.append(phase.facts["measured"]["round"])
    cells: list[Child] = [split.replace("_", " "), layout.scored(numbers.accuracy(phase.verdicts))]
    for other in others:
      change = paired(run, other, split)
      theirs = other.finals[split].verdicts if change else None
      cells += [layout.scored(theirs and numbers.accuracy(theirs)), layout.signed(change)]
    body.append(cells)
  if not body:
    return Html("")
  head = ["split", f"{run.name} (95% CI)" if others else "accuracy (95% CI)"]
  for other in others:
    head += [other.name, f"difference to {other.name}"]
  rounds = ", ".join(map(str, sorted(set(tested))))
  note = f"Scores of the student of round {rounds}." + (
    " A dash: the other run was not tested on the same questions." if others else ""
  )
  return layout.section(
    "Test and out of domain", layout.table(head, body), layout.note(note), name="final"
  )


def paired(run: Run, other: Run, split: str) -> numbers.Difference | None:
  """Compares two runs on a split of the final test; None without the same questions in both."""
  mine, theirs = run.finals.get(split), other.finals.get(split)
  if not mine or not theirs or not mine.finished or not theirs.finished:
    return None
  for question in mine.verdicts:
    asked, also = run.questions.get(question), other.questions.get(question)
    if not asked or not also or (asked.question, asked.gold) != (also.question, also.gold):
      return None
  return numbers.difference(mine.verdicts, theirs.verdicts)


def cost(run: Run, rows: Sequence[dict[str, Any]]) -> Html:
  """Returns what the teacher cost, by round and phase, and what it bought."""
  body: list[Sequence[Child]] = []
  for index, phases in run.rounds.items():
    for phase in phases:
      if used := phase.facts.get("teacher"):
        tokens, calls = used["tokens"], used["calls"]
        each = f"{tokens / calls:,.0f}" if calls else "–"
        body.append((f"{index} {phase.name}", f"{calls:,}", f"{used['cache_hits']:,}",
                     f"{tokens:,}", each, layout.dollars(used['dollars']),
                     f"{len(phase.rationales):,}"))  # fmt: skip
  head = ("round, phase", "calls", "cached", "tokens", "tokens a call", "dollars", "kept")
  right = _newly_right(run, rows)
  chart = charts.stacked(
    "teacher calls by round",
    [(f"round {r['round']}", (r["teacher"]["calls"], r["teacher"]["cache_hits"])) for r in rows],
    (("paid calls", 0), ("from the cache", 1)),
  )
  return layout.section(
    "Teacher cost", layout.grid(chart), layout.table(head, body) if body else None, right
  )


def _newly_right(run: Run, rows: Sequence[dict[str, Any]]) -> Html:
  """Returns dollars and calls of each round per validation question that it turned right."""
  body = []
  for r in rows:
    now, before = run.phase(r["round"], "evaluate"), run.phase(r["round"] - 1, "evaluate")
    change = numbers.difference(now.verdicts, before.verdicts) if now and before else None
    if change is None:
      continue
    use, gained = r["teacher"], change.gained
    per = ("–", "–")
    if gained:
      per = (f"{use['calls'] / gained:,.1f}", layout.dollars(use["dollars"] / gained))
    body.append((r["round"], gained, change.lost, *per))
  if not body:
    return Html("")
  head = ("round", "newly right", "newly wrong", "calls for each", "dollars for each newly right")
  note = "Newly right: validation questions that the round before got wrong and this one right."
  return join([layout.table(head, body), layout.note(note)])


def training(run: Run) -> Html:
  """Returns the training curves over the steps of all rounds."""
  found, starts = numbers.curves(run)
  drawn = []
  for title, names in CURVES:
    series = [
      charts.Series(name, points)
      for name, points in found.items()
      if name.partition(" ")[0] in names
    ]
    if series and not all(not y for s in series for _, y in s.points):
      drawn.append(charts.lines(title, series, x_label="step", marks=starts))
  note = "Each point is a mean over train.log_every steps. Dashed lines: a phase begins."
  return layout.section("Training", layout.grid(*drawn), layout.note(note)) if drawn else Html("")


def data(run: Run) -> Html:
  """Returns where the requested rationales went, with examples of what was dropped."""
  body, bars, details = [], [], []
  for index, phases in run.rounds.items():
    for phase in (p for p in phases if p.name in plan.WRITERS and p.finished):
      reasons = phase.facts.get("dropped", {})
      counts = numbers.flow(len(phase.rationales), reasons)
      listed = ", ".join(f"{name} {n:,}" for name, n in sorted(reasons.items()) if n)
      label = f"{index} {phase.name}"
      body.append((label, *(f"{counts[name]:,}" for name in ORDER), listed or "–"))
      steps = [counts["kept"], *(counts[a] - counts[b] for b, a in _falling())]
      bars.append((label, steps))
      details += _examples(run, label, phase)
  if not body:
    return Html("")
  head = ("round, phase", *ORDER, "dropped because")
  return layout.section(
    "Where data went", layout.grid(charts.stacked("requested rationales", bars, FATES)),
    layout.table(head, body, last="left"), *details, name="data",
  )  # fmt: skip


def _falling() -> list[tuple[str, str]]:
  """Returns (later, earlier) of neighboring columns of ORDER, last first."""
  return [(ORDER[n], ORDER[n - 1]) for n in range(len(ORDER) - 1, 0, -1)]


def _examples(run: Run, label: str, phase: Phase) -> list[Html]:
  """Returns examples of each reason, folded."""
  found: dict[str, list[records.Dropped]] = {}
  for example in phase.dropped:
    found.setdefault(example.reason, []).append(example)
  shown = []
  for reason, examples in sorted(found.items()):
    blocks = []
    for example in examples[:EXAMPLES]:
      question = run.questions.get(example.problem)
      asked = layout.excerpt(layout.rendered(question))
      blocks += [
        tag("dt", "question ", example.problem), tag("dd", asked),
        tag("dt", "gold"), tag("dd", question.gold if question else "?"),
        tag("dt", "reply"), tag("dd", layout.excerpt(example.text)),
      ]  # fmt: skip
    count = len(examples[:EXAMPLES])
    title = f"{label}: {count} example{'s' if count > 1 else ''} of {reason}"
    shown.append(tag("details", tag("summary", title), tag("dl", *blocks)))
  return shown


def by_group(run: Run) -> Html:
  """Returns accuracy by subject, answer kind, steps and length, of every round and split."""
  parts = []
  phases = {
    f"round {index}": phase for index in run.rounds if (phase := run.phase(index, "evaluate"))
  }
  splits = [("validation", phases)]
  splits += [(name, {name.replace("_", " "): p}) for name, p in run.finals.items() if p.finished]
  for split, scored_phases in splits:
    groups = numbers.groups(run, split)
    if not groups or not scored_phases:
      continue
    body = [
      (f"{group.by}: {group.name}", len(group.ids), *(
        _share(phase, group) for phase in scored_phases.values()))
      for group in groups
    ]  # fmt: skip
    heading = tag("h3", split.replace("_", " "))
    parts.append(join([heading, layout.table(("group", "questions", *scored_phases), body)]))
  return layout.section("By skill, kind, steps and length", *parts, name="groups")


def _share(phase: Phase, group: numbers.Group) -> str:
  verdicts = {q: right for q, right in phase.verdicts.items() if q in group.ids}
  score = numbers.accuracy(verdicts)
  if not verdicts:
    return "–"
  return f"{layout.percent(score['accuracy'])} ({100 * score['low']:.0f}–{100 * score['high']:.0f})"


def health(run: Run) -> Html:
  """Returns alarms; cut, unreadable and repeated attempts; and rows that did not fit."""
  body: list[Sequence[Child]] = []
  places = [(f"{i} {p.name}", p) for i, phases in run.rounds.items() for p in phases]
  for label, phase in [*places, *run.finals.items()]:
    if phase.attempts:
      h = numbers.health(phase.attempts)
      state = label if phase.finished else f"{label} (so far)"
      body.append((state.replace("_", " "), f"{h.n:,}", _count(h.cut, h.n), _count(h.unread, h.n),
                   _count(h.repeated, h.n)))  # fmt: skip
  attempts = layout.table(
    ("round, phase", "attempts", "cut", "unreadable answer", "same text"), body
  )
  rows = [
    (label, *(f"{n:,}" for n in numbers.fits(phase)), f"{phase.facts.get('lost_contrasts', 0):,}")
    for label, phase in places
    if "too_long" in phase.facts
  ]  # fmt: skip
  head = ("round, phase", "rows", "rows that did not fit", "contrasts that did not fit")
  note = (
    "Cut: the attempt reached max_new_tokens. Same text: another attempt at the same question says "
    "the same."
  )
  fits = layout.table(head, rows) if rows else None
  return layout.section(
    "Health", _alarms(run), attempts if body else None, fits, layout.note(note) if body else None
  )


def _alarms(run: Run) -> Html | None:
  """Returns what deserves a look, as a list."""
  found = alarms.of_run(run)
  return tag("ul", *(tag("li", text) for text in found), class_="alarms") if found else None


def _count(n: int, total: int) -> str:
  return f"{n:,} ({100 * n / total:.1f} %)" if total else "0"


def settings(run: Run, others: Sequence[Run]) -> Html:
  """Returns what differs from the other runs, and all settings and versions, folded."""
  parts: list[Html] = []
  for other in others:
    rows = numbers.changed_settings(run.config, other.config)
    body = [(key, _json(mine), _json(theirs)) for key, mine, theirs in rows]
    title = tag("summary", f"{len(body)} settings differ from {other.name}")
    differs = layout.table(("setting", run.name, other.name), body, left=3)
    parts.append(tag("details", title, differs, open=True))
  every = [(key, _json(value)) for key, value, _ in numbers.changed_settings(run.config, {})]
  listed = layout.table(("setting", "value"), every, left=2)
  parts.append(tag("details", tag("summary", f"all {len(every)} settings"), listed))
  if run.summary and isinstance(versions := run.summary.get("versions"), dict):
    listed = layout.table(("package", "version"), sorted(versions.items()), left=2)
    parts.append(tag("details", tag("summary", "versions"), listed))
  return layout.section("Settings", *parts)


def first_page(run: Run, others: Sequence[Run]) -> list[Html]:
  """Returns the sections of the first page, without those that have nothing to show."""
  rows = [numbers.row(run, index) for index in run.rounds]
  parts = [tiles(run, rows)]
  if any(r["validation"] or r["exam"] for r in rows):
    parts.append(accuracy(run, rows, others))
  parts += [finals(run, others), cost(run, rows) if rows else Html(""), training(run), data(run)]
  parts += [by_group(run), health(run), settings(run, others)]
  return [part for part in parts if part]


def _json(value: Any) -> str:
  return "–" if value is None else '""' if value == "" else str(value)
