"""Sweeps: what they reject, skip, retry and stop, and what their board shows."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.claims import board
from distill_jax import console, errors
from distill_jax.ablations import children, run, sweep, table
from distill_jax.cli import main as commands
from distill_jax.config import recipes
from distill_jax.run_dir import run_dir
from tests.small_sweeps import ROOT, row, small_sweep, sweep_file, write_runs


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"base": "none"}, "base is 'none'"),
    ({"rows": {"plain": {}, "../up": {}}, "claims": ()}, "is not a directory name"),
    ({"seeds": (1, 1)}, "distinct numbers"),
    ({"seeds": ()}, "one or more"),
    ({"splits": ()}, "splits are empty"),
    ({"splits": ("test", "tset")}, "split 'tset' is unknown; choose from test,"),
    ({"splits": "test"}, "splits is 'test', but must be a tuple"),
    ({"seeds": 3}, "seeds is 3, but must be a tuple"),
    ({"rows": ["plain"]}, "rows is ['plain'], but must be a dict"),
    ({"rows": {"plain": None}}, "row 'plain' is None, but must be a dict"),
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
    (("--config=configs/sweeps/tailored.py", "--workdir=y", "--print", "--status"), 2, "exclude"),
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


def test_a_command_that_takes_several_lines_is_not_printed(tmp_path, capsys):
  rows = {"plain": {}, "other": {"recipe": "a\nb"}}
  words = ["--config=" + sweep_file(tmp_path, rows=rows), f"--workdir={tmp_path}", "--print"]
  assert commands.main(["ablate", *words]) == errors.USAGE
  assert "row other has a setting with several lines" in capsys.readouterr().err


def test_a_sweep_may_name_its_directory_in_another_way(tmp_path):
  """The cache of a run that has started is the same file under another name."""
  out = os.path.relpath(tmp_path / "out")
  for workdir in (out, tmp_path / "out"):
    for planned in sweep.plan_runs(small_sweep(), workdir):
      directory = run_dir.RunDir(planned.run_dir)
      directory.claim(planned.config)
      (directory.path / "round_00").mkdir(exist_ok=True)  # it has started
      directory.release()


@pytest.mark.parametrize(
  "file", sorted((ROOT / "configs/sweeps").glob("[a-z]*.py")), ids=lambda file: file.stem
)
def test_a_sweep_of_the_package_finds_its_recipe_in_any_directory(file, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert recipes.load(sweep.load_sweep(f"sweeps/{file.stem}").config)


def test_the_status_of_every_run_is_read_from_its_directory(tmp_path, capsys):
  swept = small_sweep(seeds=(0, 1, 2))
  file, out = sweep_file(tmp_path, seeds=swept.seeds), tmp_path / "out"
  write_runs(out, swept, {("plain", 0): [1]})
  training, examined, failed, done = (
    out / "rows" / name for name in ("other/seed_0", "plain/seed_1", "other/seed_1", "plain/seed_2")
  )
  for folder, name, content in (
    (training / "round_00/0_demonstrate", "manifest.json", "{}"),
    (training / "round_00/2_train", "metrics.jsonl", '{"step": 10}\n{"step": 20}\n{"st'),
    (examined / "final/test", "partial.jsonl", "{}\n{}\n"),
    (failed / "round_00/0_demonstrate", "rationales.jsonl", "{}\n"),
    (done / "round_00/0_demonstrate", "manifest.json", "{}"),
  ):
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
  log = failed.with_name("seed_1.log")
  log.write_text("$ python\ndistill-jax: no credit\n")
  os.utime(examined / "final/test/partial.jsonl", (time.time() - 3700, time.time() - 3700))
  before = sorted(out.rglob("*"))

  def shown() -> list[str]:
    assert commands.main(["ablate", f"--config={file}", f"--workdir={out}", "--status"]) == 0
    return capsys.readouterr().out.splitlines()

  lines = shown()
  assert re.fullmatch(r"plain  seed 0  finished  0:00", lines[0])
  assert re.fullmatch(
    r"other  seed 0  round 0 of 0 train  step 20  last output 0:\d\d ago", lines[1]
  )
  assert re.fullmatch(
    r"plain  seed 1  final test  2 completions stored  last output 1:01:\d\d ago", lines[2]
  )
  assert lines[3] == "other  seed 1  stopped  distill-jax: no credit"
  assert lines[4].startswith("plain  seed 2  round 0 of 0 demonstrate  done  last output")
  assert lines[5:] == ["other  seed 2  not started", "1 of 6 runs finished"]
  assert sorted(out.rglob("*")) == before
  later = time.time() + 5  # the run was started again elsewhere
  os.utime(failed / "round_00/0_demonstrate/rationales.jsonl", (later, later))
  assert "round 0 of 0 demonstrate  last output" in shown()[3]


def test_a_run_of_a_sweep_is_no_part_of_a_run_on_many_hosts(tmp_path, monkeypatch):
  monkeypatch.setenv("DISTILL_JAX_PROCESSES", "4")
  monkeypatch.setenv("DISTILL_JAX_PROCESS", "1")
  monkeypatch.setenv("DISTILL_JAX_COORDINATOR", "host:1")
  body = "import os; print([n for n in os.environ if n.startswith('DISTILL_JAX')]); sys.exit(4)"
  fake_runs(monkeypatch, body)
  run.run_sweep(sweep_file(tmp_path, seeds=(0,)), str(tmp_path / "out"), jobs=1)
  for name in ("plain", "other"):
    assert (tmp_path / "out" / "rows" / name / "seed_0.log").read_text().endswith("\n[]\n")


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


def test_an_interruption_lets_the_runs_save_and_interrupts_each_once(tmp_path, monkeypatch):
  saving = "signals.append(1), (run_dir / 'signals').write_text(str(len(signals)))"
  fake_runs(
    monkeypatch,
    "import os, signal; signals = []; run_dir.mkdir(parents=True)\n"
    f"signal.signal(signal.SIGTERM, lambda *_: ({saving}))\n"
    "signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))\n"
    "(run_dir / 'ready').write_text(str(os.getsid(0) == os.getpid()))\n"
    "while not signals: time.sleep(0.01)\n"
    "time.sleep(4)\n"
    "(run_dir / 'saved').touch(); sys.exit(75)",
  )
  swept = sweep.plan_runs(small_sweep(), tmp_path / "out")[0].run_dir

  def interrupt() -> None:
    while not (swept / "ready").exists():
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

  threading.Thread(target=interrupt, daemon=True).start()
  with pytest.raises(KeyboardInterrupt):
    run.run_sweep(sweep_file(tmp_path), str(tmp_path / "out"), jobs=1)
  assert (swept / "saved").exists() and (swept / "signals").read_text() == "1"
  assert (swept / "ready").read_text() == "True"  # the terminal's Ctrl-C does not reach its session


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


def end(process, signal_number, workdir):
  """Interrupts a sweep, or kills it and its runs, which have sessions of their own."""
  os.killpg(process.pid, signal_number)
  if signal_number == signal.SIGKILL:
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
      with contextlib.suppress(OSError):
        if str(workdir).encode() in file.read_bytes():
          os.kill(int(file.parent.name), signal.SIGKILL)


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
    end(process, signal_number, workdir)
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
