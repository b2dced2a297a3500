"""A client that is killed has lost what was in flight, and nothing that it had."""

import json
import pathlib
import sqlite3
import subprocess
import sys
import time

from scripted import ask, wanted

ROOT = pathlib.Path(__file__).parents[2]
CLIENT = """
import sys
sys.path[:0] = ["tests/teacher", "."]
import scripted
from distill_jax.teacher import client
made = client.Client(base_url=sys.argv[1], cache_path=sys.argv[2], **scripted.TERMS)
scripted.ask(made, scripted.wanted(200, samples=2))
"""


def stored(path) -> int:
  if not path.exists():
    return 0
  db = sqlite3.connect(path, timeout=5)
  try:
    return db.execute("select count(*) from replies").fetchone()[0]
  except sqlite3.OperationalError:  # not made yet
    return 0
  finally:
    db.close()


def logged(path) -> list[tuple]:
  lines = path.read_text().splitlines() if path.exists() else []
  rows = map(json.loads, lines)
  return [(row["messages"][-1][1], row["seed"] + k) for row in rows for k in range(row["replies"])]


def test_a_killed_client_pays_for_no_stored_reply_again(serve, connect, tmp_path):
  log, path = tmp_path / "server.jsonl", tmp_path / "teacher.sqlite"
  server = serve(latency=0.02, log=str(log))
  words = [sys.executable, "-c", CLIENT, server.url, str(path)]
  for goal in (40, 120):
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE)
    while stored(path) < goal:
      assert process.poll() is None, process.stderr.read().decode()[-2000:]
      time.sleep(0.005)
    process.kill()
    process.communicate()
  kept = stored(path)
  before = len(logged(log))
  teacher = connect(server.url)
  replies = ask(teacher, wanted(200, samples=2))
  assert goal <= kept and len(logged(log)) - before == 400 - kept  # only what was not stored
  assert len(logged(log)) <= 400 + 2 * 4 * 2  # two kills, four workers, two samples each
  totals = teacher.ledger.of(0)
  undisturbed = connect(server.url, cache_path=str(tmp_path / "other.sqlite"))
  assert ask(undisturbed, wanted(200, samples=2)) == replies
  assert undisturbed.ledger.of(0).__dict__ | {"retries": 0} == totals.__dict__ | {"retries": 0}
