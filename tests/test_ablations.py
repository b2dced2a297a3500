"""Sweeps: what they reject, skip, retry and stop, and what their table contains."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.claims import board
from distill_jax import console, errors, records
from distill_jax.ablations import children, markdown, run, sweep, table
from distill_jax.cli import main as commands
from distill_jax.run_dir import run_dir

ROOT = pathlib.Path(__file__).parents[1]
SPLITS = ("test", "out_of_domain")
TINY = {
  "world.train": 40, "world.test": 12, "world.out_of_domain": 6, "task.validation": 10,
  "rounds": 0, "stop.patience": 0,
  "student.scratch.width": 32, "student.scratch.head_width": 8, "student.scratch.mlp": 64,
  "student.scratch.vocab": 320,
  "exam.questions": 16, "exam.samples": 2, "exam.max_new_tokens": 12, "evaluate.max_new_tokens": 12,
  "rollout.batch": 16, "rollout.buckets": (128,), "train.buckets": (192,),
  "train.steps": 4, "train.batch": 8, "train.warmup": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def small_sweep(**changes) -> sweep.Sweep:
  rows = {"plain": {}, "other": {"train.losses.triplet": 0.0}}
  claims = (sweep.Claim("plain helps", "plain", "other", paper="nobody"),)
  fields = dict(config="configs/quickstart.py", common=TINY, rows=rows, base="plain", claims=claims)
  return sweep.Sweep(**{**fields, "seeds": (0, 1), **changes})


def sweep_file(tmp_path, **changes) -> str:
  """Writes a sweep file that returns small_sweep(**changes)."""
  fields = {
    f.name: getattr(small_sweep(**changes), f.name) for f in dataclasses.fields(sweep.Sweep)
  }
  body = ", ".join(f"{name}={value!r}" for name, value in fields.items() if name != "claims")
  claims = "".join(f"sweep.{claim!r}, " for claim in fields["claims"])
  lines = (
    "from distill_jax.ablations import sweep",
    "def get_sweep():",
    f"  return sweep.Sweep({body}, claims=({claims}))",
  )
  (tmp_path / "small.py").write_text("\n".join(lines) + "\n")
  return str(tmp_path / "small.py")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"base": "none"}, "base is 'none'"),
    ({"rows": {"plain": {}, "../up": {}}, "claims": ()}, "is not a directory name"),
    ({"seeds": (1, 1)}, "distinct numbers"),
    ({"seeds": ()}, "one or more"),
    ({"splits": ()}, "splits are empty"),
    ({"common": {"seed": 3}}, "common sets seed"),
    ({"claims": (sweep.Claim("x", "plain", "gone"),)}, "'gone', which is not a row"),
    ({"claims": (sweep.Claim("x", "plain", "other", split="y"),)}, "not in splits"),
    ({"claims": (sweep.Claim("x", "plain", "other", smallest=-1.0),)}, "must be in [0, 1)"),
  ],
)
def test_an_invalid_sweep_is_rejected(tmp_path, changes, message):
  with pytest.raises(errors.UserError, match=re.escape(message)):
    sweep.load_sweep(sweep_file(tmp_path, **changes))


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ({"train.lrr": 1.0}, "row other: no such setting"),
    ({"rounds": -1}, "row other: config.rounds"),
  ],
)
def test_a_row_with_an_invalid_config_stops_the_sweep_before_anything_runs(
  tmp_path, override, message, capsys
):
  file = sweep_file(tmp_path, rows={"plain": {}, "other": override})
  words = ["ablate", f"--config={file}", f"--workdir={tmp_path / 'out'}"]
  assert commands.main(words) == errors.CONFIG
  assert message in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("words", "code", "message"),
  [
    ((), 2, "--config is missing"),
    (("--config=x.py",), 2, "--workdir is missing"),
    (("--config=no/x.py", "--workdir=y"), 3, "no/x.py"),
    (("--config=configs/base.py", "--workdir=y"), 3, "no function get_sweep()"),
    (("--config=configs/sweeps/tailored.py:none", "--workdir=y"), 3, "none"),
    (("--config=configs/sweeps/tailored.py", "--workdir=y", "--jobs=0"), 2, "--jobs"),
  ],
)
def test_an_invalid_command_is_reported_in_one_line(words, code, message, capsys):
  assert commands.main(["ablate", *words]) == code
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1
  assert not (ROOT / "y").exists()


def test_print_lists_the_commands_of_unfinished_runs(tmp_path, capsys, monkeypatch):
  for name in run.environment(tmp_path):
    monkeypatch.delenv(name, raising=False)
  file, out = sweep_file(tmp_path), tmp_path / "my sweep"
  write_runs(out, small_sweep(), {("plain", 0): [1]})
  words = ["ablate", f"--config={file}", f"--workdir={out}", "--print"]
  assert commands.main(words) == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  assert lines[0][:3] == [
    "env",
    f"JAX_COMPILATION_CACHE_DIR={out / 'compiled'}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0",
  ]
  lines = [line[3:] for line in lines]
  run_dirs = [line[5].removeprefix(f"--workdir={out}/rows/") for line in lines]
  assert run_dirs == ["other/seed_0", "plain/seed_1", "other/seed_1"]
  for line in lines:
    assert line[:5] == ["python", "-m", "distill_jax", "run", "--config=configs/quickstart.py"]
    assert "--config.rollout.buckets=(128,)" in line
    assert f"--config.teacher.cache={out / 'teacher.sqlite'}" in line
  assert not (out / "table.json").exists()


# ---------------------------------------------------------------------------------------------
# The table, from run directories written by hand.


def write_runs(workdir, swept: sweep.Sweep, verdicts: dict) -> None:
  """Writes directories of finished runs. `verdicts`: {(row, seed): verdicts on every split}."""
  for p in sweep.plan_runs(swept, workdir):
    if (p.row, p.seed) not in verdicts:
      continue
    directory = run_dir.RunDir(p.run_dir)
    directory.claim(p.config)
    for index in (0, 1):
      asked, trained = directory.phase(index, 0, "feedback"), directory.phase(index, 1, "train")
      asked.finish({"teacher": {"calls": 3, "cache_hits": 4}, "kept": 0, "dropped": {}})
      trained.write("metrics.jsonl", [records.Metrics(step=10, loss=1.0, grad_norm=1.0)])
      trained.finish({"steps": 10, "loss": 1.0, "weights": {"student": f"{p.row} {index}"}})
    marks = verdicts[p.row, p.seed]
    for split in swept.splits:
      tested = directory.final(split)
      rows = [records.Verdict(f"q{n}", "1", bool(v)) for n, v in enumerate(marks)]
      tested.write("verdicts.jsonl", rows)
      tested.finish({"measured": {"round": 1, "weights": {"student": f"{p.row} 1"}}})
    directory.write_json("summary.json", {})
    directory.release()


def build(workdir, swept: sweep.Sweep) -> dict:
  return table.build(swept, sweep.plan_runs(swept, workdir))


def row(results: dict, name: str, split: str = "test") -> dict:
  return next(r for r in results["rows"] if r["row"] == name)["splits"][split]


def test_the_table_has_means_standard_deviations_and_paired_differences(tmp_path):
  marks = {
    ("plain", 0): [1, 1, 1, 0], ("plain", 1): [1, 1, 0, 0],
    ("other", 0): [1, 0, 0, 0], ("other", 1): [1, 1, 0, 1],
  }  # fmt: skip
  write_runs(tmp_path, small_sweep(), marks)
  results = build(tmp_path, small_sweep())
  plain, other = row(results, "plain"), row(results, "other")
  assert plain["mean"] == 5 / 8 and plain["by_seed"] == {"0": 0.75, "1": 0.5}
  assert plain["sd"] == pytest.approx(0.125 * np.sqrt(2)) and plain["difference"] is None
  d = other["difference"]
  assert (d["mean"], d["gained"], d["lost"], d["seeds"], d["n"]) == (-1 / 8, 1, 2, 2, 4)
  assert d["p"] == 1.0 and d["low"] < -1 / 8 < d["high"]
  assert results["rows"][0]["replies"] == 14 and results["rows"][0]["steps"] == 20


def test_rows_are_paired_on_common_seeds_and_missing_seeds_are_marked(tmp_path):
  write_runs(
    tmp_path, small_sweep(), {("plain", 0): [1, 1], ("plain", 1): [0, 0], ("other", 0): [1, 0]}
  )
  results = build(tmp_path, small_sweep())
  assert row(results, "other")["difference"]["mean"] == -0.5
  assert results["rows"][1]["missing"] == [1] and row(results, "other")["sd"] is None
  assert results["claims"][0]["effect"]["mean"] == 0.5 and results["claims"][0]["missing"] == 1


def test_without_a_run_there_is_no_number(tmp_path):
  results = build(tmp_path, small_sweep())
  assert row(results, "plain") is None and results["claims"][0]["effect"] is None
  assert results["claims"][0]["verdict"] == table.NOT_RUN
  page = markdown.render({**results, **header(small_sweep())})
  assert "| plain | 0 (2 missing) | not run | | | | | |" in page and "nan" not in page


def header(swept: sweep.Sweep) -> dict:
  machine = {"cores": 2, "platform": "x"}
  return {
    **{name: getattr(swept, name) for name in ("config", "common", "base", "seeds", "splits")},
    **dict(sweep="x.py", command="python", date="2024-01-01", machine=machine, failed=[]),
  }


def test_the_vote_is_read_instead_of_several_attempts(tmp_path):
  swept = small_sweep(seeds=(0,))
  write_runs(tmp_path, swept, {("plain", 0): [1, 0]})
  tested = run_dir.RunDir(sweep.plan_runs(swept, tmp_path)[0].run_dir).final("test")
  verdicts, facts = tested.rows("verdicts.jsonl", records.Verdict), tested.facts
  tested.write("attempts.jsonl", verdicts * 3)
  tested.finish(facts)
  assert row(build(tmp_path, swept), "plain")["mean"] == 0.5
  tested.write("verdicts.jsonl", verdicts * 3)
  tested.finish(facts)
  with pytest.raises(errors.UserError, match="a second verdict on"):
    build(tmp_path, swept)


def test_a_table_is_not_made_of_damaged_or_foreign_results(tmp_path):
  swept = small_sweep(seeds=(0,))
  write_runs(tmp_path, swept, {("plain", 0): [1, 0], ("other", 0): [1, 1]})
  plain, other = (run_dir.RunDir(p.run_dir) for p in sweep.plan_runs(swept, tmp_path))
  verdicts = plain.final("test").path / "verdicts.jsonl"
  content = verdicts.read_bytes()
  verdicts.write_bytes(content.replace(b"q1", b"q2"))
  with pytest.raises(errors.UserError, match=r"verdicts\.jsonl has changed.*remove"):
    build(tmp_path, swept)
  verdicts.write_bytes(content)
  build(tmp_path, swept)
  plain.final("test").discard()
  shutil.copytree(other.final("test").path, plain.final("test").path)
  with pytest.raises(errors.UserError, match="measured with other weights"):
    build(tmp_path, swept)


def test_rows_with_other_questions_are_not_paired(tmp_path):
  swept = small_sweep(
    rows={"plain": {}, "harder": {"world.steps_max": 4}, "less": {"world.train": 20}}
  )
  swept = dataclasses.replace(swept, claims=())
  write_runs(tmp_path, swept, {(r, 0): [1, 0] for r in swept.rows})
  results = build(tmp_path, swept)
  assert row(results, "harder")["difference"] is None and row(results, "harder")["mean"] == 0.5
  assert row(results, "less")["difference"]["mean"] == 0.0
  crossed = [{"task": {"name": "a"}, "cross": {"name": name}} for name in "bc"]
  assert sweep.same_questions(*crossed, "test") and not sweep.same_questions(*crossed, "cross")


def test_a_run_with_another_config_does_not_count_as_finished(tmp_path):
  write_runs(tmp_path, small_sweep(), {("plain", 0): [1], ("other", 0): [1]})
  plan = sweep.plan_runs(small_sweep(common={**TINY, "train.lr": 0.5}), tmp_path)
  assert not any(p.finished for p in plan)
  elsewhere = small_sweep(cache="elsewhere.sqlite")  # the location of the cache makes no difference
  assert [p.finished for p in sweep.plan_runs(elsewhere, tmp_path)] == [True, True, False, False]


@pytest.mark.parametrize(
  ("low", "high", "verdict"),
  [
    (0.001, 0.2, table.HOLDS),
    (-0.2, 0.0, table.FAILS),
    (-0.2, 0.009, table.FAILS),
    (-0.2, 0.011, table.UNDECIDED),
    (0.0, 0.2, table.UNDECIDED),
  ],
)
def test_a_claim_is_judged_by_the_interval_of_its_effect(low, high, verdict):
  assert table.verdict({"low": low, "high": high}, smallest=0.01) == verdict


def test_the_table_detects_a_real_gain_and_no_other(tmp_path):
  """Verdicts are drawn with accuracies 0.4, 0.4 and 0.6 on 150 questions for 4 seeds."""
  swept = small_sweep(
    rows={"plain": {}, "same": {"rounds": 2}, "better": {"rounds": 3}}, seeds=(0, 1, 2, 3)
  )
  swept = dataclasses.replace(swept, claims=(sweep.Claim("", "better", "plain"),))
  rng = np.random.Generator(np.random.PCG64(1))
  shares = {"plain": 0.4, "same": 0.4, "better": 0.6}
  marks = {
    (r, s): rng.random(150) < shares[r] for r, s in itertools.product(swept.rows, swept.seeds)
  }
  write_runs(tmp_path, swept, marks)
  results = build(tmp_path, swept)
  assert row(results, "same")["difference"]["low"] < 0 < row(results, "same")["difference"]["high"]
  assert row(results, "same")["difference"]["p"] > 0.05 > row(results, "better")["difference"]["p"]
  assert results["claims"][0]["verdict"] == table.HOLDS


# ---------------------------------------------------------------------------------------------
# Child processes.


def test_each_job_has_its_own_cores(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5, 6, 7}, raising=False)
  assert children.core_shares(2) == [{3, 5, 7}, {4, 6}]
  assert children.core_shares(1) == [set()] and children.core_shares(6) == [set()] * 6


def test_the_last_line_is_the_error_message(tmp_path):
  log = tmp_path / "log"
  log.write_bytes(b"$ python\nrunning\ndistill-jax: no such thing\nleaving\n\xff\n\n")
  assert children.last_line(log) == "distill-jax: no such thing"
  log.write_bytes(b"$ python\nTraceback\nKeyError: 1\n")
  assert children.last_line(log) == "KeyError: 1"


def fake_runs(monkeypatch, body: str) -> None:
  """Replaces each run by a Python program that knows its `run_dir` and `row`."""
  program = (
    "import pathlib, sys, time\n"
    "run_dir = pathlib.Path(next(w for w in sys.argv if w.startswith('--workdir='))[10:])\n"
    "row = run_dir.parent.name\n" + body
  )
  start = subprocess.Popen

  def started(words, **options):
    return start([sys.executable, "-c", program, *words[3:]], **options)

  monkeypatch.setattr(children.subprocess, "Popen", started)


def test_a_reached_budget_stops_the_sweep(tmp_path, monkeypatch, capsys):
  fake_runs(
    monkeypatch, "print('distill-jax: enough'); sys.exit(6 if row == 'plain' else time.sleep(60))"
  )
  started_at = time.monotonic()
  assert run.run_sweep(sweep_file(tmp_path), str(tmp_path / "out"), jobs=2) == errors.BUDGET
  assert time.monotonic() - started_at < 30
  results = json.loads((tmp_path / "out" / "table.json").read_text())
  assert [(f["row"], f["seed"], f["code"]) for f in results["failed"]] == [("plain", 0, 6)]
  logs = {p.name for p in (tmp_path / "out" / "rows").rglob("*.log")}
  assert logs == {"seed_0.log"}
  assert "budget" in capsys.readouterr().out


def test_failed_runs_are_reported_and_the_others_run(tmp_path, monkeypatch, capsys):
  fake_runs(monkeypatch, "print('ValueError: no'); sys.exit(row == 'plain')")
  assert run.run_sweep(sweep_file(tmp_path), str(tmp_path / "out"), jobs=1) == run.FAILED
  out = capsys.readouterr().out
  assert "plain  seed 1" in out and "exit code 1: ValueError: no" in out and "seed_1.log" in out
  page = (tmp_path / "out" / "table.md").read_text()
  assert "- plain, seed 0: exit code 1: ValueError: no" in page


def test_the_table_names_the_directory_that_was_used(tmp_path, monkeypatch):
  fake_runs(monkeypatch, "sys.exit(1)")
  file, workdir = sweep_file(tmp_path), str(tmp_path / "my sweep")
  run.run_sweep(file, workdir, jobs=1)
  (command,) = re.findall(
    "^    (python .*)$", (tmp_path / "my sweep" / "table.md").read_text(), re.MULTILINE
  )
  assert shlex.split(command)[4:] == [f"--config={file}", f"--workdir={workdir}"]


def test_a_shared_compilation_cache_that_is_already_set_is_kept(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
  assert run.environment(tmp_path)["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"


def test_the_phase_of_a_run_is_read_from_its_log(tmp_path):
  log = tmp_path / "log"
  for content, shown in (
    (b"", "starting"),
    (b"$ env A=1 python\n", "starting"),
    (b"0:05  round 0 exam  0/16 attempts\nround 0 train: 1/2 x\n", "round 0 exam  0/16 attempts"),
    (
      b"0:05  round 1 train  5/20 steps  3/s\n1:00:10  round 1 train  9/20 steps  3/s  loss 1\n",
      "round 1 train  9/20 steps",
    ),
    (
      b"0:05  round 0 train  0/20 steps\ncompiling the train step for rows of 96 (first time)\n",
      "round 0 train  0/20 steps  compiling the train step for rows of 96 (first time)",
    ),
    (b"0:05  a  1/2 b\ncompiling x\ncompiled in 3.2 s\n", "a  1/2 b"),
  ):
    log.write_bytes(content)
    assert children.current_phase(log) == shown


def test_active_runs_show_their_log_and_their_progress(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(console, "MIN_INTERVAL", 0.2)
  body = "print('0:05  round 1 exam  3/16 attempts', flush=True); time.sleep(1); sys.exit(1)"
  fake_runs(monkeypatch, body)
  run.run_sweep(sweep_file(tmp_path, seeds=(0,)), str(tmp_path / "out"), jobs=2)
  out = capsys.readouterr().out
  for name in ("plain", "other"):
    log = tmp_path / "out" / "rows" / name / "seed_0.log"
    assert f"{name}  seed 0  started (log: {log})" in out
    assert re.search(rf"^{name}  seed 0  0:0\d  round 1 exam  3/16 attempts$", out, re.MULTILINE)


def test_two_sweeps_do_not_run_in_one_directory(tmp_path):
  with run.locked(tmp_path), pytest.raises(errors.UserError, match="another process"):
    run.run_sweep(sweep_file(tmp_path), str(tmp_path), jobs=1)
  with run.locked(tmp_path):
    pass


# ---------------------------------------------------------------------------------------------
# A real sweep.


def start(file, workdir, tmp_path) -> subprocess.Popen:
  words = [f"--config={file}", f"--workdir={workdir}"]
  with open(tmp_path / "out", "ab") as out:
    return subprocess.Popen(
      [sys.executable, "-m", "distill_jax", "ablate", *words],
      cwd=ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
      stdout=out,
      stderr=out,
      start_new_session=True,
    )


def test_a_sweep_that_is_stopped_and_killed_ends_with_its_table(tmp_path):
  """Ctrl-C in the second run, kill -9 of everything in the third, a damaged fourth; then resume."""
  file, workdir = sweep_file(tmp_path), tmp_path / "sweep"
  run_dirs = [p.run_dir for p in sweep.plan_runs(small_sweep(), workdir)]
  interrupted = 0
  for number, signal_number in ((1, signal.SIGINT), (2, signal.SIGKILL)):
    process = start(file, workdir, tmp_path)
    while not (run_dirs[number] / "round_00" / "0_demonstrate" / "manifest.json").exists():
      assert process.poll() is None, (tmp_path / "out").read_text()[-2000:]
      time.sleep(0.01)
    os.killpg(process.pid, signal_number)
    interrupted += process.wait(60) == (75 if signal_number == signal.SIGINT else -9)
  assert interrupted == 2 and "Re-run the same command" in (tmp_path / "out").read_text()
  before = {f: f.stat().st_mtime_ns for f in run_dirs[0].rglob("*.jsonl")}
  run_dirs[3].mkdir(parents=True)
  (run_dirs[3] / "config.json").write_text("{")  # rejected by the run itself, and reported
  assert start(file, workdir, tmp_path).wait(300) == run.FAILED
  results = json.loads((workdir / "table.json").read_text())
  assert [(f["row"], f["seed"], f["code"]) for f in results["failed"]] == [("other", 1, 4)]
  assert results["rows"][1]["missing"] == [1] and row(results, "other")["difference"]["seeds"] == 1
  (run_dirs[3] / "config.json").unlink()
  assert start(file, workdir, tmp_path).wait(300) == 0
  assert {f: f.stat().st_mtime_ns for f in run_dirs[0].rglob("*.jsonl")} == before
  results = json.loads((workdir / "table.json").read_text())
  assert results["failed"] == [] and [r["missing"] for r in results["rows"]] == [[], []]
  assert row(results, "plain")["n"] == 12 and row(results, "plain", "out_of_domain")["n"] == 6
  assert results["claims"][0]["verdict"] != table.NOT_RUN
  assert "## Claims" in (workdir / "table.md").read_text()
  # The runs share a cache: the first one paid for the opening.
  opening = json.loads((run_dirs[1] / "summary.json").read_text())["rounds"][0]["teacher"]
  assert opening["calls"] == 0 and opening["cache_hits"] == 40


# ---------------------------------------------------------------------------------------------
# The board.


def test_the_board_shows_the_tables_and_contains_no_path(tmp_path, monkeypatch):
  swept = small_sweep(rows={"plain": {}, "other": {"rounds": 1}, "never": {"rounds": 2}})
  swept = dataclasses.replace(swept, claims=(*swept.claims, sweep.Claim("never", "never", "plain")))
  write_runs(
    tmp_path / "sweep",
    swept,
    {(r, s): [r == "plain"] * 20 for r in ("plain", "other") for s in swept.seeds},
  )
  fake_runs(monkeypatch, "print(f'{run_dir} is broken'); sys.exit(4)")
  file = sweep_file(tmp_path, rows=swept.rows, claims=swept.claims)
  assert run.run_sweep(file, str(tmp_path / "sweep"), jobs=1) == run.FAILED
  out = tmp_path / "claims"
  out.mkdir()
  board.main([tmp_path / "sweep"], out)
  text = (out / "BOARD.md").read_text()
  assert (
    "| plain helps (plain over other) | nobody | test | +100.0 [+100.0, +100.0] | 1.0 | 2 |"
    in (text)
  )
  assert "| never (never over plain) |  | test |  | 1.0 | 0 of 2 | **not run** |" in text
  assert "`python -m distill_jax ablate --config=" in text
  assert "--workdir=runs/small`" in text and str(tmp_path / "sweep") not in text
  pages = [text, (out / "small.md").read_text(), (out / "small.json").read_text()]
  assert not any("is broken" in page or os.uname().nodename in page for page in pages)
