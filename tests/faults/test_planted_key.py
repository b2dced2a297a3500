"""A planted API key appears in nothing that a full run leaves behind.

Every phase crashes once, every logger logs everything, and every command runs on the results.

bash launch/test.sh -m heavy tests/faults/test_planted_key.py
"""

import base64
import pathlib
import sqlite3
import subprocess
import sys
import urllib.parse

import pytest

from distill_jax.cli import main as commands
from tests.faults import test_kill

KEY = "sk-planted-0123456789abcdef/+=XyZ"
DRIVER = """
import logging, sys, traceback
logging.basicConfig(level=logging.DEBUG, filename=sys.argv[1])
from distill_jax.cli import main
from distill_jax.run_dir import phase_dir

finish, crashed = phase_dir.PhaseDir.finish, []

def crash(directory, facts):
  if directory.path not in crashed:
    crashed.append(directory.path)
    raise RuntimeError("planted")
  finish(directory, facts)

phase_dir.PhaseDir.finish = crash
while True:
  try:
    code = main.main(sys.argv[2:])
    break
  except RuntimeError as error:
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    print("".join(captured.format()), file=sys.stderr)
print("crashed in", *(path.name for path in crashed))
sys.exit(code)
"""
teacher = test_kill.teacher  # in its own process


def spellings() -> list[bytes]:
  """The key, its end, and its encodings."""
  key = KEY.encode()
  base64s = [base64.b64encode(b" " * n + key)[4:-4] for n in range(3)]
  quoted = urllib.parse.quote(KEY, safe="").encode()
  return [key, key[-12:], key.hex().encode(), KEY.encode("utf-16-le"), quoted, *base64s]


def files_with_key(directory) -> list[str]:
  """Files that contain the key: in their bytes, or in a row of a database."""
  files = []
  for file in sorted(f for f in pathlib.Path(directory).rglob("*") if f.is_file()):
    content = file.read_bytes()
    if content.startswith(b"SQLite format 3"):
      database = sqlite3.connect(file)
      database.text_factory = bytes
      for (table,) in database.execute("select name from sqlite_master where type = 'table'"):
        rows = database.execute(f"select * from {table.decode()}").fetchall()
        content += b"\n".join(cell for row in rows for cell in row if isinstance(cell, bytes))
      database.close()
    if any(spelling in content or spelling in str(file).encode() for spelling in spellings()):
      files.append(str(file))
  return files


def test_the_search_finds_every_spelling(tmp_path):
  assert files_with_key(tmp_path) == []
  for number, spelling in enumerate(spellings()):
    (tmp_path / f"{number}").write_bytes(b"\x00" + spelling + b"\xff")
  database = sqlite3.connect(tmp_path / "rows")
  database.execute("create table t(x)")
  database.execute("insert into t values (?)", ("." * 4050 + KEY,))  # across two pages
  database.commit()
  database.close()
  assert len(files_with_key(tmp_path)) == len(spellings()) + 1


@pytest.mark.heavy
def test_a_planted_key_is_in_no_artifact_of_a_full_run(tmp_path, teacher):
  home, run = tmp_path / "home", tmp_path / "run"
  home.mkdir()
  env = test_kill.environment(tmp_path) | {
    "OPENAI_API_KEY": KEY, "HOME": str(home), "OPENAI_LOG": "debug", "TMPDIR": str(home),
    "PYTHONASYNCIODEBUG": "1", "HF_HUB_OFFLINE": "1",
  }  # fmt: skip

  def run_command(name, *words, driver=(), code=0):
    with open(tmp_path / f"{name}.out", "w") as out, open(tmp_path / f"{name}.err", "w") as err:
      start = driver or ("-m", "distill_jax")
      done = subprocess.run(
        [sys.executable, *start, *words], cwd=test_kill.ROOT, env=env, stdout=out, stderr=err
      )
    output = (tmp_path / f"{name}.out").read_text() + (tmp_path / f"{name}.err").read_text()
    assert done.returncode == code, output[-3000:]
    return output

  words = test_kill.command(run, teacher)[3:] + ["--config.rounds=1"]
  output = run_command("run", *words, driver=("-c", DRIVER, str(tmp_path / "debug.log")))
  assert "crashed in 0_demonstrate 1_exam 2_train 3_evaluate 0_exam 1_feedback" in output
  assert output.count("RuntimeError: planted") >= 9  # two rounds and two tests
  log = (tmp_path / "debug.log").read_text()
  assert "DEBUG" in log and len(log) > 1000
  commands_run = {"run"}
  workdir = (f"--workdir={run}",)
  for name, *more in (
    ("evaluate", *workdir),
    ("sample", *workdir, "--question=What is 3 + 4?"),
    ("export", *workdir, f"--out={tmp_path / 'exported'}"),
    (
      "doctor",
      *workdir,
      "--config=configs/quickstart.py",
      "--config.teacher.kind=openai",
      f"--config.teacher.base_url={teacher}",
    ),
    ("ablate", "--print", "--config=configs/sweeps/tailored.py", f"--workdir={tmp_path / 'sweep'}"),
    ("teacher", "cache", "export", *workdir, f"--out={tmp_path / 'replies.jsonl'}"),
    ("show", *workdir, "--phase=exam"),
    ("report", *workdir),
    ("data", "export", *workdir, f"--out={tmp_path / 'data'}"),
  ):
    run_command(name, name, *more)
    commands_run.add(name)
  # Add new commands above. A server of a student has no teacher, and runs until it is stopped.
  assert commands_run == set(commands.COMMANDS) - {"serve"}
  vendor = ("--config.teacher.kind=openai", "--config.teacher.base_url=https://127.0.0.1:9/v1")
  mistaken = (f"--config.teacher.key_env={KEY}", f"--workdir={tmp_path / 'mistaken'}")
  run_command("mistaken", "run", "--config=configs/quickstart.py", *vendor, *mistaken, code=3)
  assert files_with_key(tmp_path) == []
