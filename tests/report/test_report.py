"""Reports: safe with hostile texts, complete without a script, and right about the numbers."""

import base64
import dataclasses
import html.parser
import json
import re
import time
import zlib

import pytest

from distill_jax import errors, records
from distill_jax.cli import main
from distill_jax.report import (
  alarms,
  charts,
  lineage,
  load,
  markdown,
  nodes,
  numbers,
  page,
  sections,
  write,
)
from tests.report import material

VOID = ("meta", "input", "br", "link")


class Parsed(html.parser.HTMLParser):
  """The elements of a page, and its text outside of scripts and styles."""

  def __init__(self, source: str):
    super().__init__(convert_charrefs=True)
    self.open, self.elements, self.text, self.scripts = [], [], [], {}
    self.feed(source)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] in ("script", "style"):
      tag, attributes = self.elements[-1]
      assert tag == self.open[-1]
      key = attributes.get("id", tag)
      self.scripts[key] = self.scripts.get(key, "") + data
    else:
      self.text.append(data)


def inflated(blob: str):
  return json.loads(zlib.decompress(base64.b64decode(blob)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
  """(run, its page, the parsed page)."""
  path = tmp_path_factory.mktemp("hostile") / "run"
  material.write_run(path)
  source = write.render(path)
  return load.read(path), source, Parsed(source)


def test_no_element_and_no_attribute_comes_from_a_text(hostile):
  _, source, parsed = hostile
  source.encode("utf-8")  # no lone surrogate
  executable = [a for tag, a in parsed.elements if tag == "script" and "type" not in a]
  assert len(executable) == 1
  attributes = {name for _, found in parsed.elements for name in found}
  assert not {name for name in attributes if name.startswith("on")} | (
    attributes & {"style", "src"}
  )
  names = {tag for tag, _ in parsed.elements}
  assert not names & {"b", "img", "iframe", "object", "form", "a", "base", "link", "question"}


def test_the_policy_allows_nothing_but_its_own_style_and_script(hostile):
  _, _, parsed = hostile
  (policy,) = (
    a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"
  )
  rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
  assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
  assert rules["style-src"] == f"'{page.digest(parsed.scripts['style'])}'"
  assert rules["script-src"] == f"'{page.digest(parsed.scripts['script'])}'"
  script = parsed.scripts["script"]
  assert not re.search(
    r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(", script
  )
  assert not re.search(r"https?:|fetch|XMLHttp|import", script)


def test_hostile_texts_are_in_the_page_as_text(hostile):
  run, _, parsed = hostile
  shown = "".join(parsed.text)
  for text in material.HOSTILE.values():
    beginning = nodes.visible(text)[:200]
    assert beginning in shown  # an example of a dropped reply
  assert not any(nodes.unprintable(c) for c in shown if c not in "\n\t")
  entries = [e for name, blob in parsed.scripts.items() if name.startswith("part-")
             for e in inflated(blob)]  # fmt: skip
  texts = [text for entry in entries for *_, text in entry[4]]
  for text in material.HOSTILE.values():
    if len(text) < lineage.LONGEST:
      assert nodes.visible(f"{text}!0") in texts  # an attempt
  assert {entry[0] for entry in entries} == {nodes.visible(q) for q in run.questions}


def test_the_history_of_a_question_is_in_the_order_of_the_run(hostile):
  run, _, _ = hostile
  history = lineage.History(run)
  kinds = [(kind, label.split(",")[0]) for kind, label, _ in history.entry("t/train/json")[4]]
  exam = [("wrong", "round 0 exam")] * 2
  taught = [("critique", "round 0"), ("rationale", "round 0")]
  assert kinds[:4] == exam + taught
  assert kinds[4:6] == [("wrong", "round 1 exam"), ("right", "round 1 exam")]
  assert history.places == [
    ("exam", 0),
    ("evaluate", 0),
    ("exam", 1),
    ("evaluate", 1),
    ("test", -1),
  ]
  assert [int(history.outcome("t/train/json")[n], 16) for n in (0, 1, 2)] == [1, 0, 3]
  cut, unread = history.outcome("t/train/markup")[0], history.outcome("t/train/escapes")[0]
  assert int(cut, 16) == lineage.SEEN | lineage.CUT
  assert int(unread, 16) == lineage.SEEN | lineage.UNREAD
  assert lineage.is_flip("103") and not lineage.is_flip("101")


def test_numbers_are_counted_from_the_records(hostile):
  run, source, _ = hostile
  row = numbers.row(run, 1)
  n = len(material.HOSTILE)
  assert row["exam"] == {"accuracy": 0.5, "n": 2 * n, "mistakes": n}
  assert (row["kept"], row["steps"], row["loss"]) == (n, 8, 0.125)
  assert row["validation"]["accuracy"] == n // 2 / n and run.best == 1
  before, now = (run.phase(k, "evaluate").verdicts for k in (0, 1))
  change = numbers.difference(now, before)
  assert change.gained - change.lost == sum(now.values()) - sum(before.values())
  assert numbers.flow(n, row["dropped"]) == {
    "asked": 2 * n + 3, "replied": 2 * n + 2, "readable": 2 * n + 2, "right": n + 2, "kept": n,
  }  # fmt: skip
  assert "$5.0000" in source  # 2 rounds of 10 calls at 25 cents


def phase_of(name: str, **fields) -> load.Phase:
  empty = {"facts": {}, "attempts": [], "verdicts": {}, "rationales": [], "dropped": [],
           "metrics": []}  # fmt: skip
  return load.Phase(name, True, **empty | fields)


def exam_of(*, cut: int = 0, unread: int = 0, paired: int = 0, count: int = 20) -> load.Phase:
  """An exam of which some attempts are bad; of each two paired ones, the second is a repetition."""
  texts = [f"pair {n // 2}" if n < paired else str(n) for n in range(count)]
  attempts = [
    material.attempt(text, text, correct=False, round_index=0,
                     finish="length" if n < cut else "stop", answer=None if n < unread else "1")
    for n, text in enumerate(texts)]  # fmt: skip
  return phase_of("exam", attempts=attempts)


def pairs_of(*chosen: float) -> list[records.Metrics]:
  return [records.Metrics(n, 1.0, 1.0, chosen=value) for n, value in enumerate(chosen)]


LOSSES = {str(n): False for n in range(40)}
WINS = {question: int(question) < 10 for question in LOSSES}
KEPT = [material.rationale("q", "so", 0)] * 10


@pytest.mark.parametrize("bad, good, said", [
  (exam_of(cut=1), exam_of(cut=1, count=21), "see exam.max_new_tokens: round 1 exam (1 of 20)."),
  (exam_of(unread=4), exam_of(unread=3), "no readable answer: round 1 exam (4 of 20)."),
  (exam_of(paired=20), exam_of(paired=18), "see exam.temperature: round 1 exam (10 of 20)."),
  (phase_of("train", facts={"examples": 40, "too_long": 2}),
   phase_of("train", facts={"examples": 41, "too_long": 2}), "buckets: round 1 {} (2 of 40)."),
  (phase_of("pair", facts={"pairs": 38, "too_long": 2}),
   phase_of("pair", facts={"pairs": 39, "too_long": 2}), "buckets: round 1 {} (2 of 40)."),
  (phase_of("feedback", rationales=KEPT, facts={"dropped": {"timeout": 10}}),
   phase_of("feedback", rationales=KEPT, facts={"dropped": {"timeout": 9}}),
   "rationales were not kept: round 1 feedback (10 of 20)."),
  (phase_of("prefer", metrics=pairs_of(-1, -2, -3, -4, -5, -6)),
   phase_of("prefer", metrics=pairs_of(-1, -2, -3, -4, -5, -4)), "prefer (-1.0 to -6.0 nats)."),
  (phase_of("evaluate", verdicts=LOSSES),
   phase_of("evaluate", verdicts=WINS), "Validation accuracy fell: round 1 (-25.0 points, "),
])  # fmt: skip
def test_what_deserves_a_look_is_an_alarm(hostile, bad, good, said):
  before, said = phase_of("evaluate", verdicts=WINS), said.format(bad.name)
  for phase, wanted in ((bad, [said]), (good, [])):
    run = dataclasses.replace(hostile[0], rounds={0: [before], 1: [phase]}, finals={})
    assert [said for text in alarms.of_run(run) if said in text] == wanted
    assert (said in markdown.of_run(run)) == bool(wanted)


def test_an_unfinished_run_has_a_report(tmp_path):
  material.write_run(tmp_path / "run", finished=False)
  source = write.render(tmp_path / "run")
  Parsed(source)
  assert "unfinished" in source
  run = load.read(tmp_path / "run")
  assert numbers.row(run, 1)["validation"] is None
  assert "| 1 |" in markdown.of_run(run)


def test_settings_are_compared_by_their_dotted_names():
  config = {"a": {"b": 1, "c": {}}, "d": ""}
  every = [("a.b", 1, None), ("a.c", {}, None), ("d", "", None)]
  assert numbers.changed_settings(config, {}) == every
  assert numbers.changed_settings(config, {**config, "d": "x"}) == [("d", "", "x")]
  assert numbers.changed_settings({}, {}) == []


def test_a_run_without_any_phase_has_a_report(tmp_path):
  run = material.write_run(tmp_path / "run")
  for path in run.path.iterdir():
    if path.name.startswith("round"):
      path.rename(tmp_path / path.name)
  (run.path / "questions.jsonl").unlink()
  (run.path / "final").rename(tmp_path / "final")
  assert "not started" in write.render(run.path)


def test_a_report_has_the_rounds_that_the_run_now_has(tmp_path):
  """A run of two rounds may go on with one; the test is then of the round that it names."""
  material.write_run(tmp_path / "run")
  config = json.loads((tmp_path / "run/config.json").read_text())
  assert load.read(tmp_path / "run").best == 1
  config["rounds"] = 0
  (tmp_path / "run/config.json").write_text(json.dumps(config))
  read = load.read(tmp_path / "run")
  assert read.best == 0 and list(read.rounds) == [0]
  read.finals["test"].facts["measured"]["round"] = 0
  assert "Scores of the student of round 0." in str(sections.finals(read, ()))


@pytest.mark.parametrize("damaged", ["3", '{"base": 3}', '{"base": [{}]}'])
def test_a_damaged_summary_is_one_line(tmp_path, damaged):
  material.write_run(tmp_path / "run")
  (tmp_path / "run/summary.json").write_text(damaged)
  with pytest.raises(errors.UserError, match=r"summary\.json is damaged"):
    load.read(tmp_path / "run")


def test_runs_are_compared_on_the_same_questions_only(tmp_path):
  texts = {"a": "x", "b": "y", "c": "z"}
  for name, own in (("one", texts), ("two", texts), ("three", {**texts, "c": "other"})):
    material.write_run(tmp_path / name, own)
  runs = [load.read(tmp_path / name) for name in ("one", "two", "three")]
  compared = markdown.of_run(runs[0], runs[1:])
  cells = next(line for line in compared.splitlines() if line.startswith("| test")).split(" | ")
  assert cells[2].startswith("+0.0") and cells[3].startswith("–")
  assert "1 settings differ" not in page.of_run(runs[0], runs[1:])


def test_markdown_is_inert(hostile):
  run, _, _ = hostile
  text = markdown.of_run(run)
  assert "\x1b" not in text and "<b>" not in text.replace("`t<b>`", "")
  lines = [line for line in text.splitlines() if line.startswith("|")]
  assert len({line.count("|") for line in lines[:4]}) == 1


def test_beyond_the_ceiling_the_flips_stay_and_the_rest_is_counted(tmp_path):
  material.large_run(tmp_path / "run", 800)
  run = load.read(tmp_path / "run")
  everything = lineage.pack(run)
  assert everything.kept == everything.total == 100
  size = sum(map(len, everything.parts))
  small = lineage.pack(run, max_bytes=int(0.6 * size))
  index = inflated(small.index)
  assert 0 < small.kept < 100 and sum(map(len, small.parts)) <= 0.6 * size
  assert all(lineage.is_flip(outcome) for _, _, outcome in index)
  assert f"{100 - small.kept} of 100 questions" in page.of_run(run, max_bytes=int(0.6 * size))


def test_the_command_writes_the_page_and_rejects_what_is_no_run(tmp_path, capsys):
  run = material.write_run(tmp_path / "run", {"a": "x"})
  assert main.main(["report", f"--workdir={run.path}", f"--with={run.path}"]) == 0
  assert (run.path / "report.html").read_text().startswith("<!doctype html>")
  assert main.main(["report", f"--workdir={run.path}", "--markdown"]) == 0
  assert "| test |" in capsys.readouterr().out
  for words in ([], [f"--workdir={tmp_path}"], [f"--workdir={run.path}", f"--out={tmp_path}"]):
    assert main.main(["report", *words]) == errors.USAGE
  (run.path / "round_00" / "3_evaluate" / "verdicts.jsonl").write_text("{}\n")
  assert main.main(["report", f"--workdir={run.path}"]) == errors.DATA
  assert capsys.readouterr().err.count("\n") == 4


def test_a_report_that_fails_is_a_warning(tmp_path, capsys, monkeypatch):
  from distill_jax.console import Console

  run = material.write_run(tmp_path / "run", {"a": "x"})
  monkeypatch.setattr(page, "of_run", lambda *_: 1 // 0)
  write.write_at_end(run.path, Console())
  out = capsys.readouterr().out
  assert out.startswith("warning: no report was written") and out.count("\n") == 1
  assert not (run.path / "report.html").exists()


def test_a_sweep_has_forest_plots_and_links_to_its_runs(tmp_path):
  table = material.write_sweep(tmp_path)
  parsed = Parsed(write.render(tmp_path))
  links = [a["href"] for tag, a in parsed.elements if tag == "a"]
  assert links == [f"rows/{table['rows'][1]['row']}/seed_0/report.html"]
  text = "".join(parsed.text)
  assert "+10.0 (-5.0 to +20.0" in text and "undecided, so far" in text and "alert(1)" in text
  assert not [a for tag, a in parsed.elements if tag == "script"]
  (tmp_path / "table.json").write_text(json.dumps({**table, "rows": 3}))
  with pytest.raises(errors.UserError, match="damaged"):
    write.render(tmp_path)


@pytest.mark.parametrize("values", [[0.0], [1e-12, 2e-12], [-3, 7], [5, 5], [1e9, 1e9 + 1], [0, 1]])
def test_ticks_enclose_their_values(values):
  found = charts.ticks(values)
  assert found[0] <= min(values) + 1e-9 and found[-1] >= max(values) - 1e-9
  assert 2 <= len(found) <= 8 and found == sorted(set(found))


@pytest.mark.parametrize("value, text", [
  (0, "0"), (0.25, "0.25"), (1234, "1234"), (-12_500, "-12.5k"), (1e6, "1M"), (2.5e9, "2.5G"),
  (2.5e-4, "2.5e-4"), (-1e300, "-1e300"), (0.001, "0.001")])  # fmt: skip
def test_labels_of_axes_are_short(value, text):
  assert charts.short(value) == text


def test_charts_survive_missing_and_extreme_values():
  nan = float("nan")
  series = [charts.Series("a", [(0, nan), (1, 1e300), (2, nan), (3, -1e300)]),
            charts.Series("b", [(0, nan)])]  # fmt: skip
  Parsed(charts.lines("t", series))
  assert (
    charts.lines("t", [series[1]]) == ""
    and charts.stacked("t", [("a", [0, 0])], [("b", 0), ("c", 1)]) == ""
  )


def test_the_mark_of_a_phase_stays_inside_of_a_chart_that_starts_later():
  series = [charts.Series("loss", [(50, 2.0), (100, 1.0)])]
  chart = charts.lines("t", series, marks=[(0, "0 train")])
  (mark,) = re.findall('<line x1="([0-9.]+)"[^>]*class="mark"', chart)
  assert float(mark) == charts.LEFT


@pytest.mark.heavy
def test_a_report_of_100_000_attempts_is_small_and_quick(tmp_path):
  """Run with: bash launch/test.sh -m heavy tests/report."""
  material.large_run(tmp_path / "run", 100_000)
  start = time.monotonic()
  source = write.render(tmp_path / "run")
  seconds = time.monotonic() - start
  print(f"{len(source) / 1e6:.1f} MB in {seconds:.1f} s")
  assert len(source) < 20e6 and seconds < 60
