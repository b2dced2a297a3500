"""Sweeps: what they refuse, what they skip, retry and stop, and what their table says."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.claims import board
from distill_jax import __main__ as commands
from distill_jax import errors
from distill_jax.ablations import children, markdown, run, sweep, table

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


def made(**changes) -> sweep.Sweep:
  rows = {"plain": {}, "other": {"train.losses.triplet": 0.0}}
  claims = (sweep.Claim("plain helps", "plain", "other", paper="nobody"),)
  fields = dict(config="configs/quickstart.py", common=TINY, rows=rows, base="plain", claims=claims)
  return sweep.Sweep(**{**fields, "seeds": (0, 1), **changes})


def file_of(tmp_path, **changes) -> str:
  """A sweep file with what made() gives."""
  fields = {f.name: getattr(made(**changes), f.name) for f in dataclasses.fields(sweep.Sweep)}
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
  ("changes", "said"),
  [
    ({"base": "none"}, "base is 'none'"),
    ({"rows": {"plain": {}, "../up": {}}, "claims": ()}, "it is a folder"),
    ({"seeds": (1, 1)}, "once each"),
    ({"seeds": ()}, "one or more"),
    ({"splits": ()}, "splits are empty"),
    ({"common": {"seed": 3}}, "common sets seed"),
    ({"claims": (sweep.Claim("x", "plain", "gone"),)}, "'gone', which is no row"),
    ({"claims": (sweep.Claim("x", "plain", "other", split="y"),)}, "none of its splits"),
    ({"claims": (sweep.Claim("x", "plain", "other", smallest=-1.0),)}, "no share"),
  ],
)
def test_a_sweep_that_makes_no_sense_is_refused(tmp_path, changes, said):
  with pytest.raises(errors.UserError, match=re.escape(said)):
    sweep.load(file_of(tmp_path, **changes))


@pytest.mark.parametrize(
  ("override", "said"),
  [
    ({"train.lrr": 1.0}, "row other: no such setting"),
    ({"rounds": -1}, "row other: config.rounds"),
  ],
)
def test_a_row_that_does_not_pass_the_door_stops_all_before_anything_runs(
  tmp_path, override, said, capsys
):
  file = file_of(tmp_path, rows={"plain": {}, "other": override})
  words = ["ablate", f"--config={file}", f"--workdir={tmp_path / 'out'}"]
  assert commands.main(words) == errors.CONFIG
  assert said in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("words", "code", "said"),
  [
    ((), 2, "--config is missing"),
    (("--config=x.py",), 2, "--workdir is missing"),
    (("--config=no/x.py", "--workdir=y"), 3, "no/x.py"),
    (("--config=configs/base.py", "--workdir=y"), 3, "no function get_sweep()"),
    (("--config=configs/sweeps/tailored.py:none", "--workdir=y"), 3, "none"),
    (("--config=configs/sweeps/tailored.py", "--workdir=y", "--jobs=0"), 2, "--jobs"),
  ],
)
def test_a_mistake_is_one_line(words, code, said, capsys):
  assert commands.main(["ablate", *words]) == code
  err = capsys.readouterr().err
  assert said in err and err.count("\n") == 1
  assert not (ROOT / "y").exists()


def test_what_is_printed_are_the_commands_that_are_left(tmp_path, capsys):
  file, out = file_of(tmp_path), tmp_path / "my sweep"
  finished(out, made(), {("plain", 0): [1]})
  words = ["ablate", f"--config={file}", f"--workdir={out}", "--print"]
  assert commands.main(words) == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  folders = [line[5].removeprefix(f"--workdir={out}/rows/") for line in lines]
  assert folders == ["other/seed_0", "plain/seed_1", "other/seed_1"]
  for line in lines:
    assert line[:5] == ["python", "-m", "distill_jax", "run", "--config=configs/quickstart.py"]
    assert "--config.rollout.buckets=(128,)" in line
    assert f"--config.teacher.cache={out / 'teacher.sqlite'}" in line
  assert not (out / "table.json").exists()


# ---------------------------------------------------------------------------------------------
# The table, from run folders written by hand.


def finished(workdir, of: sweep.Sweep, verdicts: dict, *, file="attempts.jsonl") -> None:
  """Writes the folders of finished runs: {(row, seed): verdicts, the same on every split}."""
  for p in sweep.plan(of, workdir):
    if (p.row, p.seed) not in verdicts:
      continue
    rounds = [{"teacher": {"calls": 3, "cache_hits": 4}, "steps": 10}] * 2
    for split in of.splits:
      here = p.folder / "final" / split
      here.mkdir(parents=True)
      marks = verdicts[p.row, p.seed]
      lines = [json.dumps({"problem": f"q{n}", "correct": bool(v)}) for n, v in enumerate(marks)]
      (here / file).write_text("".join(line + "\n" for line in lines))
      (here / "manifest.json").write_text("{}")
    (p.folder / "config.json").write_text(json.dumps(p.config))
    (p.folder / "summary.json").write_text(json.dumps({"rounds": rounds, "seconds": 2.0}))


def read(workdir, of: sweep.Sweep) -> dict:
  return table.read(of, sweep.plan(of, workdir))


def row(found: dict, name: str, split: str = "test") -> dict:
  return next(r for r in found["rows"] if r["row"] == name)["splits"][split]


def test_the_table_has_means_spreads_and_paired_differences(tmp_path):
  marks = {
    ("plain", 0): [1, 1, 1, 0], ("plain", 1): [1, 1, 0, 0],
    ("other", 0): [1, 0, 0, 0], ("other", 1): [1, 1, 0, 1],
  }  # fmt: skip
  finished(tmp_path, made(), marks)
  found = read(tmp_path, made())
  plain, other = row(found, "plain"), row(found, "other")
  assert plain["mean"] == 5 / 8 and plain["by_seed"] == {"0": 0.75, "1": 0.5}
  assert plain["sd"] == pytest.approx(0.125 * np.sqrt(2)) and plain["difference"] is None
  d = other["difference"]
  assert (d["mean"], d["gained"], d["lost"], d["seeds"], d["n"]) == (-1 / 8, 1, 2, 2, 4)
  assert d["p"] == 1.0 and d["low"] < -1 / 8 < d["high"]
  assert found["rows"][0]["replies"] == 14 and found["rows"][0]["steps"] == 20


def test_pairs_are_the_seeds_that_both_rows_have_and_what_lacks_is_marked(tmp_path):
  finished(tmp_path, made(), {("plain", 0): [1, 1], ("plain", 1): [0, 0], ("other", 0): [1, 0]})
  found = read(tmp_path, made())
  assert row(found, "other")["difference"]["mean"] == -0.5
  assert found["rows"][1]["missing"] == [1] and row(found, "other")["sd"] is None
  assert found["claims"][0]["effect"]["mean"] == 0.5 and found["claims"][0]["missing"] == 1


def test_without_a_run_there_is_no_number(tmp_path):
  found = read(tmp_path, made())
  assert row(found, "plain") is None and found["claims"][0]["effect"] is None
  assert found["claims"][0]["verdict"] == table.NOT_RUN
  page = markdown.write({**found, **frame(made())})
  assert "| plain | 0 (2 missing) | not run | | | | | |" in page and "nan" not in page


def frame(of: sweep.Sweep) -> dict:
  machine = {"cores": 2, "platform": "x"}
  return {
    **{name: getattr(of, name) for name in ("config", "common", "base", "seeds", "splits")},
    **dict(sweep="x.py", command="python", date="2024-01-01", machine=machine, failed=[]),
  }


def test_a_vote_counts_where_attempts_do_not(tmp_path):
  of = made(seeds=(0,))
  finished(tmp_path, of, {("plain", 0): [1, 0]})
  here = sweep.plan(of, tmp_path)[0].folder / "final" / "test"
  lines = (here / "attempts.jsonl").read_text()
  (here / "attempts.jsonl").write_text(lines * 3)
  with pytest.raises(errors.UserError, match="which one counts"):
    read(tmp_path, of)
  (here / "verdicts.jsonl").write_text(lines)
  assert row(read(tmp_path, of), "plain")["mean"] == 0.5


def test_rows_with_other_questions_are_not_paired(tmp_path):
  of = made(rows={"plain": {}, "harder": {"world.steps_max": 4}, "less": {"task.train": 20}})
  of = dataclasses.replace(of, claims=())
  finished(tmp_path, of, {(r, 0): [1, 0] for r in of.rows})
  found = read(tmp_path, of)
  assert row(found, "harder")["difference"] is None and row(found, "harder")["mean"] == 0.5
  assert row(found, "less")["difference"]["mean"] == 0.0
  crossed = [{"task": {"name": "a"}, "cross": {"name": name}} for name in "bc"]
  assert sweep.same_questions(*crossed, "test") and not sweep.same_questions(*crossed, "cross")


def test_a_run_of_another_config_is_not_taken_for_finished(tmp_path):
  finished(tmp_path, made(), {("plain", 0): [1], ("other", 0): [1]})
  plan = sweep.plan(made(common={**TINY, "train.lr": 0.5}), tmp_path)
  assert not any(p.finished for p in plan)
  elsewhere = made(cache="elsewhere.sqlite")  # where the replies were kept is no difference
  assert [p.finished for p in sweep.plan(elsewhere, tmp_path)] == [True, True, False, False]


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


def test_the_table_finds_a_real_gain_and_no_other(tmp_path):
  """Verdicts drawn with shares 0.4, 0.4 and 0.6 on 150 questions for 4 seeds."""
  of = made(rows={"plain": {}, "same": {"rounds": 2}, "better": {"rounds": 3}}, seeds=(0, 1, 2, 3))
  of = dataclasses.replace(of, claims=(sweep.Claim("", "better", "plain"),))
  rng = np.random.Generator(np.random.PCG64(1))
  shares = {"plain": 0.4, "same": 0.4, "better": 0.6}
  marks = {(r, s): rng.random(150) < shares[r] for r, s in itertools.product(of.rows, of.seeds)}
  finished(tmp_path, of, marks)
  found = read(tmp_path, of)
  assert row(found, "same")["difference"]["low"] < 0 < row(found, "same")["difference"]["high"]
  assert row(found, "same")["difference"]["p"] > 0.05 > row(found, "better")["difference"]["p"]
  assert found["claims"][0]["verdict"] == table.HOLDS


# ---------------------------------------------------------------------------------------------
# Children.


def test_each_place_has_its_share_of_the_cores(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5, 6, 7}, raising=False)
  assert children.shares(2) == [{3, 5, 7}, {4, 6}]
  assert children.shares(1) == [set()] and children.shares(6) == [set()] * 6


def test_the_last_line_is_the_refusal(tmp_path):
  log = tmp_path / "log"
  log.write_bytes(b"$ python\nplaying\ndistill_jax: no such thing\nleaving\n\xff\n\n")
  assert children.last_line(log) == "distill_jax: no such thing"
  log.write_bytes(b"$ python\nTraceback\nKeyError: 1\n")
  assert children.last_line(log) == "KeyError: 1"


def fake(monkeypatch, body: str) -> None:
  """Runs are a Python program instead: `folder` is the run's, `row` its row."""
  program = (
    "import pathlib, sys, time\n"
    "folder = pathlib.Path(next(w for w in sys.argv if w.startswith('--workdir='))[10:])\n"
    "row = folder.parent.name\n" + body
  )
  start = subprocess.Popen

  def started(words, **options):
    return start([sys.executable, "-c", program, *words[3:]], **options)

  monkeypatch.setattr(children.subprocess, "Popen", started)


def test_a_budget_that_is_reached_stops_the_sweep(tmp_path, monkeypatch, capsys):
  fake(
    monkeypatch, "print('distill_jax: enough'); sys.exit(6 if row == 'plain' else time.sleep(60))"
  )
  begun = time.monotonic()
  assert run.play(file_of(tmp_path), str(tmp_path / "out"), jobs=2) == errors.BUDGET
  assert time.monotonic() - begun < 30
  found = json.loads((tmp_path / "out" / "table.json").read_text())
  assert [(f["row"], f["seed"], f["code"]) for f in found["failed"]] == [("plain", 0, 6)]
  logs = {p.name for p in (tmp_path / "out" / "rows").rglob("*.log")}
  assert logs == {"seed_0.log"}
  assert "budget" in capsys.readouterr().out


def test_what_fails_is_told_and_the_rest_is_played(tmp_path, monkeypatch, capsys):
  fake(monkeypatch, "print('ValueError: no'); sys.exit(row == 'plain')")
  assert run.play(file_of(tmp_path), str(tmp_path / "out"), jobs=1) == run.FAILED
  out = capsys.readouterr().out
  assert "plain  seed 1" in out and "exit code 1: ValueError: no" in out and "seed_1.log" in out
  page = (tmp_path / "out" / "table.md").read_text()
  assert "- plain, seed 0: exit code 1: ValueError: no" in page


def test_two_sweeps_do_not_play_in_one_folder(tmp_path):
  with run.claimed(tmp_path), pytest.raises(errors.UserError, match="another process"):
    run.play(file_of(tmp_path), str(tmp_path), jobs=1)
  with run.claimed(tmp_path):
    pass


# ---------------------------------------------------------------------------------------------
# A real one.


def begin(file, workdir, tmp_path) -> subprocess.Popen:
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
  """Ctrl-C amid the second run, kill -9 of everything amid the third, a damaged fourth; then the
  rest."""
  file, workdir = file_of(tmp_path), tmp_path / "sweep"
  folders = [p.folder for p in sweep.plan(made(), workdir)]
  rest = 0
  for number, number_of_signal in ((1, signal.SIGINT), (2, signal.SIGKILL)):
    process = begin(file, workdir, tmp_path)
    while not (folders[number] / "round_00" / "0_demonstrate" / "manifest.json").exists():
      assert process.poll() is None, (tmp_path / "out").read_text()[-2000:]
      time.sleep(0.01)
    os.killpg(process.pid, number_of_signal)
    rest += process.wait(60) == (75 if number_of_signal == signal.SIGINT else -9)
  assert rest == 2 and "the same command goes on" in (tmp_path / "out").read_text()
  before = {f: f.stat().st_mtime_ns for f in folders[0].rglob("*.jsonl")}
  folders[3].mkdir(parents=True)
  (folders[3] / "config.json").write_text("{")  # refused by the run itself, and told
  assert begin(file, workdir, tmp_path).wait(300) == run.FAILED
  found = json.loads((workdir / "table.json").read_text())
  assert [(f["row"], f["seed"], f["code"]) for f in found["failed"]] == [("other", 1, 4)]
  assert found["rows"][1]["missing"] == [1] and row(found, "other")["difference"]["seeds"] == 1
  (folders[3] / "config.json").unlink()
  assert begin(file, workdir, tmp_path).wait(300) == 0
  assert {f: f.stat().st_mtime_ns for f in folders[0].rglob("*.jsonl")} == before
  found = json.loads((workdir / "table.json").read_text())
  assert found["failed"] == [] and [r["missing"] for r in found["rows"]] == [[], []]
  assert row(found, "plain")["n"] == 12 and row(found, "plain", "out_of_domain")["n"] == 6
  assert found["claims"][0]["verdict"] != table.NOT_RUN
  assert "## Claims" in (workdir / "table.md").read_text()
  # One cache: what the first run paid for the opening, the others found.
  opening = json.loads((folders[1] / "summary.json").read_text())["rounds"][0]["teacher"]
  assert opening["calls"] == 0 and opening["cache_hits"] == 40


# ---------------------------------------------------------------------------------------------
# The board.


def test_the_board_says_what_the_tables_say_and_keeps_no_path(tmp_path, monkeypatch):
  of = made(rows={"plain": {}, "other": {"rounds": 1}, "never": {"rounds": 2}})
  of = dataclasses.replace(of, claims=(*of.claims, sweep.Claim("never", "never", "plain")))
  finished(
    tmp_path / "sweep",
    of,
    {(r, s): [r == "plain"] * 20 for r in ("plain", "other") for s in of.seeds},
  )
  fake(monkeypatch, "print(f'{folder} is broken'); sys.exit(4)")
  file = file_of(tmp_path, rows=of.rows, claims=of.claims)
  assert run.play(file, str(tmp_path / "sweep"), jobs=1) == run.FAILED
  here = tmp_path / "claims"
  here.mkdir()
  board.main([tmp_path / "sweep"], here)
  text = (here / "BOARD.md").read_text()
  assert (
    "| plain helps (plain over other) | nobody | test | +100.0 [+100.0, +100.0] | 1.0 | 2 |"
    in (text)
  )
  assert "| never (never over plain) |  | test |  | 1.0 | 0 of 2 | **not run** |" in text
  assert "`python -m distill_jax ablate --config=" in text
  kept = [text, (here / "small.md").read_text(), (here / "small.json").read_text()]
  assert not any("is broken" in page or os.uname().nodename in page for page in kept)
